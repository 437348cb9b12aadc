"""Devices and live changes: the exact plans, and the facts of what is refused."""

import msgspec
import pytest
from msgspec.structs import replace
from rigs.values import (
    BARE,
    CARD0,
    CD,
    ETH0,
    ISO,
    META,
    MIB,
    OLD,
    ROOT,
    RUNNING,
    VM,
    domain,
    snapshot,
)

from idl import calls
from idl.errors import (
    BadPowerState,
    DeviceDetachRejected,
    DeviceIsConnected,
    DeviceNotConnected,
    DoesNotExist,
    InvalidParameter,
    InvalidVcpus,
    MediaNotEjectable,
    Unimplemented,
)
from idl.host import FEATURES
from idl.vif import Bridge, IpConfiguration, Locked, Rate
from xenopsd import microop as m
from xenopsd.plan.devices import VIF_FIELDS
from xenopsd.plan.plan import Plan, Segment
from xenopsd.plan.planner import plan

OTHER = replace(ISO, path="/images/other")
BARE_DOMAIN = domain(BARE)


def on_domain(*steps):
    return Plan(segments=[Segment(incarnation=OLD, steps=list(steps))])


def recorded(*steps):
    return Plan(segments=[Segment(steps=list(steps))])


def plain(value):
    return msgspec.to_builtins(value)


PLUGS = [
    (calls.VbdPlug(id=ROOT.id), m.VbdPlug(id=ROOT.id), "vbd_hotplug"),
    (calls.VifPlug(id=ETH0.id), m.VifPlug(id=ETH0.id), "vif_hotplug"),
    (calls.PciPlug(id=CARD0.id), m.PciPlug(id=CARD0.id), "pci"),
]
UNPLUGS = [
    (calls.VbdUnplug(id=ROOT.id), m.VbdUnplug(id=ROOT.id), "vbd_hotplug"),
    (calls.VifUnplug(id=ETH0.id), m.VifUnplug(id=ETH0.id), "vif_hotplug"),
    (calls.PciUnplug(id=CARD0.id), m.PciUnplug(id=CARD0.id), "pci"),
]
KINDS = ["VBD", "VIF", "PCI"]


@pytest.mark.parametrize(("call", "step", "_feature"), PLUGS, ids=KINDS)
@pytest.mark.parametrize("state", ["running", "paused", "shell"])
def test_a_plug_is_one_step_in_the_domain_that_there_is(call, step, _feature, state):
    there = snapshot(state, domain=replace(snapshot(state).domain, vbds={}, vifs={}, pcis=[]))
    assert plan(call, there) == on_domain(step)


@pytest.mark.parametrize(("call", "_step", "_feature"), PLUGS, ids=KINDS)
def test_what_is_plugged_is_not_plugged_again(call, _step, _feature):
    with pytest.raises(DeviceIsConnected) as raised:
        plan(call, snapshot("running"))
    assert raised.value.facts() == {"id": call.id}


@pytest.mark.parametrize(("call", "step", "_feature"), UNPLUGS, ids=KINDS)
@pytest.mark.parametrize("state", ["running", "paused"])
def test_an_unplug_is_one_step(call, step, _feature, state):
    assert plan(call, snapshot(state)) == on_domain(step)


@pytest.mark.parametrize(("call", "_step", "_feature"), UNPLUGS, ids=KINDS)
def test_what_is_not_plugged_cannot_be_unplugged(call, _step, _feature):
    with pytest.raises(DeviceNotConnected) as raised:
        plan(call, snapshot("running", domain=BARE_DOMAIN))
    assert raised.value.facts() == {"id": call.id}


@pytest.mark.parametrize(("call", "step", "feature"), PLUGS, ids=KINDS)
def test_a_plug_needs_the_backends_feature(call, step, feature):
    with pytest.raises(Unimplemented) as raised:
        plan(call, snapshot(domain=BARE_DOMAIN, features=FEATURES - {feature}))
    assert raised.value.facts() == {"what": feature, "backend": "simulator"}


