"""What a guest's own stop asks for."""

import pytest
from msgspec.structs import replace
from rigs.values import FRESH, META, NOW, OLD, RUNNING, VM, domain, snapshot, suspended

from idl.vm import Action
from xenopsd import microop as m
from xenopsd.plan.guest import check
from xenopsd.plan.lifecycle import bring_up, tear_down
from xenopsd.plan.plan import Plan, Segment

SHUTDOWN, START, PAUSE, DUMP = Action.SHUTDOWN, Action.START, Action.PAUSE, Action.COREDUMP
CORE = m.VmCoredump(path="/state/cores/vm1.core")


def stopped(why, *, started=NOW - 3600, extra=RUNNING, **policy):
    return snapshot(
        "stopped",
        meta=replace(META, vm=replace(VM, **policy)),
        domain=domain(stopped=why),
        extra=replace(extra, last_start_time=started),
    )


@pytest.mark.parametrize("state", ["halted", "running", "paused", "suspended", "shell"])
def test_what_has_not_stopped_asks_for_nothing(state):
    assert check(snapshot(state)) == Plan()


@pytest.mark.parametrize(
    ("why", "policy", "reason"),
    [
        ("poweroff", "on_shutdown", "guest shut down"),
        ("suspend", "on_shutdown", "guest suspended itself"),
        ("reboot", "on_reboot", "guest rebooted"),
        ("crash", "on_crash", "crashed"),
    ],
)
def test_each_stop_has_its_policy_and_its_reason(why, policy, reason):
    there = stopped(why, **{policy: [SHUTDOWN]})
    assert check(there) == Plan(reason=reason, segments=[tear_down(there)])


def test_a_reboot_goes_down_and_up_again_with_what_is_configured():
    there = stopped("reboot", on_reboot=[START])
    up = bring_up(there, paused=False, why="reboot")
    assert check(there) == Plan(reason="guest rebooted", segments=[tear_down(there), up])
    assert up.incarnation == FRESH


@pytest.mark.parametrize("why", ["reboot", "poweroff"])
def test_a_restart_soon_after_the_start_is_delayed_once_it_is_down(why):
    there = stopped(why, started=NOW - 119, on_reboot=[START], on_shutdown=[START])
    down, up = check(there).segments
    assert down == tear_down(there)
    assert up.steps[0] == m.VmDelay(seconds=15.0)
    assert up.steps[1:] == bring_up(there, paused=False, why=why).steps
    assert not up.finish, "it may be cancelled while it waits"


def test_a_crash_soon_after_the_start_is_not_started_again():
    there = stopped("crash", started=NOW - 119, on_crash=[START])
    assert check(there) == Plan(
        reason="crashed too soon after its start to be started again", segments=[tear_down(there)]
    )


@pytest.mark.parametrize("started", [NOW - 120, None], ids=["long ago", "nobody knows when"])
def test_a_crash_later_on_is_started_again(started):
    there = stopped("crash", started=started, on_crash=[START])
    assert [s.finish for s in check(there).segments] == [True, False]


@pytest.mark.parametrize(
    ("actions", "dumped"), [([PAUSE], []), ([DUMP, PAUSE], [CORE])], ids=["kept", "and dumped"]
)
def test_a_stopped_domain_is_preserved(actions, dumped):
    kept = Segment(incarnation=OLD, finish=True, steps=[*dumped, m.VmPreserve()])
    assert check(stopped("crash", on_crash=actions)) == Plan(reason="crashed", segments=[kept])


def test_what_is_preserved_is_looked_at_once():
    there = stopped("crash", extra=replace(RUNNING, preserved=OLD), on_crash=[PAUSE])
    assert check(there) == Plan()


def test_one_that_was_preserved_before_says_nothing_of_its_successor():
    there = stopped("crash", extra=replace(RUNNING, preserved="another"), on_crash=[PAUSE])
    assert check(there).segments


@pytest.mark.parametrize("actions", [[DUMP], [DUMP, SHUTDOWN], [PAUSE, SHUTDOWN, DUMP]])
def test_a_dump_comes_before_the_teardown(actions):
    there = stopped("crash", on_crash=actions)
    down = tear_down(there)
    assert check(there).segments == [replace(down, steps=[CORE, *down.steps])]


def test_no_action_at_all_is_a_shutdown():
    there = stopped("poweroff", on_shutdown=[])
    assert check(there).segments == [tear_down(there)]


def test_a_suspend_that_was_not_finished_is_finished_and_never_started_anew():
    """Its image is good: beside a guest that runs on, it would be resumed one day."""
    committed = replace(suspended(), incarnation=OLD)
    there = stopped("suspend", extra=committed, on_shutdown=[START])
    assert check(there) == Plan(reason="suspended", segments=[tear_down(there)])
