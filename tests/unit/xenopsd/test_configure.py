"""Changes of a configuration: what is allowed, and what the new record is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rigs.values import (
    BARE,
    CARD0,
    CD,
    DATA,
    ETH0,
    ETH1,
    HALTED,
    META,
    MIB,
    ROOT,
    RUNNING,
    VM,
    domain,
)

from idl.errors import (
    AlreadyExists,
    DeviceIsConnected,
    DoesNotExist,
    InvalidParameter,
    InvalidParams,
    InvalidVcpus,
)
from idl.metadata import Metadata
from idl.vbd import Local, Vbd
from idl.vif import Bridge, IpConfiguration, Vif
from idl.vm import Action, Vm
from xenopsd import configure


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"memory_dynamic_max": 513 * MIB}, "vm.memory_dynamic_max"),
        ({"memory_static_max": 128 * MIB}, "vm.memory_dynamic_max"),
        ({"memory_dynamic_min": 512 * MIB + 1}, "vm.memory_dynamic_min"),
    ],
)
def test_the_ranges_of_memory_lie_in_each_other(fields, name):
    with pytest.raises(InvalidParameter) as raised:
        configure.checked(replace(VM, **fields))
    assert raised.value.name == name
    assert str(next(iter(fields.values()))) in raised.value.reason


def test_no_more_vcpus_than_there_may_be():
    with pytest.raises(InvalidVcpus) as raised:
        configure.checked(replace(VM, vcpus=5))
    assert raised.value.facts() == {"requested": 5, "maximum": 4}


def test_what_is_allowed_is_the_same():
    assert configure.checked(VM) is VM


# Changes


def test_whole_fields_are_replaced():
    changed = configure.changed(VM, {"name": "new", "xsdata": {"a": "b"}, "on_crash": ["start"]})
    assert changed == replace(VM, name="new", xsdata={"a": "b"}, on_crash=[Action.START])


def test_nothing_changes_nothing():
    assert configure.changed(VM, {}) == VM


def test_its_id_cannot_change_but_may_be_said():
    assert configure.changed(VM, {"id": "vm1"}) == VM
    with pytest.raises(InvalidParameter) as raised:
        configure.changed(VM, {"id": "vm2"})
    assert raised.value.name == "changes.id"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nmae": "x"}, "changes.nmae: unknown field"),
        ({"memory_static_max": "big"}, "changes.memory_static_max: expected int, got str"),
        ({"vcpu_max": 0}, "changes.vcpu_max: expected int >= 1"),
        ({"scheduler": {"weight": 0}}, "changes.scheduler.weight: expected int >= 1"),
        ({"guest": {"type": "none"}}, "changes.guest.type: 'none' is not one of hvm, "),
        ({"scheduler": {"wieght": 1}}, "changes.scheduler.wieght: unknown field"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_not_of_its_type_is_named_by_its_path(changes, words):
    with pytest.raises(InvalidParams) as raised:
        configure.changed(VM, changes)
    assert raised.value.reason.startswith(words)


def test_a_change_that_contradicts_the_rest_is_refused():
    with pytest.raises(InvalidVcpus):
        configure.changed(VM, {"vcpu_max": 1})


def test_what_the_daemon_alone_reads_applies_at_once():
    wanted = replace(VM, name="new", auto_start=True, vcpu_max=8)
    assert configure.live(RUNNING, wanted).running == replace(VM, name="new", auto_start=True)
    assert configure.live(HALTED, wanted) is HALTED


# Devices


def test_a_device_gets_the_next_free_position():
    meta = replace(BARE, vbds=[replace(ROOT, position=0), replace(DATA, position=2)])
    added = configure.with_vbd(meta, Vbd(id="vm1/new"))
    assert added.vbds == [*meta.vbds, Vbd(id="vm1/new", position=1)]
    assert configure.with_vbd(added, Vbd(id="vm1/more")).vbds[-1].position == 3


ADDERS = {
    "VBD": (configure.with_vbd, ROOT),
    "VIF": (configure.with_vif, ETH0),
    "PCI": (configure.with_pci, CARD0),
}


@pytest.mark.parametrize("kind", ADDERS)
def test_an_id_is_taken_once(kind):
    add, device = ADDERS[kind]
    with pytest.raises(AlreadyExists) as raised:
        add(META, replace(device, position=77))
    assert raised.value.facts() == {"kind": kind, "id": device.id}


@pytest.mark.parametrize("kind", ADDERS)
def test_a_position_is_taken_once_and_who_has_it_is_named(kind):
    add, device = ADDERS[kind]
    with pytest.raises(InvalidParameter) as raised:
        add(META, replace(device, id="vm1/new"))
    assert raised.value.name == f"{kind.lower()}.position"
    assert device.id in raised.value.reason


@pytest.mark.parametrize("kind", ADDERS)
def test_a_device_of_another_vm_is_none_of_this_one(kind):
    add, device = ADDERS[kind]
    with pytest.raises(InvalidParameter) as raised:
        add(META, replace(device, id="vm2/new"))
    assert raised.value.name == f"{kind.lower()}.id"


@pytest.mark.parametrize("format", ["tar", "squashfs"])
def test_what_nobody_can_write_is_a_shared_base(format):
    added = configure.with_vbd(
        BARE, Vbd(id="vm1/a", backend=Local(path="/x", format=format))
    ).vbds[0]
    assert added.backend.overlay


def test_what_does_not_persist_writes_beside_its_base():
    added = configure.with_vbd(
        BARE, Vbd(id="vm1/a", backend=Local(path="/x"), persistent=False)
    ).vbds[0]
    assert added.backend.overlay
    assert not configure.with_vbd(BARE, Vbd(id="vm1/a", backend=Local(path="/x"))).vbds[
        0
    ].backend.overlay


def test_a_drive_may_be_empty():
    added = configure.with_vbd(BARE, Vbd(id="vm1/a", type="cdrom", persistent=False)).vbds[0]
    assert added.backend is None


def test_a_mac_that_is_given_is_kept_in_small_letters():
    given_mac = configure.with_vif(BARE, replace(ETH0, mac="02:AB:cd:00:00:01"))
    assert given_mac.vifs[0].mac == "02:ab:cd:00:00:01"


def test_a_mac_that_is_not_given_is_stable_and_differs_by_vm_and_position():
    first = configure.with_vif(BARE, ETH0).vifs[0].mac
    assert first == configure.with_vif(BARE, ETH0).vifs[0].mac
    other_vm = replace(BARE, vm=replace(VM, id="vm2"))
    others = {
        configure.with_vif(BARE, ETH1).vifs[0].mac,
        configure.with_vif(other_vm, replace(ETH0, id="vm2/eth0")).vifs[0].mac,
    }
    assert first not in others
    assert len(others) == 2


@given(st.text(min_size=1), st.integers(0, 65535))
def test_a_derived_mac_is_local_and_of_one_interface(vm, position):
    mac = configure.derived_mac(vm, position)
    octets = [int(part, 16) for part in mac.split(":")]
    assert len(mac) == 17
    assert octets[0] & 0b11 == 0b10


@pytest.mark.parametrize("kind", ["VBD", "VIF", "PCI"])
def test_only_what_is_there_and_not_plugged_is_dropped(kind):
    devices = {"VBD": META.vbds, "VIF": META.vifs, "PCI": META.pcis}[kind]
    device = devices[0]
    assert configure.removable(device.id, kind, devices, []) is device
    with pytest.raises(DeviceIsConnected):
        configure.removable(device.id, kind, devices, [device.id])
    with pytest.raises(DoesNotExist) as raised:
        configure.removable("vm1/no", kind, devices, [])
    assert raised.value.facts() == {"kind": kind, "id": "vm1/no"}


# Import


def test_what_is_imported_is_what_adding_one_after_the_other_gives():
    fresh = Metadata(
        vm=VM,
        vbds=[replace(ROOT, position=None), replace(CD, position=None)],
        vifs=[replace(ETH0, position=None)],
        pcis=[replace(CARD0, position=None)],
        extra={"opaque": 1},
    )
    made = configure.imported(fresh)
    assert [v.position for v in made.vbds] == [0, 1]
    assert made.vifs == configure.with_vif(BARE, replace(ETH0, position=None)).vifs
    assert made.extra is None, "the running configuration is this instance's own"


def test_what_was_exported_can_be_imported():
    made = configure.imported(META)
    assert configure.imported(made) == made


@pytest.mark.parametrize("version", [0, 2])
def test_another_version_is_refused(version):
    with pytest.raises(InvalidParameter) as raised:
        configure.imported(replace(META, version=version))
    assert raised.value.name == "metadata.version"


def test_what_is_imported_is_checked():
    with pytest.raises(InvalidVcpus):
        configure.imported(replace(BARE, vm=replace(VM, vcpus=9)))
    with pytest.raises(AlreadyExists):
        configure.imported(replace(META, vbds=[ROOT, ROOT]))


PLUGGED = [*domain().vbds, *domain().vifs, *domain().pcis]


def test_no_plugged_device_is_lost_by_an_import():
    configure.keeps_plugged(BARE, ())
    configure.keeps_plugged(META, PLUGGED)
    for devices in ("vbds", "vifs", "pcis"):
        left = replace(META, **{devices: getattr(META, devices)[1:]})
        with pytest.raises(DeviceIsConnected) as raised:
            configure.keeps_plugged(left, PLUGGED)
        assert raised.value.id == getattr(META, devices)[0].id


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"ipv4": IpConfiguration(type="static")}, "static, and without an address"),
        ({"ipv4": IpConfiguration(addresses=["fd00::1/64"])}, "fd00::1/64 is no IPv4 address"),
        ({"ipv6": IpConfiguration(addresses=["10.0.0.1/8"])}, "10.0.0.1/8 is no IPv6 address"),
        ({"ipv6": IpConfiguration(addresses=["1:::2"])}, "1:::2 is no IPv6 address"),
        ({"ipv6": IpConfiguration(gateway="10.0.0.1")}, "10.0.0.1 is no IPv6 address"),
    ],
)
def test_addresses_are_of_their_family(fields, reason):
    vif = Vif(id="vm1/eth9", backend=Bridge(name="br0"), **fields)
    with pytest.raises(InvalidParameter) as raised:
        configure.with_vif(Metadata(vm=Vm(id="vm1")), vif)
    assert raised.value.reason.startswith(reason)
