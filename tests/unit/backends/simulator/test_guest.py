import pytest
from msgspec.structs import replace

from backends.simulator import guest
from backends.simulator.record import Record, vcpu_seconds
from idl.errors import BadPowerState, InvalidParameter
from idl.vm import Pvh, Vm

VM = Vm(id="vm1", vcpu_max=4, vcpus=3, memory_static_max=1000, xsdata={"a": "b"})
EMPTY = guest.created(VM, id="1", instance="default", incarnation="i1", memory=500, now=10.0)
BUILT = guest.built(EMPTY, VM)
RUNNING = guest.unpaused(BUILT, 20.0)


def test_a_new_domain_is_empty_and_paused():
    assert (EMPTY.built, EMPTY.paused, EMPTY.memory_actual) == (False, True, 0)
    assert (EMPTY.memory_target, EMPTY.memory_limit, EMPTY.guest) == (500, 1000, "hvm")
    assert (
        guest.created(
            Vm(id="vm1", guest=Pvh(kernel="/k")),
            id="1",
            instance="default",
            incarnation="i1",
            memory=1,
            now=0.0,
        ).guest
        == "pvh"
    )


def test_building_fills_it_from_the_configuration():
    assert (BUILT.vcpus, BUILT.memory_actual, BUILT.xsdata) == (3, 500, {"a": "b"})


def test_from_its_first_unpause_it_has_run():
    assert vcpu_seconds(BUILT, 20.0) == 0
    assert vcpu_seconds(RUNNING, 20.0) > 0


def test_a_second_unpause_does_not_restart_the_clock():
    assert guest.unpaused(RUNNING, 30.0) == RUNNING


def test_pausing_keeps_what_has_run():
    paused = guest.paused(RUNNING, 25.0)
    assert vcpu_seconds(paused, 99.0) == pytest.approx(5.0)


def test_an_obedient_guest_stops_when_asked():
    assert guest.asked(RUNNING, "reboot", 25.0).stopped == "reboot"


@pytest.mark.parametrize(
    "deaf",
    [
        pytest.param(guest.paused(RUNNING, 21.0), id="paused"),
        pytest.param(replace(RUNNING, ignore_shutdown=True), id="ignoring"),
    ],
)
def test_a_guest_that_does_not_hear_goes_on(deaf):
    assert guest.asked(deaf, "poweroff", 25.0) == deaf


def test_the_first_reason_to_stop_is_the_one_that_counts():
    crashed = guest.stopped(RUNNING, "crash", 25.0)
    assert guest.stopped(crashed, "poweroff", 26.0) == crashed
    assert crashed.running_since is None


@pytest.mark.parametrize("paused", [False, True], ids=["was running", "was paused"])
def test_a_save_undone_goes_on_as_it_was(paused):
    before = guest.paused(RUNNING, 21.0) if paused else RUNNING
    after = guest.resumed(guest.stopped(before, "suspend", 25.0), 30.0)
    assert (after.stopped, after.paused) == (None, paused)
    assert (after.running_since is None) == paused


def test_a_restored_domain_has_the_guest_of_before_and_has_not_run():
    saved = guest.ballooned(guest.paused(RUNNING, 25.0), 400)
    later = guest.restored(replace(EMPTY, id="2"), saved)
    assert (later.vcpus, later.memory_actual, later.xsdata) == (3, 400, {"a": "b"})
    assert later.uptime == pytest.approx(5.0)
    assert (later.ran, later.restored, later.paused) == (0.0, True, True)
    assert not guest.unpaused(later, 30.0).restored


@pytest.mark.parametrize(
    ("record", "actual"),
    [
        pytest.param(RUNNING, 300, id="cooperative"),
        pytest.param(replace(RUNNING, uncooperative_balloon=True), 500, id="uncooperative"),
        pytest.param(EMPTY, 0, id="not built"),
    ],
)
def test_the_balloon(record, actual):
    after = guest.ballooned(record, 300)
    assert (after.memory_target, after.memory_actual) == (300, actual)


@pytest.mark.parametrize(
    ("act", "stopped"),
    [("reboot", "reboot"), ("halt", "poweroff"), ("crash", "crash"), ("suspend", "suspend")],
)
def test_guests_stop_by_themselves(act, stopped):
    assert guest.ACTS[act](RUNNING, "vm1", 25.0).stopped == stopped


@pytest.mark.parametrize("act", ["reboot", "halt", "suspend"])
def test_a_paused_guest_does_nothing_by_itself(act):
    with pytest.raises(BadPowerState):
        guest.ACTS[act](BUILT, "vm1", 25.0)


def test_a_crash_comes_over_a_paused_guest_too():
    assert guest.ACTS["crash"](BUILT, "vm1", 25.0).stopped == "crash"


def test_a_guest_that_has_stopped_does_nothing_more():
    gone: Record = guest.stopped(RUNNING, "poweroff", 25.0)
    with pytest.raises(BadPowerState) as refused:
        guest.ACTS["crash"](gone, "vm1", 26.0)
    assert refused.value.actual == "halted"


@pytest.mark.parametrize("knob", guest.KNOBS.values())
def test_knobs_turn_both_ways(knob):
    turned = guest.turned(RUNNING, knob, "true")
    assert getattr(turned, knob)
    assert guest.turned(turned, knob, "false") == RUNNING
    with pytest.raises(InvalidParameter):
        guest.turned(RUNNING, knob, "maybe")


def test_a_guest_turned_cooperative_gives_its_memory_at_once():
    held = guest.ballooned(guest.turned(RUNNING, "uncooperative_balloon", "true"), 300)
    assert guest.turned(held, "uncooperative_balloon", "false").memory_actual == 300
