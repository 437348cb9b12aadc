"""Why a VM is where it is, and what would be done."""

import dataclasses
from typing import Any

import pytest
from msgspec.structs import replace

from idl.host import Diagnostics, OpenIntent, QueueDiagnostics, QueuedOperation, RunningMicroOp
from idl.task import Completed, ErrorObject, Failed, Pending, Subtask, Task
from idl.vm import Attention, Difference, PowerState, Vm, VmRecord, VmState
from xenopsd.cli import story
from xenopsd.cli.story import Case, tell
from xenopsd.reconcile import TABLE, Verdict
from xenopsd.record import VmExtra

HALTED = VmRecord(
    id="web",
    config=Vm(id="web"),
    state=VmState(power_state=PowerState.HALTED, reason="shut down", observed_at=0.0),
)
RUNNING = VmRecord(
    id="web",
    config=Vm(id="web", auto_start=True),
    state=VmState(
        power_state=PowerState.RUNNING, domain_ids=["7"], incarnation="i", reason="started"
    ),
    pending={"vcpus": Difference(running=1, configured=2)},
)
RAN = VmExtra(power_state=PowerState.RUNNING, incarnation="i", settled=True)
START = ["vm_create", "vm_build", "vm_unpause"]


def nothing(**fields: Any) -> Diagnostics:
    given = {"queues": [], "journal": [], "quarantined": [], "versions": {}} | fields
    return Diagnostics(workers={}, tasks={}, updates={}, **given)


def starting(done: int, *, direction: str = "on", cancellable: bool = True, **queue: Any) -> Case:
    """A start that has done so many of its steps."""
    head = QueuedOperation(name="VM.start", task="t1", state="running", micro_ops=START[done:])
    line = QueueDiagnostics(
        vm="web",
        operations=[head, QueuedOperation(name="VM.reboot", task="t2", state="queued")],
        deadline=None,
        **{"state": "leased", "running": None} | queue,
    )
    intent = OpenIntent(
        vm="web",
        task="t1",
        operation="VM.start",
        direction=direction,
        done=done,
        intended=START[done],
        since=0.0,
    )
    task = Task(
        id="t1",
        vm="web",
        operation="VM.start",
        debug_info="",
        created=0.0,
        object="web",
        state=Pending(),
        cancellable=cancellable,
        subtasks=[Subtask(name=n, object="web", state="completed") for n in START[:done]],
    )
    return Case(
        record=HALTED,
        diagnostics=nothing(queues=[line], journal=[intent]),
        task=task,
        extra=VmExtra(),
    )


def told(case: Case) -> str:
    return " ".join(sentence for _, sentences in tell(case) for sentence in sentences)


def test_of_an_idle_vm_there_is_little_to_say():
    said = dict(tell(Case(record=HALTED, diagnostics=nothing(), extra=VmExtra())))
    assert said["Where it is"][0] == "web is halted. It was shut down."
    assert said["What goes on"] == ["Nothing goes on, and nothing waits."]
    assert said["What the journal says"] == ["No operation has begun and not ended."]
    assert "do nothing, since it is sensible" in said["What would be done"][0]


def test_of_a_running_vm_what_a_restart_would_do_is_told():
    said = told(Case(record=RUNNING, diagnostics=nothing(), extra=RAN))
    assert "vcpus is 1 now and 2 from its next start on." in said
    assert "its next start would do nothing" in said
    assert "domain were gone by then as well, it would remove whatever is left" in said
    assert "(the host restarted). Then it would be started (auto_start)." in said


def test_an_unknown_reason_is_given_as_it_is():
    record = replace(HALTED, state=replace(HALTED.state, reason="VM.start failed: no memory"))
    assert "happened to it: VM.start failed: no memory." in told(
        Case(record=record, diagnostics=nothing(), extra=VmExtra())
    )


