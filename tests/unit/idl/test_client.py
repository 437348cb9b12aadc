"""The client against a daemon of a few lines: values, errors, threads, deadlines."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from idl.client import (
    AnswerTimeout,
    Client,
    ClientClosed,
    ConnectionFailed,
    OutcomeUnknown,
    View,
)
from idl.errors import (
    BadPowerState,
    DeadlineExceeded,
    DoesNotExist,
    MethodNotFound,
    PermissionDenied,
)
from idl.task import Completed, Failed, Pending, Task
from idl.update import Update
from idl.vm import PowerState, Vm, VmRecord, VmState

DEADLINE = 10.0

RECORD = VmRecord(id="a", config=Vm(id="a"), state=VmState(power_state=PowerState.RUNNING))


def task(state: Any) -> Task:
    return Task(
        id="t", vm="a", operation="VM.start", debug_info="", created=0.0, object="a", state=state
    )


_PLAIN = {
    "vm": "a",
    "operation": "VM.start",
    "debug_info": "",
    "created": 0.0,
    "object": "a",
    "state": {"type": "pending", "progress": 0.5},
}


@pytest.fixture
def client(daemon):
    with Client(daemon.path, timeout=DEADLINE) as made:
        yield made


def test_results_are_typed(daemon, client):
    daemon.answers["VM.list"] = [RECORD]
    assert client.vm.list() == [RECORD]


def test_what_is_left_at_its_default_is_not_sent(daemon, client):
    daemon.answers["VM.start"] = "t"
    assert client.vm.start("a", task="t") == "t"
    assert client.vm.start("a", True, task="t") == "t"
    assert daemon.seen == [
        ("VM.start", {"id": "a", "task": "t"}),
        ("VM.start", {"id": "a", "paused": True, "task": "t"}),
    ]


def test_an_operation_gets_a_task_id_of_its_own(daemon, client):
    daemon.answers["VM.start"] = lambda params: params["task"]
    made = [client.vm.start("a"), client.vm.start("a"), client.call("VM.start", id="a")]
    assert daemon.tasks == made
    assert len(set(made)) == 3


def test_a_required_null_is_sent(daemon, client):
    daemon.answers["VIF.set_rate"] = "t"
    client.vif.set_rate("a/eth0", None, task="t")
    assert daemon.seen == [("VIF.set_rate", {"id": "a/eth0", "rate": None, "task": "t"})]


def test_lists_are_sent_as_lists(daemon, client):
    daemon.answers["DEBUG.trigger"] = None
    client.debug.trigger("crash", ("a",))
    assert daemon.seen == [("DEBUG.trigger", {"cmd": "crash", "args": ["a"]})]


def test_a_raw_call_answers_plain_values(daemon, client):
    daemon.answers["FUTURE.call"] = {"a": [1, None]}
    assert client.call("FUTURE.call", x=1) == {"a": [1, None]}
    assert daemon.seen == [("FUTURE.call", {"x": 1})]


def test_a_subscription_is_refused_on_the_shared_connection(client):
    with pytest.raises(ValueError, match="subscribe"):
        client.call("UPDATES.subscribe")


def test_an_error_is_raised_as_its_class_with_its_facts(daemon, client):
    daemon.answers["VM.stat"] = DoesNotExist(kind="VM", id="a")
    with pytest.raises(DoesNotExist) as raised:
        client.vm.stat("a")
    assert (raised.value.kind, raised.value.id) == ("VM", "a")


def test_the_connection_survives_an_error(daemon, client):
    with pytest.raises(MethodNotFound):
        client.call("NO.such")
    daemon.answers["VM.exists"] = True
    assert client.vm.exists("a") is True
    assert len(daemon.connections) == 1


def test_an_answer_of_another_shape_is_told_as_such(daemon, client):
    daemon.answers["VM.list"] = {"not": "a list"}
    with pytest.raises(ConnectionFailed, match=r"VM\.list is not understood"):
        client.vm.list()


GARBAGE = {
    "no text": b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"\xff","data":{}}}\n',
    "no text in the result": b'{"jsonrpc":"2.0","id":1,"result":["\xff"]}\n',
    "bottomless": b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * 100_000 + b"\n",
    "no result": b'{"jsonrpc":"2.0","id":1}\n',
}


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("ask", ["typed", "plain", "subscribe"])
def test_what_cannot_be_read_is_told_as_such(daemon, garbage: str, ask: str):
    def babble(params: Any) -> Any:
        for connection in daemon.connections:
            connection.sendall(GARBAGE[garbage])
        return daemon.over.wait(DEADLINE)

    daemon.answers["VM.list"] = daemon.answers["UPDATES.subscribe"] = babble
    calls: dict[str, Any] = {
        "typed": lambda client: client.vm.list(),
        "plain": lambda client: client.call("VM.list"),
        "subscribe": lambda client: client.subscribe(),
    }
    with (
        Client(daemon.path, timeout=DEADLINE, reconnect=0.0) as client,
        pytest.raises(ConnectionFailed, match=r"not understood|does not speak"),
    ):
        calls[ask](client)


def test_an_update_that_cannot_be_read_is_told_as_such(daemon, client):
    daemon.answers["UPDATES.subscribe"] = "token"
    with client.subscribe() as subscription:
        for connection in daemon.connections:
            connection.sendall(b'{"jsonrpc":"2.0","method":"updates","params":{"next":3}}\n')
        with pytest.raises(ConnectionFailed, match="updates is not understood"):
            next(subscription)


@pytest.mark.parametrize("listening", [False, True], ids=["no socket", "a socket left behind"])
def test_no_daemon_is_a_connection_failure_with_the_path(daemon, listening: bool):
    path = daemon.path if listening else Path("/nonexistent/x.sock")
    daemon.stop()
    with pytest.raises(ConnectionFailed, match="start xenopsd") as raised:
        Client(path, timeout=1).vm.list()
    assert str(path) in str(raised.value)
    assert isinstance(raised.value, OSError)
    daemon.start()


def test_a_restarted_daemon_is_found_again(daemon, client):
    daemon.answers["VM.exists"] = True
    assert client.vm.exists("a")
    daemon.stop()
    daemon.start()
    assert client.vm.exists("a")


def cut_once(daemon, answer: Any) -> Any:
    """Hangs up at the first call, and answers those after it."""
    calls = itertools.count()
    return lambda params: answer if next(calls) else daemon.hang_up()


def test_a_read_whose_connection_breaks_is_asked_again(daemon, client):
    daemon.answers["VM.exists"] = cut_once(daemon, True)
    assert client.vm.exists("a") is True
    assert daemon.methods() == ["VM.exists"] * 2


def test_an_operation_whose_connection_breaks_is_sent_again_as_the_same_task(daemon, client):
    daemon.answers["VM.start"] = cut_once(daemon, "t")
    assert client.vm.start("a") == "t"
    assert daemon.seen == [("VM.start", {"id": "a"})] * 2
    first, second = daemon.tasks
    assert first == second


def test_any_other_call_whose_connection_breaks_is_not_repeated(daemon, client):
    daemon.answers["VM.add"] = lambda params: daemon.hang_up()
    with pytest.raises(OutcomeUnknown, match=r"VM\.add may have been carried out"):
        client.vm.add(Vm(id="a"))
    assert daemon.methods() == ["VM.add"]


def test_a_call_waits_for_a_daemon_that_is_away(daemon, client):
    daemon.answers["VM.exists"] = True
    daemon.answers["VM.add"] = "a"
    assert client.vm.exists("a")
    daemon.stop()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.vm.add, Vm(id="a"))
        daemon.start()
        assert waiting.result(DEADLINE) == "a"
    assert daemon.methods() == ["VM.exists", "VM.add"]


def test_a_daemon_that_stays_away_is_told_after_a_while(daemon):
    daemon.answers["VM.start"] = lambda params: daemon.stop()
    daemon.answers["VM.exists"] = True
    with Client(daemon.path, timeout=DEADLINE, reconnect=0.05) as client:
        assert client.vm.exists("a")
        with pytest.raises(OutcomeUnknown, match="may have been accepted") as raised:
            client.vm.start("a")
    assert raised.value.task == daemon.tasks[0]
    daemon.start()


def test_a_refused_connection_tells_the_daemons_reason(daemon, client):
    refusal = PermissionDenied(method="any call").error_object()

    def refuse(params: Any) -> None:
        daemon.say({"jsonrpc": "2.0", "id": None, "error": refusal})
        daemon.hang_up()

    daemon.answers["VM.list"] = refuse
    with pytest.raises(PermissionDenied):
        client.vm.list()


def test_answers_overtake_each_other(daemon, client):
    gate = threading.Event()
    daemon.answers["TASK.wait"] = lambda params: gate.wait(DEADLINE) and task(Pending())
    daemon.answers["VM.exists"] = True
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.task.wait, "t")
        daemon.wait_seen("TASK.wait")
        assert client.vm.exists("a")
        gate.set()
        assert waiting.result(DEADLINE).state == Pending()
    assert len(daemon.connections) == 1


def test_many_threads_get_each_their_own_answer(daemon, client):
    daemon.answers["TASK.stat"] = lambda params: {**_PLAIN, "id": params["id"]}
    names = [f"t{n}" for n in range(200)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: client.task.stat(name).id, names))
    assert found == names


def test_a_call_that_is_never_answered_ends_and_harms_no_other(daemon):
    gate = threading.Event()
    daemon.answers["VM.stat"] = lambda params: gate.wait(DEADLINE) and RECORD
    daemon.answers["VM.exists"] = True
    with Client(daemon.path, timeout=0.05) as client:
        with pytest.raises(AnswerTimeout):
            client.vm.stat("a")
        gate.set()
    with Client(daemon.path, timeout=DEADLINE) as client:
        assert client.vm.exists("a")


def test_another_thread_reads_on_when_the_readers_time_is_over(daemon):
    gate = threading.Event()
    daemon.answers["VM.exists"] = lambda params: gate.wait(DEADLINE)
    daemon.answers["TASK.wait"] = lambda params: gate.wait(DEADLINE) and task(Pending())
    with Client(daemon.path, timeout=0.2) as client, ThreadPoolExecutor(2) as pool:
        reader = pool.submit(client.vm.exists, "a")
        daemon.wait_seen("VM.exists")
        follower = pool.submit(client.task.wait, "t", 30.0)
        with pytest.raises(AnswerTimeout):
            reader.result(DEADLINE)
        gate.set()
        assert follower.result(DEADLINE) == task(Pending())


def test_close_wakes_who_waits(daemon, client):
    gate = threading.Event()
    daemon.answers["TASK.wait"] = lambda params: gate.wait(DEADLINE)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.task.wait, "t")
        daemon.wait_seen("TASK.wait")
        client.close()
        with pytest.raises(ClientClosed):
            waiting.result(DEADLINE)
    gate.set()


def test_run_waits_until_the_task_has_ended(daemon, client):
    states = iter([Pending(), Pending(progress=0.5), Completed(duration=1.0, result="r")])
    daemon.answers["TASK.wait"] = lambda params: task(next(states))
    assert client.run("t").state == Completed(duration=1.0, result="r")
    assert daemon.methods() == ["TASK.wait"] * 3


def test_run_tells_of_progress(daemon, client):
    states = [Pending(), Pending(), Pending(progress=0.5), Completed(duration=1.0)]
    coming = iter(states)
    daemon.answers["TASK.wait"] = lambda params: task(next(coming))
    seen: list[Task] = []
    client.run("t", progress=seen.append)
    assert [found.state for found in seen] == [states[0], *states[2:]]
    assert daemon.seen[0] == ("TASK.wait", {"id": "t", "timeout": 0.0})


def test_run_goes_on_over_a_restart(daemon, client):
    daemon.answers["TASK.wait"] = cut_once(daemon, task(Completed(duration=1.0)))
    assert client.run("t").ended


def test_run_raises_the_tasks_error(daemon, client):
    error = BadPowerState(id="a", actual="running", expected=["halted"])
    daemon.answers["TASK.wait"] = task(Failed(duration=0.1, error=error.error_object()))
    with pytest.raises(BadPowerState, match="VM a is running"):
        client.run("t")


def test_run_gives_up_at_its_deadline(daemon):
    ticks = itertools.count()
    daemon.answers["TASK.wait"] = task(Pending())
    with (
        Client(daemon.path, clock=lambda: float(next(ticks))) as client,
        pytest.raises(DeadlineExceeded, match=r"VM\.start"),
    ):
        client.run("t", timeout=20)


def batch(*names: str, next: str = "", resync: bool = False) -> dict[str, Any]:
    updates = [{"type": "vm", "id": name} for name in names]
    return {"updates": updates, "barriers": [], "next": next or names[0], "resync": resync}


def test_a_subscription_yields_batches_until_it_is_closed(daemon, client):
    daemon.answers["UPDATES.subscribe"] = "token"
    with client.subscribe("since") as subscription:
        assert subscription.token == "token"
        for name in ("a", "b"):
            daemon.say({"jsonrpc": "2.0", "method": "updates", "params": batch(name)})
        first, second = next(subscription), next(subscription)
        assert (first.updates, second.next) == ([Update(type="vm", id="a")], "b")
        subscription.close()
        assert list(subscription) == []
    assert daemon.seen == [("UPDATES.subscribe", {"since": "since"})]


def test_a_subscription_tells_that_the_daemon_went_away(daemon, client):
    daemon.answers["UPDATES.subscribe"] = "token"
    with client.subscribe() as subscription:
        daemon.hang_up()
        with pytest.raises(ConnectionFailed):
            next(subscription)


def test_a_subscription_tells_of_silence(daemon, client):
    daemon.answers["UPDATES.subscribe"] = "token"
    with client.subscribe(silence=0.01) as subscription, pytest.raises(AnswerTimeout):
        next(subscription)


def test_a_refused_subscription_raises(daemon, client):
    daemon.answers["UPDATES.subscribe"] = PermissionDenied(method="UPDATES.subscribe")
    with pytest.raises(PermissionDenied):
        client.subscribe()


def updates_of(daemon, answers: dict[str | None, Any]) -> None:
    """UPDATES.get answers by token; a function is called, an unknown token waits for the end."""

    def get(params: dict[str, Any]) -> Any:
        answer = answers.get(params.get("since"))
        if answer is None:
            daemon.over.wait(DEADLINE)
        return answer(params) if callable(answer) else answer

    daemon.answers["UPDATES.get"] = get


def test_a_follower_is_told_of_everything_over_a_restart(daemon, client):
    again = cut_once(daemon, batch("b", "c", next="2", resync=True))
    updates_of(daemon, {None: batch("a", "b", next="1"), "1": again})
    told = list(itertools.islice(client.updates.follow(), 5))
    assert told == [
        Update(type="vm", id="a"),
        Update(type="vm", id="b"),
        Update(type="vm", id="a", removed=True),
        Update(type="vm", id="b"),
        Update(type="vm", id="c"),
    ]


def test_a_follower_begins_at_a_token(daemon, client):
    updates_of(daemon, {"1": batch("a", next="2")})
    assert next(client.updates.follow("1")) == Update(type="vm", id="a")


def test_a_follower_ends_when_the_client_is_closed(daemon, client):
    updates_of(daemon, {None: batch("a", next="1")})
    follower = client.updates.follow()
    assert next(follower) == Update(type="vm", id="a")
    with ThreadPoolExecutor(1) as pool:
        rest = pool.submit(list, follower)
        daemon.wait_seen("UPDATES.get", 2)
        client.close()
        assert rest.result(DEADLINE) == []


def test_a_follower_that_waits_for_the_daemon_ends_when_the_client_is_closed(daemon, client):
    updates_of(daemon, {None: batch("a", next="1")})
    follower = client.updates.follow()
    assert next(follower) == Update(type="vm", id="a")
    daemon.stop()
    with ThreadPoolExecutor(1) as pool:
        rest = pool.submit(list, follower)
        client.close()
        assert rest.result(DEADLINE) == []
    daemon.start()


def test_a_follower_says_that_there_was_never_a_daemon(daemon):
    with (
        Client("/nonexistent/x.sock") as client,
        pytest.raises(ConnectionFailed, match="start xenopsd"),
    ):
        next(client.updates.follow())


def test_a_view_has_the_record_before_its_update_is_told(daemon, client):
    daemon.answers["VM.stat"] = lambda params: (
        RECORD if params["id"] == "a" else DoesNotExist(kind="VM", id="b")
    )
    updates_of(daemon, {None: batch("a", "b", next="1"), "1": batch("c", next="2", resync=True)})
    view = View()
    follower = client.updates.follow(view=view)
    assert next(follower) == Update(type="vm", id="a")
    assert view.vms == {"a": RECORD}
    assert next(follower) == Update(type="vm", id="b", removed=True)
    assert view.token is None, "the batch is told again to who leaves here"
    assert next(follower) == Update(type="vm", id="a", removed=True)
    assert (view.vms, view.token) == ({}, "1")


def test_a_view_is_followed_from_where_it_stands(daemon, client):
    view = View()
    view.put(Update(type="vm", id="a"), RECORD)
    view.token = "1"
    updates_of(daemon, {"1": batch("b", next="2", resync=True)})
    follower = client.updates.follow(view=view)
    assert next(follower) == Update(type="vm", id="a", removed=True)
    with pytest.raises(ValueError, match="token of its own"):
        client.updates.follow("1", view=view)
