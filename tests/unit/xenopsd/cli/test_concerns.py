"""What needs an administrator."""

from idl.host import Diagnostics, Quarantined, QueueDiagnostics, RunningMicroOp
from idl.vm import Attention, PowerState, Vm, VmRecord, VmState
from xenopsd.cli.concerns import concerns


def vm(id: str, attention: str = "", *domains: str, damaged: bool = False) -> VmRecord:
    return VmRecord(
        id=id,
        config=None if damaged else Vm(id=id),
        state=VmState(
            power_state=PowerState.HALTED,
            domain_ids=list(domains),
            attention=Attention(reason=attention, since=5.0) if attention else None,
        ),
    )


def queue(vm: str, *, left: float | None = 1.0, written_off: bool = False) -> QueueDiagnostics:
    running = RunningMicroOp(
        name="vm_build",
        object=vm,
        holder="worker-1",
        age=20.0,
        deadline=left,
        written_off=written_off,
    )
    return QueueDiagnostics(vm=vm, state="leased", operations=[], running=running, deadline=None)


def diagnostics(*queues: QueueDiagnostics, quarantined: tuple[Quarantined, ...] = ()):
    return Diagnostics(
        queues=list(queues),
        workers={},
        tasks={},
        updates={},
        journal=[],
        quarantined=list(quarantined),
        versions={},
    )


def test_nothing_is_wrong():
    assert concerns([vm("web")], diagnostics(queue("web"))) == []


def test_a_doubtful_vm_can_be_stopped_destroyed_adopted_or_forgotten():
    (found,) = concerns([vm("web", "what is this")], diagnostics())
    assert (found.subject, found.why, found.since) == ("web", "what is this", 5.0)
    assert [remedy.command for remedy in found.remedies] == [
        "xenops shutdown web",
        "xenops destroy web",
        "xenops adopt web DOMAIN",
        "xenops forget web",
    ]


def test_a_damaged_record_can_be_repaired_or_forgotten():
    (found,) = concerns([vm("web", "torn", damaged=True)], diagnostics())
    assert [remedy.command for remedy in found.remedies] == [
        "xenops add FILE --replace",
        "xenops forget web",
    ]


def test_a_call_that_does_not_return_is_told():
    queues = (queue("late", left=-3.0), queue("lost", left=None, written_off=True), queue("good"))
    found = concerns([vm("late"), vm("lost"), vm("good")], diagnostics(*queues))
    assert [concern.subject for concern in found] == ["late", "lost"]
    assert found[0].why == "vm_build does not return (20 s by now)"
    assert [remedy.command for remedy in found[1].remedies] == ["xenops shutdown lost"]


def test_a_file_of_no_vm_is_told_and_one_of_a_vm_with_its_vm():
    quarantined = (
        Quarantined(vm=None, path="/state/tasks", reason="torn"),
        Quarantined(vm="web", path="/state/vm/web", reason="torn"),
    )
    (found,) = concerns([vm("web")], diagnostics(quarantined=quarantined))
    assert found.subject == "/state/tasks"


def test_a_domain_of_its_own_is_adopted_as_it_is():
    (found,) = concerns([vm("web", "what is this", "17")], diagnostics())
    assert [remedy.command for remedy in found.remedies] == [
        "xenops shutdown web",
        "xenops destroy web",
        "xenops adopt web 17",
        "xenops forget web",
    ]


def test_a_vm_of_two_instances_is_left_to_one():
    why = "the instance blue of this host claims it too"
    (found,) = concerns([vm("web", why)], diagnostics())
    assert [(remedy.command, remedy.effect) for remedy in found.remedies] == [
        ("xenops --instance blue forget web", "leaves it to this instance"),
        ("xenops forget web", "leaves it to the instance blue"),
    ]


def test_a_backend_that_is_away_is_one_concern_that_no_vm_settles():
    why = "the backend cannot be reached: gone"
    found = concerns([vm("a", why), vm("b", why), vm("c", "what is this")], diagnostics())
    assert [(concern.subject, concern.why) for concern in found] == [
        ("backend", f"{why} (2 VMs wait for it)"),
        ("c", "what is this"),
    ]
    assert [remedy.command for remedy in found[0].remedies] == ["xenops diagnostics"]
