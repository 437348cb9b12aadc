"""Start, shutdown, reboot, pause, unpause and the single micro-ops: the exact plans."""

import pytest
from msgspec.structs import replace
from rigs.values import (
    BARE,
    BASE,
    CARD0,
    CARD1,
    CD,
    DATA,
    ETH0,
    ETH1,
    FRESH,
    IMAGE,
    META,
    OLD,
    ROOT,
    RUNNING,
    domain,
    snapshot,
    suspended,
)

from idl import calls
from idl.errors import BadPowerState, DomainNotBuilt
from xenopsd import microop as m
from xenopsd.plan import lifecycle
from xenopsd.plan.plan import Plan, Segment
from xenopsd.plan.planner import plan

PLUGS = [
    m.VbdPlug(id=DATA.id),
    m.VbdPlug(id=ROOT.id),
    m.VbdPlug(id=BASE.id),
    m.VbdPlug(id=CD.id),
    m.VifPlug(id=ETH0.id),
    m.VifPlug(id=ETH1.id),
]
CARDS = [m.PciPlug(id=CARD0.id), m.PciPlug(id=CARD1.id)]
UP = [m.VmCreate(), m.VmBuild(), *PLUGS, m.VmCreateDeviceModel(), *CARDS, m.VmUnpause()]
UNPLUGS = [
    m.PciUnplug(id=CARD1.id, force=True),
    m.PciUnplug(id=CARD0.id, force=True),
    m.VifUnplug(id=ETH1.id, force=True),
    m.VifUnplug(id=ETH0.id, force=True),
    m.VbdUnplug(id=CD.id, force=True),
    m.VbdUnplug(id=BASE.id, force=True),
    m.VbdUnplug(id=ROOT.id, force=True),
    m.VbdUnplug(id=DATA.id, force=True),
]
STOPPED_DOWN = [m.VmDestroyDeviceModel(), *UNPLUGS, m.VmDestroy()]
DOWN = [m.VmPause(if_running=True), *STOPPED_DOWN]
HOOKS = {
    hook: (f"/hooks/{hook}/10", f"/hooks/{hook}/20")
    for hook in ("vm-pre-start", "vm-post-start", "vm-pre-shutdown", "vm-post-shutdown", "vm-pre-reboot")
}


def scripts(hook, reason, *, tolerant=False):
    return [m.VmHook(hook=hook, script=s, reason=reason, tolerant=tolerant) for s in HOOKS[hook]]


def up(steps, incarnation=FRESH):
    return Segment(incarnation=incarnation, steps=steps)


def down(steps, incarnation=OLD):
    return Segment(incarnation=incarnation, steps=steps, finish=True)


# Start


def test_a_start_plugs_writable_vbds_first_by_position_then_vifs_and_cards_after_the_model():
    assert plan(calls.VmStart(id="vm1"), snapshot("halted")) == Plan(
        reason="started", segments=[up(UP)]
    )


def test_a_paused_start_leaves_the_vcpus_alone():
    assert plan(calls.VmStart(id="vm1", paused=True), snapshot("halted")).segments == [
        up(UP[:-1])
    ]


def test_a_start_without_devices():
    bare = plan(calls.VmStart(id="vm1"), snapshot("halted", meta=BARE))
    assert bare.segments == [
        up([m.VmCreate(), m.VmBuild(), m.VmCreateDeviceModel(), m.VmUnpause()])
    ]


def test_a_start_runs_its_hooks_around_all_else():
    assert plan(calls.VmStart(id="vm1"), snapshot("halted", hooks=HOOKS)).segments == [
        up([*scripts("vm-pre-start", "none"), *UP, *scripts("vm-post-start", "none")])
    ]


def test_a_start_of_a_vm_whose_domain_was_lost_first_clears_what_is_left():
    lost = plan(calls.VmStart(id="vm1"), snapshot("halted", extra=RUNNING))
    assert lost.segments == [down([m.VmDestroy()]), up(UP)]


def test_devices_without_a_position_come_first():
    meta = replace(BARE, vifs=[ETH1, replace(ETH0, position=None)])
    assert lifecycle.plugs(snapshot("halted", meta=meta)) == [
        m.VifPlug(id=ETH0.id), m.VifPlug(id=ETH1.id),
    ]


# Shutdown


def test_a_hard_shutdown_stops_the_vcpus_and_takes_out_in_reverse_what_was_put_in():
    assert plan(calls.VmShutdown(id="vm1"), snapshot("running")) == Plan(
        reason="shut down", segments=[down([]), down(DOWN)]
    )


@pytest.mark.parametrize("state", ["paused", "stopped"])
def test_vcpus_that_do_not_run_are_not_stopped(state):
    assert plan(calls.VmShutdown(id="vm1"), snapshot(state)).segments == [
        down([]), down(STOPPED_DOWN),
    ]


def test_a_hard_shutdown_of_a_shell():
    assert plan(calls.VmShutdown(id="vm1"), snapshot("shell")).segments == [
        down([]), down([m.VmDestroyDeviceModel(), m.VmDestroy()]),
    ]