@pytest.mark.parametrize(("call", "step", "feature"), UNPLUGS, ids=KINDS)
def test_an_unplug_needs_the_backends_feature(call, step, feature):
    with pytest.raises(Unimplemented) as raised:
        plan(call, snapshot(features=FEATURES - {feature}))
    assert raised.value.facts() == {"what": feature, "backend": "simulator"}


EVERY = [*PLUGS, *UNPLUGS]


@pytest.mark.parametrize(
    ("call", "_step", "_feature"), EVERY, ids=[call.method for call, _, _ in EVERY]
)
@pytest.mark.parametrize("state", ["halted", "suspended"])
def test_hot_plugging_needs_a_domain(call, _step, _feature, state):
    with pytest.raises(BadPowerState) as raised:
        plan(call, snapshot(state))
    assert raised.value.facts() == {
        "id": "vm1", "actual": state, "expected": ["running", "paused"],
    }


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (calls.VbdPlug(id="vm1/no"), "VBD"),
        (calls.VbdUnplug(id="vm1/no"), "VBD"),
        (calls.VifPlug(id="vm1/no"), "VIF"),
        (calls.VifUnplug(id="vm1/no"), "VIF"),
        (calls.PciPlug(id="vm1/no"), "PCI"),
        (calls.PciUnplug(id="vm1/no"), "PCI"),
        (calls.VbdEject(id="vm1/no"), "VBD"),
        (calls.VbdInsert(id="vm1/no", backend=ISO), "VBD"),
        (calls.VifSetCarrier(id="vm1/no", carrier=True), "VIF"),
        (calls.VbdPlug(id=ETH0.id), "VBD"),
    ],
    ids=lambda value: getattr(value, "method", value),
)
def test_a_device_that_has_gone_meanwhile_does_not_exist(call, kind):
    with pytest.raises(DoesNotExist) as raised:
        plan(call, snapshot("running"))
    assert raised.value.facts() == {"kind": kind, "id": call.id}


def test_force_cuts_the_hosts_side_where_the_backend_can():
    call = calls.VbdUnplug(id=ROOT.id, force=True)
    assert plan(call, snapshot()) == on_domain(m.VbdUnplug(id=ROOT.id, force=True))
    with pytest.raises(Unimplemented) as raised:
        plan(call, snapshot(features=FEATURES - {"vbd_force_unplug"}))
    assert raised.value.what == "vbd_force_unplug"


def test_what_its_record_says_to_leave_in_is_left_in_but_by_force():
    fixed = replace(META, vbds=[replace(ROOT, unpluggable=False)])
    with pytest.raises(DeviceDetachRejected) as raised:
        plan(calls.VbdUnplug(id=ROOT.id), snapshot(meta=fixed))
    assert raised.value.id == ROOT.id
    assert plan(calls.VbdUnplug(id=ROOT.id, force=True), snapshot(meta=fixed)).steps()


def test_what_its_record_says_to_leave_in_and_is_not_in_is_not_connected():
    fixed = replace(META, vbds=[replace(ROOT, unpluggable=False)])
    with pytest.raises(DeviceNotConnected):
        plan(calls.VbdUnplug(id=ROOT.id), snapshot(meta=fixed, domain=BARE_DOMAIN))


@pytest.mark.parametrize(
    ("call", "step", "_feature"), EVERY, ids=[call.method for call, _, _ in EVERY]
)
def test_nothing_is_plugged_into_a_guest_that_has_stopped(call, step, _feature):
    found = domain(BARE if "Plug" in type(step).__name__ else META, stopped="poweroff")
    with pytest.raises(BadPowerState) as raised:
        plan(call, snapshot(domain=found))
    assert raised.value.actual == "stopping (poweroff)"


# Media


def test_a_medium_goes_into_the_drive_and_then_into_the_record():
    assert plan(calls.VbdInsert(id=CD.id, backend=OTHER), snapshot()) == on_domain(
        m.VbdInsert(id=CD.id, backend=OTHER, was=ISO),
        m.VmRecord(
            object=CD.id, changes={"backend": plain(OTHER)}, was={"backend": plain(ISO)}
        ),
    )


def test_a_medium_goes_out_of_the_drive_and_then_out_of_the_record():
    assert plan(calls.VbdEject(id=CD.id), snapshot()) == on_domain(
        m.VbdEject(id=CD.id, was=ISO),
        m.VmRecord(object=CD.id, changes={"backend": None}, was={"backend": plain(ISO)}),
    )


