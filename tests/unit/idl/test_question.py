"""What may be sent again, how long is waited, and what is told at the end."""

from math import inf
from pathlib import Path
from typing import Any

import pytest

from idl.calls import VmAdd, VmStart
from idl.errors import Cancelled, DeadlineExceeded
from idl.link import AnswerTimeout, ClientClosed, ConnectionFailed, OutcomeUnknown
from idl.question import LATE, MARGIN, SOON, Course, given, outcome, question, window
from idl.task import Completed, Failed, Pending, Task
from idl.vm import Vm

PATH = Path("/run/x.sock")
BROKEN = ConnectionFailed(PATH, "it closed the connection")
SLOW = AnswerTimeout(PATH, "it does not answer in time")


def course(method: str, **params: Any) -> Course:
    return Course(question(method, params, 60.0), now=0.0)


@pytest.mark.parametrize(
    ("method", "repeatable"),
    [
        pytest.param("VM.stat", True, id="a read"),
        pytest.param("HOST.get_diagnostics", True, id="a private read"),
        pytest.param("VM.start", True, id="an operation"),
        pytest.param("VM.add", False, id="a call that is awaited"),
        pytest.param("TASK.destroy", False, id="a change"),
        pytest.param("DEBUG.trigger", False, id="a debug call"),
        pytest.param("FUTURE.call", False, id="a call that is not known"),
    ],
)
def test_what_may_be_sent_again(method: str, repeatable: bool):
    assert question(method, {}, 60.0).repeatable is repeatable


def test_an_operation_alone_gets_a_task_id():
    chosen = question("VM.start", {"id": "a"}, 60.0)
    assert chosen.params == {"id": "a", "task": chosen.task}
    assert question("VM.start", {"task": "t"}, 60.0).task == "t"
    assert question("VM.add", {}, 60.0).params == {}


@pytest.mark.parametrize(
    ("method", "params", "patience"),
    [
        pytest.param("VM.stat", {}, 60.0, id="a read"),
        pytest.param("TASK.wait", {}, 30.0 + MARGIN, id="a wait of the default"),
        pytest.param("TASK.wait", {"timeout": 5}, 5 + MARGIN, id="a wait as asked"),
        pytest.param("VM.shutdown", {"timeout": 600.0}, 60.0, id="a timeout of the operation"),
        pytest.param("FUTURE.call", {"timeout": 600.0}, 60.0, id="a call that is not known"),
    ],
)
def test_how_long_an_answer_is_waited_for(method: str, params: dict[str, Any], patience: float):
    assert course(method, **params).attempt(0.0)[1] == patience


def test_what_was_waited_is_not_waited_again():
    on_its_way = course("TASK.wait", id="t", timeout=30.0)
    assert on_its_way.attempt(0.0) == ({"id": "t", "timeout": 30.0}, 30.0 + MARGIN)
    on_its_way.cut(BROKEN, 20.0, window=30.0, sent=True)
    assert on_its_way.attempt(25.0) == ({"id": "t", "timeout": 5.0}, 30.0 + MARGIN)
    assert on_its_way.attempt(45.0) == ({"id": "t", "timeout": 0.0}, 45.0 + MARGIN)


def test_pauses_grow_up_to_a_limit_and_never_past_the_window():
    on_its_way = course("VM.stat")
    pauses = [on_its_way.cut(BROKEN, 0.0, window=inf, sent=True) for _ in range(9)]
    assert pauses[:3] == [SOON, 2 * SOON, 4 * SOON]
    assert pauses[-1] == LATE
    assert on_its_way.cut(BROKEN, 9.75, window=10.0, sent=False) == 0.25


def test_a_daemon_that_stays_away_past_the_window_is_told():
    on_its_way = course("VM.stat")
    on_its_way.cut(BROKEN, 0.0, window=10.0, sent=True)
    with pytest.raises(ConnectionFailed) as raised:
        on_its_way.cut(BROKEN, 10.0, window=10.0, sent=False)
    assert raised.value is BROKEN


@pytest.mark.parametrize("window", [0.0, 30.0, inf])
def test_a_call_that_changes_something_is_never_sent_again(window: float):
    with pytest.raises(OutcomeUnknown, match=r"VM\.add may have been carried out") as raised:
        course("VM.add").cut(BROKEN, 0.0, window, sent=True)
    assert raised.value.task is None


def test_a_call_that_was_not_sent_may_be():
    assert course("VM.add").cut(BROKEN, 0.0, window=10.0, sent=False) == SOON


def test_an_operation_that_is_given_up_names_its_task():
    with pytest.raises(OutcomeUnknown, match="ask for task t, or call again with it") as raised:
        course("VM.start", task="t").cut(BROKEN, 0.0, window=0.0, sent=True)
    assert raised.value.task == "t"


def test_an_operation_that_was_never_sent_is_not_unknown():
    with pytest.raises(ConnectionFailed) as raised:
        course("VM.start", task="t").cut(BROKEN, 0.0, window=0.0, sent=False)
    assert raised.value is BROKEN


def test_an_answer_that_does_not_come_is_not_asked_for_again():
    with pytest.raises(AnswerTimeout, match="ask for task t") as raised:
        course("VM.start", task="t").cut(SLOW, 60.0, window=30.0, sent=True)
    assert raised.value.task == "t"


def test_who_follows_outlasts_a_daemon_that_does_not_answer():
    assert course("UPDATES.get").cut(SLOW, 40.0, window=inf, sent=True) == SOON


@pytest.mark.parametrize(
    ("method", "told"), [("VM.stat", ClientClosed), ("VM.start", OutcomeUnknown)]
)
def test_a_closed_client_asks_no_more(method: str, told: type[Exception]):
    with pytest.raises(told):
        course(method).cut(ClientClosed(PATH), 0.0, window=inf, sent=True)


def test_a_daemon_that_was_never_there_is_not_waited_for():
    assert window(30.0, reached=False, lasting=True) == 0.0
    assert window(30.0, reached=True, lasting=False) == 30.0
    assert window(30.0, reached=True, lasting=True) == inf


def task(state: Any) -> Task:
    return Task(
        id="t", vm="a", operation="VM.start", debug_info="", created=0.0, object="a", state=state
    )


def test_the_outcome_of_a_task():
    done = task(Completed(duration=1.0))
    assert outcome(done, left=-1.0, timeout=5.0) is done
    assert outcome(task(Pending()), left=1.0, timeout=5.0) is None
    with pytest.raises(DeadlineExceeded, match=r"VM\.start.* 5 s"):
        outcome(task(Pending()), left=0.0, timeout=5.0)
    error = Cancelled(task="t").error_object()
    with pytest.raises(Cancelled):
        outcome(task(Failed(duration=1.0, error=error)), left=1.0, timeout=5.0)


def test_what_is_at_its_default_is_left_out():
    assert given(VmStart(id="a", paused=False)) == {"id": "a"}
    assert given(VmAdd(vm=Vm(id="a"), timeout=1.0)) == {"vm": Vm(id="a"), "timeout": 1.0}


@pytest.mark.parametrize("timeout", [inf, -inf, float("nan")])
def test_a_number_that_json_has_not_is_refused_and_never_sent_as_null(timeout: float):
    with pytest.raises(ValueError, match=r"timeout: .* cannot be sent"):
        question("VM.shutdown", {"id": "a", "timeout": timeout}, 60.0)
