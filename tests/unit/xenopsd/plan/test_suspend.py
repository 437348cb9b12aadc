"""Suspend and resume: the exact plans, and the order that makes them safe."""

import pytest
from msgspec.structs import replace
from rigs.values import (
    BASE,
    CARD0,
    CD,
    DATA,
    ETH0,
    ETH1,
    FRESH,
    IMAGE,
    META,
    OLD,
    OTHER_IMAGE,
    ROOT,
    domain,
    snapshot,
    suspended,
)

from idl import calls
from idl.errors import BadPowerState, Unimplemented
from idl.host import FEATURES
from xenopsd import microop as m
from xenopsd.plan.lifecycle import tear_down
from xenopsd.plan.plan import Plan, Segment
from xenopsd.plan.planner import plan

SUSPEND, RESUME = calls.VmSuspend(id="vm1"), calls.VmResume(id="vm1")
HOOKS = {
    hook: (f"/hooks/{hook}",)
    for hook in ("vm-pre-suspend", "vm-post-suspend", "vm-pre-resume", "vm-post-resume")
}


def hook(name, reason, *, tolerant=False):
    return m.VmHook(hook=name, script=f"/hooks/{name}", reason=reason, tolerant=tolerant)


def test_an_image_is_committed_before_anything_is_torn_down():
    there = snapshot("running")
    found = there.domain
    assert plan(SUSPEND, there) == Plan(
        reason="suspended",
        segments=[
            Segment(
                incarnation=OLD,
                steps=[
                    m.VmSave(image=IMAGE),
                    m.VmCommitImage(
                        image=IMAGE, plugged=[*found.vbds, *found.vifs, *found.pcis]
                    ),
                ],
            ),
            tear_down(there),
        ],
    )


def test_what_is_committed_is_what_is_plugged_and_not_what_is_recorded():
    found = domain(replace(META, vbds=[ROOT], vifs=[], pcis=[]))
    committed = plan(SUSPEND, snapshot("running", domain=found)).segments[0].steps[-1]
    assert committed == m.VmCommitImage(image=IMAGE, plugged=[ROOT.id])


def test_an_image_lies_where_it_is_asked_for():
    steps = plan(calls.VmSuspend(id="vm1", image=OTHER_IMAGE), snapshot()).segments[0].steps
    assert [op.image for op in steps] == [OTHER_IMAGE, OTHER_IMAGE]


def test_the_hook_before_a_suspend_may_refuse_it_and_the_one_after_may_not_undo_it():
    steps = [op for op, _ in plan(SUSPEND, snapshot(hooks=HOOKS)).steps()]
    assert steps[0] == hook("vm-pre-suspend", "suspend")
    assert steps[-1] == hook("vm-post-suspend", "suspend", tolerant=True)


@pytest.mark.parametrize("state", ["halted", "paused", "suspended", "shell"])
def test_only_a_running_vm_is_suspended(state):
    with pytest.raises(BadPowerState) as raised:
        plan(SUSPEND, snapshot(state))
    actual = "paused" if state == "shell" else state
    assert raised.value.facts() == {"id": "vm1", "actual": actual, "expected": ["running"]}


def test_a_backend_that_cannot_suspend_says_so():
    with pytest.raises(Unimplemented) as raised:
        plan(SUSPEND, snapshot("running", features=FEATURES - {"suspend"}))
    assert raised.value.facts() == {"what": "suspend", "backend": "simulator"}


def test_a_backend_that_cannot_suspend_on_this_host_says_why():
    there = snapshot("running", features=FEATURES - {"suspend"}, lacking={"suspend": "no criu"})
    with pytest.raises(Unimplemented) as raised:
        plan(SUSPEND, there)
    assert raised.value.facts() == {"what": "suspend (no criu)", "backend": "simulator"}


BACK = [
    m.VmCheckImage(image=IMAGE),
    m.VmCreate(),
    m.VbdPlug(id=DATA.id),
    m.VbdPlug(id=ROOT.id),
    m.VbdPlug(id=BASE.id),
    m.VbdPlug(id=CD.id),
    m.VifPlug(id=ETH0.id),
    m.VifPlug(id=ETH1.id),
    m.VmRestore(image=IMAGE),
    m.VmCreateDeviceModel(),
    m.PciPlug(id=CARD0.id),
    m.PciPlug(id="vm1/card1"),
    m.VmSpendImage(image=IMAGE),
]


def test_an_image_is_spent_before_the_first_vcpu_runs_and_dropped_after():
    assert plan(RESUME, snapshot("suspended")) == Plan(
        reason="resumed",
        segments=[
            Segment(incarnation=FRESH, steps=BACK),
            Segment(
                incarnation=FRESH, finish=True, steps=[m.VmUnpause(), m.VmDropImage(image=IMAGE)]
            ),
        ],
    )


def test_a_paused_resume_spends_its_image_too():
    """Whoever unpauses it later knows nothing of images."""
    paused = plan(calls.VmResume(id="vm1", paused=True), snapshot("suspended"))
    assert paused.segments[0].steps == BACK
    assert paused.segments[1].steps == [m.VmDropImage(image=IMAGE)]


def test_a_resume_runs_its_hooks():
    there = plan(RESUME, snapshot("suspended", hooks=HOOKS))
    assert there.segments[0].steps[1] == hook("vm-pre-resume", "none")
    assert there.segments[1].steps[-1] == hook("vm-post-resume", "none", tolerant=True)


def test_only_what_was_plugged_is_plugged_again():
    extra = suspended()
    only = replace(extra, image=replace(extra.image, plugged=[ROOT.id, ETH1.id]))
    steps = [op for op, _ in plan(RESUME, snapshot("suspended", extra=only)).steps()]
    assert [op for op in steps if isinstance(op, m.VbdPlug | m.VifPlug | m.PciPlug)] == [
        m.VbdPlug(id=ROOT.id), m.VifPlug(id=ETH1.id),
    ]


def test_a_resume_from_elsewhere_reads_spends_and_drops_that_image():
    there = plan(calls.VmResume(id="vm1", image=OTHER_IMAGE), snapshot("suspended"))
    images = {op.image for op, _ in there.steps() if hasattr(op, "image")}
    assert images == {OTHER_IMAGE}


@pytest.mark.parametrize("state", ["halted", "running", "paused", "shell", "stopped"])
def test_only_a_suspended_vm_is_resumed(state):
    with pytest.raises(BadPowerState) as raised:
        plan(RESUME, snapshot(state))
    assert raised.value.expected == ["suspended"]


def test_a_spent_image_is_none():
    with pytest.raises(BadPowerState) as raised:
        plan(RESUME, snapshot("suspended", extra=suspended(spent=True)))
    assert raised.value.facts() == {"id": "vm1", "actual": "halted", "expected": ["suspended"]}