def test_an_empty_drive_can_be_ejected():
    empty = replace(META, vbds=[replace(CD, backend=None)])
    assert plan(calls.VbdEject(id=CD.id), snapshot(meta=empty)) == on_domain(
        m.VbdEject(id=CD.id, was=None),
        m.VmRecord(object=CD.id, changes={"backend": None}, was={"backend": None}),
    )


MEDIA = [calls.VbdInsert(id=CD.id, backend=OTHER), calls.VbdEject(id=CD.id)]


@pytest.mark.parametrize("call", MEDIA, ids=lambda call: call.method)
@pytest.mark.parametrize("state", ["halted", "suspended"])
def test_media_are_changed_in_a_drive_that_there_is(call, state):
    with pytest.raises(BadPowerState):
        plan(call, snapshot(state))


@pytest.mark.parametrize("call", MEDIA, ids=lambda call: call.method)
def test_media_are_changed_in_a_drive_that_is_plugged(call):
    with pytest.raises(DeviceNotConnected):
        plan(call, snapshot(domain=BARE_DOMAIN))


@pytest.mark.parametrize("state", ["halted", "running"])
@pytest.mark.parametrize("call", [calls.VbdInsert, calls.VbdEject])
def test_a_disk_has_no_medium_whatever_the_state(call, state):
    fields = {"backend": OTHER} if call is calls.VbdInsert else {}
    with pytest.raises(MediaNotEjectable) as raised:
        plan(call(id=ROOT.id, **fields), snapshot(state))
    assert raised.value.facts() == {"id": ROOT.id}


# VIF settings


SETTINGS = [
    (calls.VifMove(id=ETH0.id, backend=Bridge(name="br9")), "backend"),
    (calls.VifSetCarrier(id=ETH0.id, carrier=False), "carrier"),
    (calls.VifSetLockingMode(id=ETH0.id, locking_mode=Locked(ipv4=["10.0.0.1"])), "locking_mode"),
    (calls.VifSetIpv4Configuration(id=ETH0.id, ipv4=IpConfiguration(type="dhcp")), "ipv4"),
    (calls.VifSetIpv6Configuration(id=ETH0.id, ipv6=IpConfiguration(type="dhcp")), "ipv6"),
    (calls.VifSetRate(id=ETH0.id, rate=Rate(kbps=100)), "rate"),
]


def test_each_setting_of_a_vif_is_here():
    assert {type(call): field for call, field in SETTINGS} == VIF_FIELDS


@pytest.mark.parametrize(("call", "field"), SETTINGS, ids=[f for _, f in SETTINGS])
def test_a_setting_is_applied_and_then_recorded(call, field):
    value, was = plain(getattr(call, field)), plain(getattr(ETH0, field))
    assert plan(call, snapshot()) == on_domain(
        m.VifConfigure(id=ETH0.id, field=field, value=value, was=was),
        m.VmRecord(object=ETH0.id, changes={field: value}, was={field: was}),
    )


@pytest.mark.parametrize(("call", "field"), SETTINGS, ids=[f for _, f in SETTINGS])
@pytest.mark.parametrize("state", ["halted", "suspended", "unplugged"])
def test_a_setting_of_what_is_not_plugged_is_recorded(call, field, state):
    there = snapshot(domain=BARE_DOMAIN) if state == "unplugged" else snapshot(state)
    record = m.VmRecord(
        object=ETH0.id,
        changes={field: plain(getattr(call, field))},
        was={field: plain(getattr(ETH0, field))},
    )
    assert plan(call, there) == recorded(record)


# vCPUs, memory, xsdata


def test_vcpus_are_changed_now_and_for_the_next_start():
    assert plan(calls.VmSetVcpus(id="vm1", vcpus=4), snapshot()) == on_domain(
        m.VmSetVcpus(vcpus=4, was=2),
        m.VmRecord(object="vm1", changes={"vcpus": 4}, was={"vcpus": 2}),
    )