def test_a_hard_shutdown_takes_out_what_is_there_and_not_what_is_recorded():
    found = domain(BARE)
    assert plan(calls.VmShutdown(id="vm1"), snapshot("running", domain=found)).segments[1] == (
        down([m.VmPause(if_running=True), m.VmDestroyDeviceModel(), m.VmDestroy()])
    )


def test_no_hook_stands_between_an_administrator_and_a_hard_shutdown():
    assert plan(calls.VmShutdown(id="vm1"), snapshot("running", hooks=HOOKS)).segments == [
        down(scripts("vm-pre-shutdown", "hard", tolerant=True)),
        down([*DOWN, *scripts("vm-post-shutdown", "hard", tolerant=True)]),
    ]


def test_a_clean_shutdown_asks_and_waits_before_anything_is_torn_down():
    assert plan(calls.VmShutdown(id="vm1", timeout=90), snapshot(hooks=HOOKS)) == Plan(
        reason="shut down",
        segments=[
            up(
                [
                    *scripts("vm-pre-shutdown", "clean"),
                    m.VmRequestShutdown(reason="poweroff", timeout=60.0),
                    m.VmAwaitShutdown(timeout=90),
                ],
                OLD,
            ),
            down([*DOWN, *scripts("vm-post-shutdown", "hard", tolerant=True)]),
        ],
    )


@pytest.mark.parametrize(("timeout", "ack"), [(90, 60.0), (9, 9), (0, 0)])
def test_the_guest_gets_no_longer_to_acknowledge_than_to_stop(timeout, ack):
    asked = plan(calls.VmShutdown(id="vm1", timeout=timeout, force=True), snapshot())
    assert asked.segments[0].steps == [
        m.VmRequestShutdown(reason="poweroff", timeout=ack, force=True),
        m.VmAwaitShutdown(timeout=timeout, force=True),
    ]


def test_a_guest_that_has_stopped_is_not_asked():
    assert plan(calls.VmShutdown(id="vm1", timeout=90), snapshot("stopped")).segments == [
        up([], OLD), down(STOPPED_DOWN),
    ]


@pytest.mark.parametrize("call", [calls.VmShutdown, calls.VmReboot])
def test_a_paused_guest_cannot_be_asked(call):
    with pytest.raises(BadPowerState) as raised:
        plan(call(id="vm1", timeout=90), snapshot("paused"))
    assert raised.value.facts() == {"id": "vm1", "actual": "paused", "expected": ["running"]}


@pytest.mark.parametrize("call", [calls.VmShutdown, calls.VmReboot])
def test_a_paused_guest_is_passed_over_by_force(call):
    forced = plan(call(id="vm1", timeout=90, force=True), snapshot("paused"))
    assert down(STOPPED_DOWN) in forced.segments


@pytest.mark.parametrize("timeout", [None, 90])
def test_a_shutdown_of_a_halted_vm_clears_what_may_be_left(timeout):
    assert plan(calls.VmShutdown(id="vm1", timeout=timeout), snapshot("halted")) == Plan(
        reason="shut down", segments=[down([m.VmDestroy()], None)]
    )


@pytest.mark.parametrize("spent", [False, True])
def test_a_shutdown_of_a_suspended_vm_drops_its_image_first(spent):
    there = snapshot("suspended", extra=suspended(spent=spent))
    assert plan(calls.VmShutdown(id="vm1"), there).segments == [
        down([m.VmDropImage(image=IMAGE), m.VmDestroy()], None)
    ]


# Reboot


def test_a_hard_reboot_goes_down_and_up_again():
    assert plan(calls.VmReboot(id="vm1"), snapshot("running")) == Plan(
        reason="rebooted", segments=[up([], OLD), down(DOWN), up(UP)]
    )


def test_a_clean_reboot_asks_first():
    assert plan(calls.VmReboot(id="vm1", timeout=90, force=True), snapshot(hooks=HOOKS)) == Plan(
        reason="rebooted",
        segments=[
            up(
                [
                    *scripts("vm-pre-reboot", "clean"),
                    m.VmRequestShutdown(reason="reboot", timeout=60.0, force=True),
                    m.VmAwaitShutdown(timeout=90, force=True),
                ],
                OLD,
            ),
            down(DOWN),
            up(
                [
                    *scripts("vm-pre-start", "clean-reboot"),
                    *UP,
                    *scripts("vm-post-start", "clean-reboot"),
                ]
            ),
        ],
    )


def test_the_hook_of_a_hard_reboot_may_refuse_it():
    """Nothing has been torn down then."""
    first = plan(calls.VmReboot(id="vm1"), snapshot(hooks=HOOKS)).segments[0]
    assert first == up(scripts("vm-pre-reboot", "hard"), OLD)
    assert not first.finish


def test_a_paused_vm_is_rebooted_hard():
    assert plan(calls.VmReboot(id="vm1"), snapshot("paused")).segments == [
        up([], OLD), down(STOPPED_DOWN), up(UP),
    ]


