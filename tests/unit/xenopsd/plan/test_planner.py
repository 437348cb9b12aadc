"""Every operation × every state: a plan, or an error that says why not."""

from itertools import product

import pytest
from rigs.values import CARD0, CD, ETH0, ISO, MIB, ROOT, snapshot

from idl import calls
from idl.errors import Unimplemented, XenopsError
from idl.vif import Bridge, IpConfiguration, Unlocked
from xenopsd import microop as m
from xenopsd.plan.planner import plan

#: One call of each operation; devices plugged.
EACH = [
    calls.VmStart(id="vm1"),
    calls.VmShutdown(id="vm1"),
    calls.VmReboot(id="vm1"),
    calls.VmPause(id="vm1"),
    calls.VmUnpause(id="vm1"),
    calls.VmSuspend(id="vm1"),
    calls.VmResume(id="vm1"),
    calls.VmMigrate(id="vm1", destination="unix:///elsewhere"),
    calls.VmCreate(id="vm1"),
    calls.VmBuild(id="vm1"),
    calls.VmCreateDeviceModel(id="vm1"),
    calls.VmDestroy(id="vm1"),
    calls.VmSetVcpus(id="vm1", vcpus=1),
    calls.VmSetMemoryDynamicRange(id="vm1", minimum=MIB, maximum=2 * MIB),
    calls.VmSetXsdata(id="vm1", xsdata={}),
    calls.VmDelay(id="vm1", seconds=1),
    calls.VmAdopt(id="vm1", domain="9"),
    calls.VmForget(id="vm1"),
    calls.VbdPlug(id=ROOT.id),
    calls.VbdUnplug(id=ROOT.id),
    calls.VbdInsert(id=CD.id, backend=ISO),
    calls.VbdEject(id=CD.id),
    calls.VifPlug(id=ETH0.id),
    calls.VifUnplug(id=ETH0.id),
    calls.VifMove(id=ETH0.id, backend=Bridge(name="br9")),
    calls.VifSetCarrier(id=ETH0.id, carrier=True),
    calls.VifSetLockingMode(id=ETH0.id, locking_mode=Unlocked()),
    calls.VifSetIpv4Configuration(id=ETH0.id, ipv4=IpConfiguration()),
    calls.VifSetIpv6Configuration(id=ETH0.id, ipv6=IpConfiguration()),
    calls.VifSetRate(id=ETH0.id, rate=None),
    calls.PciPlug(id=CARD0.id),
    calls.PciUnplug(id=CARD0.id),
]
STATES = ["halted", "running", "paused", "suspended", "shell", "stopped"]
LIVE = {"running", "paused"}
#: Where an operation has a plan; elsewhere it has an error.
ALLOWED = {
    "VM.start": {"halted"},
    "VM.shutdown": {*STATES},
    "VM.reboot": {"running", "paused", "shell", "stopped"},
    "VM.pause": LIVE,
    "VM.unpause": LIVE,
    "VM.suspend": {"running", "stopped"},
    "VM.resume": {"suspended"},
    "VM.migrate": set(),
    "VM.create": {"halted"},
    "VM.build": {"paused", "shell"},
    "VM.create_device_model": LIVE,
    "VM.destroy": {*STATES},
    "VM.set_vcpus": LIVE,
    "VM.set_memory_dynamic_range": {"halted", "suspended", "shell", *LIVE},
    "VM.set_xsdata": {"halted", "suspended", "shell", *LIVE},
    "VM.delay": {*STATES},
    "VM.adopt": set(),
    "VM.forget": {*STATES},
    "VBD.plug": {"shell"},
    "VBD.unplug": LIVE,
    "VBD.insert": LIVE,
    "VBD.eject": LIVE,
    "VIF.plug": {"shell"},
    "VIF.unplug": LIVE,
    **{
        f"VIF.{verb}": {"halted", "suspended", "shell", *LIVE}
        for verb in (
            "move", "set_carrier", "set_locking_mode", "set_ipv4_configuration",
            "set_ipv6_configuration", "set_rate",
        )
    },
    "PCI.plug": {"shell"},
    "PCI.unplug": LIVE,
}