@pytest.mark.parametrize("vcpus", [0, -1, 5])
def test_vcpus_are_bounded_by_what_the_running_vm_was_given(vcpus):
    wanted = replace(META, vm=replace(VM, vcpu_max=64))
    with pytest.raises(InvalidVcpus) as raised:
        plan(calls.VmSetVcpus(id="vm1", vcpus=vcpus), snapshot(meta=wanted, extra=RUNNING))
    assert raised.value.facts() == {"requested": vcpus, "maximum": 4}


def test_vcpus_that_the_next_start_will_not_have_are_not_recorded():
    fewer = replace(META, vm=replace(VM, vcpu_max=2))
    there = snapshot(meta=fewer, extra=RUNNING)
    assert plan(calls.VmSetVcpus(id="vm1", vcpus=4), there) == on_domain(
        m.VmSetVcpus(vcpus=4, was=2)
    )


def memory(minimum, maximum):
    return calls.VmSetMemoryDynamicRange(id="vm1", minimum=minimum * MIB, maximum=maximum * MIB)


def range_record(minimum, maximum):
    return m.VmRecord(
        object="vm1",
        changes={"memory_dynamic_min": minimum * MIB, "memory_dynamic_max": maximum * MIB},
        was={"memory_dynamic_min": 256 * MIB, "memory_dynamic_max": 512 * MIB},
    )


@pytest.mark.parametrize(
    ("target", "low", "high", "expected"),
    [(512, 128, 256, 256), (128, 256, 512, 256), (300, 256, 512, 300)],
    ids=["down into it", "up into it", "in it already"],
)
def test_a_balloon_is_brought_into_its_range(target, low, high, expected):
    there = snapshot(domain=domain(memory_target=target * MIB))
    assert plan(memory(low, high), there) == on_domain(
        m.VmSetMemory(target=expected * MIB, was=target * MIB), range_record(low, high)
    )


def test_a_balloon_grows_no_further_than_its_domain_can():
    there = snapshot(domain=domain(memory_target=128 * MIB, memory_limit=200 * MIB))
    assert plan(memory(256, 512), there) == on_domain(
        m.VmSetMemory(target=200 * MIB, was=128 * MIB), range_record(256, 512)
    )


@pytest.mark.parametrize("state", ["halted", "suspended"])
def test_a_range_without_a_balloon_is_recorded(state):
    assert plan(memory(128, 256), snapshot(state)) == recorded(range_record(128, 256))


@pytest.mark.parametrize(
    ("minimum", "maximum", "name"),
    [(0, 1, "minimum"), (-1, 1, "minimum"), (2, 1, "minimum"), (1, 513, "maximum")],
)
@pytest.mark.parametrize("state", ["halted", "running"])
def test_a_range_that_is_none_names_what_is_wrong(minimum, maximum, name, state):
    with pytest.raises(InvalidParameter) as raised:
        plan(memory(minimum, maximum), snapshot(state))
    assert raised.value.name == name


XSDATA = calls.VmSetXsdata(id="vm1", xsdata={"a": "b"})


def test_xsdata_are_replaced_where_the_guest_sees_them_and_in_the_record():
    seen = replace(RUNNING, running=replace(VM, xsdata={"seen": "now"}))
    assert plan(XSDATA, snapshot(extra=seen)) == on_domain(
        m.VmSetXsdata(xsdata={"a": "b"}, was={"seen": "now"}),
        m.VmRecord(object="vm1", changes={"xsdata": {"a": "b"}}, was={"xsdata": {"key": "old"}}),
    )


@pytest.mark.parametrize("state", ["halted", "suspended"])
def test_xsdata_without_a_guest_are_recorded(state):
    assert [type(op) for op, _ in plan(XSDATA, snapshot(state)).steps()] == [m.VmRecord]


@pytest.mark.parametrize(
    ("call", "feature"),
    [(calls.VmSetVcpus(id="vm1", vcpus=1), "vcpu_hotplug"), (memory(128, 256), "balloon")],
    ids=["vCPUs", "memory"],
)
def test_live_changes_need_the_backends_feature(call, feature):
    with pytest.raises(Unimplemented) as raised:
        plan(call, snapshot(features=FEATURES - {feature}))
    assert raised.value.what == feature
