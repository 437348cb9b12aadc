"""What recovery makes of a VM: laws over the whole table, then cuts at every point of every plan.

The second part carries plans out in a pure world (`rigs.crashworld`), cuts them at each point,
lets something happen meanwhile, recovers, and holds the end against interface.md ("After a
crash of the daemon") and against what must never happen to a guest's memory and disks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import pytest
from msgspec.structs import replace
from rigs import crashworld
from rigs.crashworld import (
    Cut,
    Life,
    World,
    domain_lost,
    guest_stops,
    host_reboots,
    nothing,
    power_fails,
)
from rigs.values import (
    CD,
    DATA,
    ETH0,
    FRESH,
    HALTED,
    IMAGE,
    ISO,
    MIB,
    OLD,
    PAUSED,
    ROOT,
    RUNNING,
    VM,
    domain,
    snapshot,
    suspended,
)

from idl import calls
from idl.metadata import Metadata
from idl.vif import Bridge
from idl.vm import Action, PowerState
from xenopsd import microop as m
from xenopsd.plan import guest, recovery
from xenopsd.plan.plan import Plan, Segment, Snapshot
from xenopsd.plan.planner import plan
from xenopsd.reconcile import TABLE, Facts, OpenPlan, Verdict, reconcile
from xenopsd.record import VmExtra, half_built

SMALL = Metadata(vm=VM, vbds=[ROOT], vifs=[ETH0])
WITH_DRIVE = Metadata(vm=VM, vbds=[ROOT, CD], vifs=[ETH0])
STRANGE = "incarnation-of-nobody"
#: Configured after the VM was started: recovery must not take it for what runs.
LATER = replace(VM, scheduler=replace(VM.scheduler, weight=512))


# The table over every combination of facts

PLANS = {
    "start": plan(calls.VmStart(id="vm1"), snapshot("halted", meta=SMALL)),
    "shutdown": plan(calls.VmShutdown(id="vm1"), snapshot("running", meta=SMALL)),
    "clean shutdown": plan(calls.VmShutdown(id="vm1", timeout=60), snapshot(meta=SMALL)),
    "reboot": plan(calls.VmReboot(id="vm1"), snapshot("running", meta=SMALL)),
    "suspend": plan(calls.VmSuspend(id="vm1"), snapshot("running", meta=SMALL)),
    "resume": plan(calls.VmResume(id="vm1"), snapshot("suspended", meta=SMALL)),
    "resume paused": plan(
        calls.VmResume(id="vm1", paused=True), snapshot("suspended", meta=SMALL)
    ),
    "pause": plan(calls.VmPause(id="vm1"), snapshot("running", meta=SMALL)),
    "unpause": plan(calls.VmUnpause(id="vm1"), snapshot("paused", meta=SMALL)),
    "plug": Plan(segments=[Segment(incarnation=OLD, steps=[m.VbdPlug(id=DATA.id)])]),
    "unplug": plan(calls.VbdUnplug(id=ROOT.id), snapshot("running", meta=SMALL)),
    "set_vcpus": plan(calls.VmSetVcpus(id="vm1", vcpus=3), snapshot("running", meta=SMALL)),
    "rename": Plan(segments=[Segment(steps=[m.VmRecord(object="vm1", changes={}, was={})])]),
    "remove": Plan(
        segments=[Segment(finish=True, steps=[m.VmDestroy(), m.VmRemoveRecord()])]
    ),
}

DOMAINS = {
    "no domain": None,
    "ours half built": domain(
        SMALL, incarnation=FRESH, built=False, paused=True, vcpu_seconds=0.0
    ),
    "ours running": domain(SMALL),
    "ours paused": domain(SMALL, paused=True),
    "ours stopped": domain(SMALL, stopped="poweroff"),
    "a stranger": domain(SMALL, incarnation=STRANGE),
    "a paused stranger": domain(SMALL, incarnation=STRANGE, paused=True, vcpu_seconds=0.0),
}
EXTRAS = {
    "halted": HALTED,
    "running": RUNNING,
    "suspended": suspended(SMALL),
    "spent": suspended(SMALL, spent=True),
    "half way": replace(RUNNING, incarnation=FRESH, settled=False),
}


def opens():
    yield "nothing open", None
    for name, planned in PLANS.items():
        for done in range(len(planned.steps()) + 1):
            for intended in (False, True):
                for direction in ("forward", "back"):
                    if intended and done == len(planned.steps()):
                        continue
                    words = f"{name} {direction} at {done}{', intended' if intended else ''}"
                    yield words, OpenPlan(planned, direction, done, intended)


def every():
    for extra, dom, leftovers, rebooted in product(EXTRAS, DOMAINS, (False, True), (False, True)):
        for words, opened in opens():
            facts = Facts(EXTRAS[extra], DOMAINS[dom], opened, leftovers, rebooted)
            yield f"{extra}, {dom}, {words}, {leftovers=}, {rebooted=}", facts


@pytest.fixture(scope="module")
def table():
    """(words, facts, repair) of every combination: that each has an answer is the first law."""
    return [(words, facts, reconcile(facts)) for words, facts in every()]


def breaking(table, law):
    """The combinations that break a law."""
    return [(words, repair.verdict) for words, facts, repair in table if not law(facts, repair)]


def is_strange(facts):
    """Said otherwise than in the code: nobody gave out this name."""
    found = facts.domain
    names = {facts.extra.incarnation}
    if facts.open is not None:
        names |= {segment.incarnation for segment in facts.open.plan.segments}
    nameless = facts.open is None and facts.extra.incarnation is None
    return found is not None and found.incarnation not in names and not nameless


def test_there_are_thousands_of_combinations(table):
    assert len(table) > 20_000


def test_a_stranger_is_never_touched(table):
    assert not breaking(table, lambda f, r: not is_strange(f) or r.verdict is Verdict.DOUBT)


def test_doubt_is_about_a_domain_that_is_there(table):
    assert not breaking(table, lambda f, r: r.verdict is not Verdict.DOUBT or f.domain is not None)


def test_what_runs_beside_its_own_good_image_is_in_doubt():
    for found in (DOMAINS["ours running"], DOMAINS["ours half built"]):
        facts = Facts(suspended(SMALL), found, None, leftovers=False, rebooted=False)
        assert reconcile(facts).verdict is Verdict.DOUBT


def test_an_open_intent_decides_before_the_tell(table):
    def law(facts, repair):
        told = facts.domain is not None and half_built(facts.domain, facts.extra)
        cleared = repair.verdict is Verdict.CLEAR
        return not (facts.open is not None and told and cleared)

    assert not breaking(table, law)


def test_only_what_has_nothing_open_is_settled(table):
    assert not breaking(table, lambda f, r: r.verdict is not Verdict.SETTLE or f.open is None)


def test_what_has_nothing_open_is_neither_carried_on_nor_turned_back(table):
    def law(facts, repair):
        of_a_plan = repair.verdict in (Verdict.CONTINUE, Verdict.TURN_BACK)
        return facts.open is not None or not of_a_plan

    assert not breaking(table, law)


def test_a_half_built_domain_that_nothing_is_open_for_is_cleared():
    facts = Facts(EXTRAS["half way"], DOMAINS["ours half built"], None, False, False)
    assert reconcile(facts).verdict is Verdict.CLEAR


def test_a_shell_that_an_operation_ended_with_is_let_be():
    shell = replace(EXTRAS["half way"], settled=True)
    facts = Facts(shell, DOMAINS["ours half built"], None, False, False)
    assert reconcile(facts).verdict is Verdict.SETTLE


@pytest.mark.parametrize("rebooted", [False, True])
def test_leftovers_of_a_suspended_vm_are_cleared_and_its_image_is_not(rebooted):
    facts = Facts(suspended(SMALL), None, None, leftovers=True, rebooted=rebooted)
    repair = reconcile(facts)
    assert repair.verdict is Verdict.CLEAR
    assert steps_of(facts, repair) == [m.VmDestroy()]


def test_a_suspended_vm_is_settled():
    facts = Facts(suspended(SMALL), None, None, leftovers=False, rebooted=True)
    assert reconcile(facts).verdict is Verdict.SETTLE


@pytest.mark.parametrize("leftovers", [False, True])
@pytest.mark.parametrize(
    ("rebooted", "reason"), [(False, "lost"), (True, "the host restarted")]
)
def test_a_running_vm_without_its_domain_is_cleared(rebooted, reason, leftovers):
    repair = reconcile(Facts(RUNNING, None, None, leftovers, rebooted))
    assert (repair.verdict, repair.reason) == (Verdict.CLEAR, reason)


def test_leftovers_of_a_halted_vm_are_cleared():
    assert reconcile(Facts(HALTED, None, None, True, False)).verdict is Verdict.CLEAR


def test_a_halted_vm_with_nothing_left_is_settled():
    assert reconcile(Facts(HALTED, None, None, False, False)).verdict is Verdict.SETTLE


def test_a_running_vm_with_its_domain_is_settled():
    for found in ("ours running", "ours paused", "ours stopped"):
        assert reconcile(Facts(RUNNING, DOMAINS[found], None, False, False)).verdict is (
            Verdict.SETTLE
        )


def test_a_spent_image_without_a_domain_never_leads_back_to_suspended(table):
    """Whatever the journal has lost: the record says that the guest may have run on."""

    def law(facts, repair):
        if facts.domain is not None or facts.extra.image is None or not facts.extra.image.spent:
            return True
        forward = facts.open is not None and facts.open.direction == "forward"
        return not (forward and m.VmUnspendImage(image=IMAGE) in steps_of(facts, repair))

    assert not breaking(table, law)


def test_a_good_image_is_never_cleared_away(table):
    def law(facts, repair):
        good = facts.extra.image is not None and not facts.extra.image.spent
        cleared = repair.verdict is Verdict.CLEAR
        return not (good and cleared and m.VmDropImage(image=IMAGE) in steps_of(facts, repair))

    assert not breaking(table, law)


def test_without_a_domain_nothing_is_done_to_one(table):
    """What is carried out needs no domain, up to where it makes one."""

    def law(facts, repair):
        if facts.domain is not None or repair.verdict in (Verdict.SETTLE, Verdict.DOUBT):
            return True
        for op in steps_of(facts, repair):
            if isinstance(op, m.VmCreate):
                return True
            if isinstance(op, m.NEEDS_DOMAIN):
                return False
        return True

    assert not [
        broken for broken in breaking(table, law) if "clean" not in broken[0]
    ]


def test_a_lost_vm_is_left_with_nothing_of_its_domain(table):
    def law(facts, repair):
        lost = facts.domain is None and facts.extra.image is None and facts.leftovers
        if not lost:
            return True
        ends = (m.VmDestroy, m.VmCreate, m.VmRemoveRecord)
        return any(isinstance(op, ends) for op in steps_of(facts, repair))

    assert not breaking(table, law)


def steps_of(facts, repair):
    """The steps that the verdict has carried out."""
    shot = Snapshot(meta=SMALL, extra=facts.extra, domain=facts.domain, fresh="f", image=IMAGE)
    opened = facts.open
    match repair.verdict:
        case Verdict.CLEAR:
            found = recovery.cleared(shot, opened.ahead if opened else ())
        case Verdict.TURN_BACK:
            found = recovery.turned_back(
                opened.plan, opened.done, shot, intended=opened.intended, loss=facts.loss
            )
        case Verdict.CONTINUE:
            back = opened.direction == "back"
            found = recovery.carried_on(
                opened.plan, opened.done, shot, loss=facts.loss, back=back
            )
        case _:
            found = Plan()
    return [op for op, _ in found.steps()]


def test_each_row_says_in_words_what_it_found():
    words = [row[2] for row in TABLE]
    assert len(set(words)) == len(words)
    assert all(words)


# Every plan cut at every point


@dataclass(frozen=True)
class Case:
    """An operation: where it begins, and where it may end when it is cut.

    `ends` after a crash of the daemon alone; `without` when its domain, if any, is gone too.
    """

    begin: Callable[[], World]
    planned: Callable[[World], Plan]
    goal: str
    ends: frozenset[str]
    without: frozenset[str] = frozenset({"halted"})


def world(state, meta=SMALL):
    extra = {
        "halted": HALTED,
        "suspended": suspended(meta),
        "paused": PAUSED,
    }.get(state, RUNNING)
    shot = snapshot(state, meta=meta)
    return World(
        meta=replace(meta, vm=LATER),
        extra=extra,
        kept_extra=extra,
        domain=shot.domain,
        image=state == "suspended",
    )


def shot_of(there):
    return Snapshot(
        meta=there.meta,
        extra=there.extra,
        domain=there.domain,
        fresh=FRESH,
        image=IMAGE,
        features=snapshot().features,
        backend="simulator",
        now=crashworld.NOW,
    )


def of(call, state, goal, *ends, without=("halted",), meta=SMALL):
    return Case(
        begin=lambda: world(state, meta),
        planned=lambda there: plan(call, shot_of(there)),
        goal=goal,
        ends=frozenset(ends),
        without=frozenset(without),
    )


def checked(stopped, *, goal, **policy):
    """A guest that stopped by itself, and what its policy makes of that."""

    def begin():
        there = world("running")
        there.domain = replace(there.domain, stopped=stopped)
        there.meta = replace(there.meta, vm=replace(LATER, **policy))
        return there

    return Case(
        begin=begin,
        planned=lambda there: guest.check(shot_of(there)),
        goal=goal,
        ends=frozenset({goal}),
        without=frozenset({"halted", goal}),
    )


def suspended_with(state):
    """A suspended VM whose configuration has been changed since."""
    return world(state)


VM1, ROOT1, DATA1, ETH1 = "vm1", ROOT.id, DATA.id, ETH0.id
PLUGGABLE = Metadata(vm=VM, vbds=[ROOT, DATA], vifs=[ETH0])


def unplugged(there):
    left = {id: disk for id, disk in there.domain.vbds.items() if id != DATA1}
    there.domain = replace(there.domain, vbds=left)
    return there


CASES = {
    "start": of(calls.VmStart(id=VM1), "halted", "running", "running", "halted", without=("halted", "running")),
    "start paused": of(
        calls.VmStart(id=VM1, paused=True), "halted", "paused", "paused", "halted",
        without=("halted", "paused"),
    ),
    "shutdown": of(calls.VmShutdown(id=VM1), "running", "halted", "halted"),
    "clean shutdown": of(calls.VmShutdown(id=VM1, timeout=9), "running", "halted", "halted"),
    "shutdown of a paused VM": of(calls.VmShutdown(id=VM1), "paused", "halted", "halted"),
    "shutdown of a suspended VM": of(
        calls.VmShutdown(id=VM1), "suspended", "halted", "halted", without=("suspended",)
    ),
    "shutdown of a shell": of(calls.VmShutdown(id=VM1), "shell", "halted", "halted"),
    "reboot": of(
        calls.VmReboot(id=VM1), "running", "running", "running", without=("halted", "running")
    ),
    "clean reboot": of(
        calls.VmReboot(id=VM1, timeout=9), "running", "running", "running",
        without=("halted", "running"),
    ),
    "suspend": of(
        calls.VmSuspend(id=VM1), "running", "suspended", "running", "suspended",
        without=("halted", "suspended"),
    ),
    "resume": of(
        calls.VmResume(id=VM1), "suspended", "running", "running", "suspended",
        without=("halted", "suspended", "running"),
    ),
    "resume paused": of(
        calls.VmResume(id=VM1, paused=True), "suspended", "paused", "paused", "suspended",
        without=("halted", "suspended", "paused"),
    ),
    "pause": of(calls.VmPause(id=VM1), "running", "paused", "running", "paused"),
    "unpause": of(calls.VmUnpause(id=VM1), "paused", "running", "running", "paused"),
    "create": of(calls.VmCreate(id=VM1), "halted", "shell", "shell", "halted", without=("halted", "shell")),
    "build": of(calls.VmBuild(id=VM1), "shell", "paused", "paused", "shell"),
    "destroy": of(calls.VmDestroy(id=VM1), "running", "halted", "halted"),
    "unplug": of(calls.VbdUnplug(id=ROOT1), "running", "running", "running"),
    "eject": of(calls.VbdEject(id=CD.id), "running", "running", "running", meta=WITH_DRIVE),
    "insert": of(
        calls.VbdInsert(id=CD.id, backend=replace(ISO, path="/images/other")),
        "running", "running", "running", meta=WITH_DRIVE,
    ),
    "move": of(
        calls.VifMove(id=ETH1, backend=Bridge(name="xenbr1")), "running", "running", "running"
    ),
    "set_vcpus": of(calls.VmSetVcpus(id=VM1, vcpus=3), "running", "running", "running"),
    "set_memory": of(
        calls.VmSetMemoryDynamicRange(id=VM1, minimum=MIB, maximum=256 * MIB),
        "running", "running", "running",
    ),
    "set_xsdata": of(calls.VmSetXsdata(id=VM1, xsdata={"a": "b"}), "running", "running", "running"),
    "set_xsdata of a suspended VM": of(
        calls.VmSetXsdata(id=VM1, xsdata={"a": "b"}), "suspended", "suspended", "suspended",
        without=("suspended",),
    ),
    "delay": of(calls.VmDelay(id=VM1, seconds=1), "running", "running", "running"),
    "plug": Case(
        begin=lambda: unplugged(world("running", PLUGGABLE)),
        planned=lambda there: plan(calls.VbdPlug(id=DATA1), shot_of(there)),
        goal="running",
        ends=frozenset({"running"}),
    ),
    "a guest's poweroff": checked("poweroff", goal="halted"),
    "a guest's reboot": checked("reboot", goal="running"),
    "a crash to be preserved": checked("crash", goal="stopped", on_crash=[Action.COREDUMP, Action.PAUSE]),
    "a crash to be restarted": checked("crash", goal="running", on_crash=[Action.START]),
}

#: What happens while the daemon is down.
MEANWHILE = {
    "meanwhile nothing": nothing,
    "meanwhile the domain is lost": domain_lost,
    "meanwhile the guest stops": guest_stops,
    "meanwhile the host reboots": host_reboots,
    "meanwhile the power fails": power_fails,
}


def begun(case, cut_at=None, fails=lambda _op: False):
    """The world after an operation that was cut there, and the life that was; whether it was."""
    there = case.begin()
    life = Life(there, cut_at=cut_at, fails=fails)
    try:
        life.operate(case.planned(there))
    except Cut:
        return there, life, True
    return there, life, False


def cuts(case, fails=lambda: lambda _op: False):
    """A world for each point at which the operation can be cut."""
    _, whole, _ = begun(case, fails=fails())
    for at, point in enumerate(whole.points):
        there, life, _ = begun(case, cut_at=at, fails=fails())
        yield at, point, there, life


def recovered(there):
    life = Life(there)
    life.recover()
    return life


def assert_sensible(there, life, where):
    """Intact, or nothing left, or a good image: nothing else."""
    condition = there.condition
    extra, found = there.extra, there.domain
    assert there.journal == [], where
    assert there.task != "open", where
    assert life.attention is None, f"{where}: {life.attention}"
    assert not there.residues, where
    good = extra.image is not None and not extra.image.spent
    if condition == "halted":
        assert extra.image is None, where
        assert not there.image, where
        assert extra.running is None, where
    if condition == "suspended":
        assert there.image, where
        assert not there.stale, where
        assert extra.running is not None, where
    if condition in ("running", "paused"):
        assert not good, f"{where}: it runs, and its image could be resumed again"
        assert extra.incarnation == found.incarnation, where
        assert extra.running is not None, where
        assert found.vcpu_seconds > 0 or extra.settled, where


@pytest.mark.parametrize("name", CASES)
def test_an_operation_that_is_not_cut_reaches_its_goal(name):
    case = CASES[name]
    there, life, was_cut = begun(case)
    assert not was_cut
    assert life.skipped == []
    assert there.task == "completed"
    assert there.condition == case.goal
    if case.goal != "stopped":
        assert_sensible(there, life, name)


@pytest.mark.parametrize("meanwhile", MEANWHILE)
@pytest.mark.parametrize("name", CASES)
def test_a_cut_operation_ends_as_is_promised(name, meanwhile):
    case = CASES[name]
    for at, point, there, _ in cuts(case):
        where = f"{name} cut at {at} ({point}), {meanwhile}"
        MEANWHILE[meanwhile](there)
        life = recovered(there)
        assert_allowed(case, there, life, where, meanwhile)
        # What cannot be undone in a guest that has stopped is for its policy to end.
        assert life.skipped == [] or meanwhile == "meanwhile the guest stops", where


def assert_allowed(case, there, life, where, meanwhile):
    allowed = {
        "meanwhile nothing": case.ends,
        "meanwhile the guest stops": case.ends | {"halted", "suspended"},
    }.get(meanwhile, case.ends | case.without)
    assert there.condition in allowed, f"{where}: it is {there.condition} ({life.verdict})"
    if there.condition != "stopped":
        assert_sensible(there, life, where)


@pytest.mark.parametrize("name", CASES)
def test_a_task_that_completes_after_a_cut_has_reached_its_goal(name):
    case = CASES[name]
    for at, point, there, _ in cuts(case):
        answered = there.task
        recovered(there)
        if answered == "open" and there.task == "completed":
            assert there.condition == case.goal, f"{name} cut at {at} ({point})"


@pytest.mark.parametrize("name", CASES)
def test_a_task_that_completes_though_its_domain_is_lost_has_reached_its_goal(name):
    """A start whose VM is gone again has not started it."""
    case = CASES[name]
    if name.startswith("a "):
        return  # nobody asked for it
    for meanwhile, (at, point, there, _) in product((domain_lost, host_reboots), list(cuts(case))):
        here = there.copy()
        meanwhile(here)
        answered = here.task
        recovered(here)
        goals = {case.goal} if case.goal != "running" or "start" in name else {"running", "halted"}
        if answered == "open" and here.task == "completed":
            assert here.condition in goals, f"{name} cut at {at} ({point}), {meanwhile.__name__}"


def resume_cuts(meanwhile):
    for name in ("resume", "resume paused"):
        for at, point, there, _ in cuts(CASES[name]):
            ran, spent = there.stale, there.kept_extra.image is None or there.kept_extra.image.spent
            MEANWHILE[meanwhile](there)
            recovered(there)
            yield f"{name} cut at {at} ({point})", there, ran, spent


@pytest.mark.parametrize("meanwhile", MEANWHILE)
def test_memory_that_has_run_on_is_never_resumed(meanwhile):
    for where, there, ran, _ in resume_cuts(meanwhile):
        if ran:
            assert there.condition != "suspended", where


@pytest.mark.parametrize("meanwhile", MEANWHILE)
def test_memory_that_has_not_run_on_is_never_lost(meanwhile):
    """As long as its spending was not yet written."""
    for where, there, _, spent in resume_cuts(meanwhile):
        if not spent:
            assert there.condition in ("suspended", "running", "paused"), where


@pytest.mark.parametrize("name", CASES)
def test_what_ran_is_still_known_to_run(name):
    """A configuration that was changed meanwhile is not taken for the running one."""
    case = CASES[name]
    booted = case.begin().extra.running
    if booted is None or case.goal == "halted":
        return
    for at, point, there, _ in cuts(case):
        before = there.domain.incarnation if there.domain else None
        recovered(there)
        same = there.domain is not None and there.domain.incarnation in (before, OLD)
        resumed = "resume" in name or there.condition == "suspended"
        if (same or resumed) and not ("reboot" in name or "restarted" in name):
            where = f"{name} cut at {at} ({point})"
            assert there.extra.running.scheduler == VM.scheduler, where


TWICE = ("start", "clean shutdown", "shutdown of a suspended VM", "reboot", "suspend", "resume",
         "resume paused", "plug")


@pytest.mark.parametrize(
    "meanwhile", ["meanwhile nothing", "meanwhile the host reboots", "meanwhile the power fails"]
)
@pytest.mark.parametrize("name", TWICE)
def test_a_recovery_that_is_cut_changes_nothing_about_the_outcome(name, meanwhile):
    case = CASES[name]
    for at, point, there, _ in cuts(case):
        MEANWHILE[meanwhile](there)
        whole = Life(there.copy())
        whole.recover()
        for again, second in enumerate(whole.points):
            here = there.copy()
            with pytest.raises(Cut):
                Life(here, cut_at=again).recover()
            life = recovered(here)
            where = f"{name} cut at {at} ({point}), {meanwhile}, again at {again} ({second})"
            assert_allowed(case, here, life, where, meanwhile)


@pytest.mark.parametrize("name", CASES)
def test_a_step_that_fails_for_ever_leaves_a_vm_sensible_or_in_need_of_attention(name):
    case = CASES[name]
    _, whole, _ = begun(case)
    for failing in {type(op) for op in whole.done}:
        there, life, _ = begun(case, fails=lambda op, failing=failing: isinstance(op, failing))
        where = f"{name}, {failing.__name__} fails"
        assert there.journal == [], where
        if not life.skipped and there.condition != "stopped":
            assert_sensible(there, life, where)
        if there.task == "completed":
            assert there.condition == case.goal, where


@pytest.mark.parametrize("meanwhile", ["meanwhile nothing", "meanwhile the power fails"])
@pytest.mark.parametrize("name", CASES)
def test_an_operation_that_fails_once_and_is_cut_ends_as_is_promised(name, meanwhile):
    case = CASES[name]
    _, whole, _ = begun(case)
    for failing in {type(op) for op in whole.done}:
        for at, point, there, _ in cuts(case, lambda failing=failing: once(failing)):
            MEANWHILE[meanwhile](there)
            life = recovered(there)
            where = f"{name}, {failing.__name__} fails once, cut at {at} ({point}), {meanwhile}"
            begin = frozenset({case.begin().condition} - {"stopped"})
            undone = replace_ends(case, case.ends | begin | ({"halted"} if "reboot" in name or "restarted" in name else set()))
            assert_allowed(undone, there, life, where, meanwhile)


def replace_ends(case, ends):
    return Case(case.begin, case.planned, case.goal, frozenset(ends), case.without)


def once(failing):
    """The first such micro-op fails."""
    left = [1]

    def fails(op):
        return isinstance(op, failing) and bool(left) and bool(left.pop())

    return fails


def test_power_states_are_told_apart():
    """The cases cover each state that a VM can begin in and end in."""
    begins = {case.begin().condition for case in CASES.values()}
    assert begins == {"halted", "running", "paused", "suspended", "shell", "stopped"}
    assert {case.goal for case in CASES.values()} == {
        "halted", "running", "paused", "suspended", "shell", "stopped",
    }
    assert set(PowerState) == {"running", "paused", "suspended", "halted"}
    assert VmExtra().power_state == "halted"