@pytest.mark.parametrize("state", ["halted", "suspended"])
def test_what_does_not_run_cannot_be_rebooted(state):
    with pytest.raises(BadPowerState) as raised:
        plan(calls.VmReboot(id="vm1"), snapshot(state))
    assert raised.value.facts() == {
        "id": "vm1", "actual": state, "expected": ["running", "paused"],
    }


# Pause, unpause


@pytest.mark.parametrize(
    ("call", "state", "steps", "reason"),
    [
        (calls.VmPause, "running", [m.VmPause()], "paused"),
        (calls.VmPause, "paused", [], "paused"),
        (calls.VmUnpause, "paused", [m.VmUnpause()], "unpaused"),
        (calls.VmUnpause, "running", [], "unpaused"),
    ],
    ids=["pause", "pause again", "unpause", "unpause again"],
)
def test_pause_and_unpause_do_what_is_not_done_yet(call, state, steps, reason):
    assert plan(call(id="vm1"), snapshot(state)) == Plan(reason=reason, segments=[up(steps, OLD)])


BUILT_ONLY = [
    calls.VmPause(id="vm1"),
    calls.VmUnpause(id="vm1"),
    calls.VmSetVcpus(id="vm1", vcpus=1),
    calls.VmCreateDeviceModel(id="vm1"),
]


@pytest.mark.parametrize("call", BUILT_ONLY, ids=lambda call: call.method)
def test_what_needs_a_built_domain_says_so_of_a_shell(call):
    with pytest.raises(DomainNotBuilt) as raised:
        plan(call, snapshot("shell"))
    assert raised.value.facts() == {"id": "vm1"}


@pytest.mark.parametrize("call", BUILT_ONLY, ids=lambda call: call.method)
@pytest.mark.parametrize("state", ["halted", "suspended"])
def test_what_needs_a_domain_says_what_there_is(call, state):
    with pytest.raises(BadPowerState) as raised:
        plan(call, snapshot(state))
    assert raised.value.facts() == {
        "id": "vm1", "actual": state, "expected": ["running", "paused"],
    }


@pytest.mark.parametrize("call", BUILT_ONLY, ids=lambda call: call.method)
def test_what_needs_a_live_guest_says_that_it_has_stopped(call):
    with pytest.raises(BadPowerState) as raised:
        plan(call, snapshot("stopped"))
    assert raised.value.actual == "stopped (poweroff)"


# Single micro-ops, delay


def test_create_makes_an_empty_domain():
    assert plan(calls.VmCreate(id="vm1"), snapshot("halted")) == Plan(
        reason="created", segments=[up([m.VmCreate()])]
    )


def test_build_and_the_device_model_act_on_the_domain_that_there_is():
    assert plan(calls.VmBuild(id="vm1"), snapshot("shell")).segments == [up([m.VmBuild()], OLD)]
    bare = snapshot("paused", domain=domain(paused=True, device_model=False))
    assert plan(calls.VmCreateDeviceModel(id="vm1"), bare).segments == [
        up([m.VmCreateDeviceModel()], OLD)
    ]


def test_what_is_built_or_has_its_device_model_is_let_be():
    assert plan(calls.VmBuild(id="vm1"), snapshot("paused")) == Plan()
    assert plan(calls.VmCreateDeviceModel(id="vm1"), snapshot("running")) == Plan()


@pytest.mark.parametrize("state", ["halted", "suspended", "running"])
def test_only_a_paused_domain_is_built(state):
    with pytest.raises(BadPowerState):
        plan(calls.VmBuild(id="vm1"), snapshot(state))


@pytest.mark.parametrize("state", ["running", "paused", "suspended", "shell"])
def test_create_is_for_a_halted_vm(state):
    with pytest.raises(BadPowerState) as raised:
        plan(calls.VmCreate(id="vm1"), snapshot(state))
    assert raised.value.expected == ["halted"]


def test_destroy_runs_no_hook():
    assert plan(calls.VmDestroy(id="vm1"), snapshot("running", hooks=HOOKS)) == Plan(
        reason="destroyed", segments=[down(DOWN)]
    )


@pytest.mark.parametrize("state", ["halted", "suspended"])
def test_destroy_without_a_domain_succeeds_and_keeps_an_image(state):
    assert plan(calls.VmDestroy(id="vm1"), snapshot(state)).segments == [
        down([m.VmDestroy()], None)
    ]


@pytest.mark.parametrize(
    ("state", "incarnation"), [("halted", None), ("running", OLD), ("suspended", None)]
)
def test_a_delay_is_for_every_state(state, incarnation):
    assert plan(calls.VmDelay(id="vm1", seconds=2.5), snapshot(state)).segments == [
        up([m.VmDelay(seconds=2.5)], incarnation)
    ]


def test_the_values_name_every_device():
    assert {op.id for op in [*PLUGS, *CARDS]} == {
        d.id for d in (*META.vbds, *META.vifs, *META.pcis)
    }