def test_each_operation_is_here():
    operations = {cls for cls in calls.CALLS.values() if issubclass(cls, calls.Operation)}
    assert {type(call) for call in EACH} == operations
    assert set(ALLOWED) == {cls.method for cls in operations}


@pytest.mark.parametrize("call", EACH, ids=lambda call: call.method)
@pytest.mark.parametrize("state", STATES)
def test_each_operation_has_a_plan_or_an_error_in_each_state(call, state):
    if state in ALLOWED[call.method]:
        plan(call, snapshot(state))
    else:
        with pytest.raises(XenopsError) as raised:
            plan(call, snapshot(state))
        assert raised.value.error_object().data["error"] != "InternalError"


@pytest.mark.parametrize("call", EACH, ids=lambda call: call.method)
@pytest.mark.parametrize("state", ["halted", "suspended"])
def test_no_plan_needs_a_domain_before_it_has_made_one(call, state):
    if state not in ALLOWED[call.method]:
        return
    for op, _ in plan(call, snapshot(state)).steps():
        if isinstance(op, m.VmCreate):
            return
        assert not isinstance(op, m.NEEDS_DOMAIN)


@pytest.mark.parametrize("call", EACH, ids=lambda call: call.method)
@pytest.mark.parametrize("state", STATES)
def test_every_step_acts_for_the_domain_that_there_is_or_that_it_makes(call, state):
    if state not in ALLOWED[call.method]:
        return
    there = snapshot(state)
    known = {there.fresh, there.extra.incarnation, None}
    if there.domain is not None:
        known.add(there.domain.incarnation)
    for op, segment in plan(call, there).steps():
        assert segment.incarnation in known
        if isinstance(op, m.VmCreate):
            assert segment.incarnation == there.fresh
        elif isinstance(op, m.NEEDS_DOMAIN):
            assert segment.incarnation is not None


def plans():
    for call, state in product(EACH, STATES):
        if state in ALLOWED[call.method]:
            yield call.method, state, plan(call, snapshot(state))


def places(steps, *kinds):
    return [at for at, op in enumerate(steps) if isinstance(op, kinds)]


def test_in_every_plan_the_order_holds():
    """Whatever is planned: the laws that all plans keep."""
    for method, state, planned in plans():
        steps = [op for op, _ in planned.steps()]
        where = f"{method} of a VM that is {state}"
        commit = places(steps, m.VmCommitImage)
        torn = places(steps, m.VmDestroyDeviceModel, m.VmDestroy, m.VbdUnplug)
        if commit:
            assert commit[0] < min(torn), f"{where}: committed before anything is torn down"
        spent, run = places(steps, m.VmSpendImage), places(steps, m.VmUnpause)
        if spent and run:
            assert max(spent) < min(run), f"{where}: spent before it runs"
        for at in places(steps, m.VmDropImage):
            assert not spent or at > max(spent), f"{where}: dropped once it is spent"
        model = places(steps, m.VmCreateDeviceModel)
        if model and places(steps, m.VmCreate):
            after_create = places(steps, m.VbdPlug, m.VifPlug)
            assert all(at < model[0] for at in after_create), f"{where}: plugged before the model"
            assert all(at > model[0] for at in places(steps, m.PciPlug)), where
        vbds, vifs = places(steps, m.VbdPlug), places(steps, m.VifPlug)
        if vbds and vifs:
            assert max(vbds) < min(vifs), f"{where}: VBDs before VIFs"


def test_nothing_is_torn_down_in_a_segment_that_may_be_undone():
    for method, state, planned in plans():
        for op, segment in planned.steps():
            if isinstance(op, m.VmDestroy | m.VmDestroyDeviceModel | m.VmRemoveRecord):
                assert segment.finish, f"{method} of a VM that is {state}"


def test_what_a_backend_cannot_do_at_all_is_unimplemented():
    for call in (calls.VmMigrate(id="vm1", destination="x"), calls.VmAdopt(id="vm1", domain="9")):
        with pytest.raises(Unimplemented) as raised:
            plan(call, snapshot("halted"))
        assert raised.value.facts() == {"what": call.method, "backend": "simulator"}


def test_to_forget_touches_nothing_but_the_record():
    for state in STATES:
        planned = plan(calls.VmForget(id="vm1"), snapshot(state))
        assert [op for op, _ in planned.steps()] == [m.VmRemoveRecord()]