def test_why_the_last_operation_failed_is_told():
    error = ErrorObject(code=1, message="Storage (lxc) failed: there is none.")
    last = Task(
        id="t1",
        vm="web",
        operation="VM.start",
        debug_info="",
        created=0.0,
        object="web",
        state=Failed(duration=0.1, error=error),
    )
    case = Case(record=HALTED, diagnostics=nothing(), extra=VmExtra(), last=last)
    expected = "VM.start at 1970-01-01 00:00:00Z, failed: Storage (lxc) failed: there is none."
    assert expected in told(case)
    well = replace(last, state=Completed(duration=0.1))
    assert "was asked of it" not in told(dataclasses.replace(case, last=well))


def test_an_operation_under_way_is_told_with_what_waits_behind_it():
    held = RunningMicroOp(name="vm_build", object="web", holder="worker-1", age=2.0, deadline=8.0)
    said = told(starting(1, running=held))
    assert "vm_build of web is with worker-1 for 2.0 s; it may take 8.0 s more." in said
    assert "Still to come: vm_build, vm_unpause." in said
    assert "Behind it wait: VM.reboot (task t2)." in said
    assert "VM.start (task t1) began at 1970-01-01 00:00:00Z and has not ended." in said
    assert "1 step is done. vm_build was about to be done" in said


@pytest.mark.parametrize(
    ("case", "words"),
    [
        pytest.param(starting(0), "(its operation can be carried on)", id="nothing done"),
        pytest.param(starting(1), "(its operation can be carried on)", id="in its domain"),
        pytest.param(starting(1, direction="back"), "(its operation was being undone", id="back"),
        pytest.param(
            starting(1, cancellable=False), "(its operation can only be carried on)", id="final"
        ),
    ],
)
def test_what_would_be_done_is_the_row_of_the_table(case: Case, words: str):
    first = dict(tell(case))["What would be done"][0]
    assert words in first


def test_an_operation_that_has_lost_its_domain_would_be_turned_back():
    prospects = dict(tell(starting(1)))["What would be done"]
    assert "If its domain were gone by then as well, it would undo" in prospects[1]
    assert "If the host restarted now, it would undo" in prospects[2]


@pytest.mark.parametrize(
    ("queue", "sentence"),
    [
        pytest.param({"state": "ready"}, "It waits for a free worker", id="ready"),
        pytest.param({"state": "leased"}, "A worker has it.", id="leased"),
        pytest.param({"state": "parked"}, "It waits for vm_build to end", id="parked"),
        pytest.param({"state": "blocked"}, "a call that was given up", id="blocked"),
        pytest.param(
            {
                "running": RunningMicroOp(
                    name="vm_build", object="web", holder="w", age=20.0, deadline=-5.0
                )
            },
            "5.0 s longer than it may",
            id="late",
        ),
        pytest.param(
            {
                "running": RunningMicroOp(
                    name="vm_build",
                    object="web",
                    holder="w",
                    age=20.0,
                    deadline=None,
                    written_off=True,
                )
            },
            "only a hard shutdown is possible",
            id="written off",
        ),
    ],
)
def test_where_the_head_of_a_queue_is(queue: dict[str, Any], sentence: str):
    assert sentence in told(starting(1, **queue))


def test_in_doubt_nothing_would_be_done():
    state = replace(HALTED.state, attention=Attention(reason="who is that", since=0.0))
    case = Case(record=replace(HALTED, state=state), diagnostics=nothing(), extra=VmExtra())
    said = dict(tell(case))["What would be done"]
    assert said == ["Now: touch nothing and ask you. What settles it stands below."]
    assert case.concern is not None


def test_of_a_damaged_record_nothing_else_is_told():
    state = replace(HALTED.state, attention=Attention(reason="torn", since=0.0))
    case = Case(record=replace(HALTED, config=None, state=state), diagnostics=nothing())
    assert "Its record cannot be read (torn)" in told(case)


def test_the_table_is_printed_whole_and_every_verdict_has_words():
    assert [words for _, words, _ in story.table()] == [words for _, _, words in TABLE]
    assert set(story.VERDICTS) == set(Verdict)


def test_a_record_of_a_newer_daemon_is_none():
    assert story.recorded({"power_state": "elsewhere"}) is None
    assert story.recorded(None) is None
    assert story.recorded({"reason": "started"}) == VmExtra(reason="started")
