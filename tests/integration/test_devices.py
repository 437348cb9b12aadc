"""VBDs, VIFs and PCI devices: recorded, plugged, changed, let go."""

import re

import pytest
from rigs.daemon import eventually
from rigs.lab import plain, raises

from idl.errors import (
    AlreadyExists,
    BadPowerState,
    DeviceDetachRejected,
    DeviceIsConnected,
    DeviceNotConnected,
    DoesNotExist,
    InvalidParameter,
    InvalidParams,
    MediaNotEjectable,
    StorageError,
)
from idl.pci import Pci
from idl.vbd import Local, Vbd, VbdQos, Vdi
from idl.vif import Bridge, Disabled, IpConfiguration, Locked, Rate, Vif

KINDS = ["vbd", "vif", "pci"]


def new(lab, kind, vm, name="d", **fields):
    """Record one more device of a kind."""
    id = f"{vm}/{name}"
    match kind:
        case "vbd":
            fields.setdefault("backend", Local(path=f"/images/{vm}-{name}"))
            return lab.client.vbd.add(Vbd(id=id, **fields))
        case "vif":
            fields.setdefault("backend", Bridge(name="xenbr0"))
            return lab.client.vif.add(Vif(id=id, **fields))
        case "pci":
            return lab.client.pci.add(Pci(id=id, address="0000:00:1f.6", **fields))


def space(lab, kind):
    return getattr(lab.client, kind)


def fields(kind):
    return {"vif": {"backend": Bridge(name="b")}, "pci": {"address": "0000:00:1f.6"}}.get(kind, {})


def device(kind, id, **more):
    types = {"vbd": Vbd, "vif": Vif, "pci": Pci}
    return types[kind](id=id, **fields(kind), **more)


# Records


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_is_recorded_listed_and_removed(lab, kind):
    vm = lab.vm(disks=0, nics=0)
    id = new(lab, kind, vm)
    assert id == f"{vm}/d"
    found = space(lab, kind).stat(id)
    assert found.id == found.config.id == id
    assert not found.state.plugged
    assert space(lab, kind).list(vm) == [found]
    space(lab, kind).remove(id)
    assert space(lab, kind).list(vm) == []
    assert raises(DoesNotExist, lambda: space(lab, kind).stat(id)).kind == kind.upper()


def test_what_a_vbd_defaults_to(lab):
    vm = lab.vm(disks=0)
    lab.client.vbd.add(Vbd(id=f"{vm}/d"))
    found = lab.client.vbd.stat(f"{vm}/d")
    assert plain(found.config) == {
        "id": f"{vm}/d",
        "position": 0,
        "bus": None,
        "mount": None,
        "mode": "rw",
        "type": "disk",
        "backend": None,
        "unpluggable": True,
        "persistent": True,
        "qos": None,
    }
    assert plain(found.state) == {
        "active": False,
        "plugged": False,
        "detaching": False,
        "backend_present": None,
    }


def test_what_a_vif_defaults_to(lab):
    vm = lab.vm(nics=0)
    lab.client.vif.add(Vif(id=f"{vm}/n", backend=Bridge(name="xenbr0")))
    found = lab.client.vif.stat(f"{vm}/n")
    config = plain(found.config)
    assert re.fullmatch("([0-9a-f]{2}:){5}[0-9a-f]{2}", config.pop("mac"))
    nothing = {"type": "none", "addresses": [], "gateway": None}
    assert config == {
        "id": f"{vm}/n",
        "position": 0,
        "model": None,
        "mtu": 1500,
        "carrier": True,
        "rate": None,
        "backend": {"type": "bridge", "name": "xenbr0"},
        "locking_mode": {"type": "unlocked"},
        "ipv4": nothing,
        "ipv6": nothing,
        "other_config": {},
    }
    assert plain(found.state) == {
        "active": False,
        "plugged": False,
        "device": None,
        "media_present": False,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_position_defaults_to_the_next_free_one_and_lists_are_in_its_order(lab, kind):
    vm = lab.vm(disks=0, nics=0)
    new(lab, kind, vm, "c", position=1)
    new(lab, kind, vm, "a")
    new(lab, kind, vm, "b")
    listed = [(d.id, d.config.position) for d in space(lab, kind).list(vm)]
    assert listed == [(f"{vm}/a", 0), (f"{vm}/c", 1), (f"{vm}/b", 2)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_position_that_is_taken_is_refused(lab, kind):
    vm = lab.vm(disks=0, nics=0)
    new(lab, kind, vm, "a", position=3)
    with lab.untouched(vm):
        error = raises(InvalidParameter, lambda: new(lab, kind, vm, "b", position=3))
        assert error.name == f"{kind}.position"
        assert f"{vm}/a" in error.reason


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_that_exists_is_not_added_again(lab, kind):
    vm = lab.vm(disks=0, nics=0)
    id = new(lab, kind, vm)
    with lab.untouched(vm):
        error = raises(AlreadyExists, lambda: new(lab, kind, vm))
        assert (error.kind, error.id) == (kind.upper(), id)


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_of_an_unknown_vm_is_refused(lab, kind):
    error = raises(DoesNotExist, lambda: new(lab, kind, "no-such-vm"))
    assert (error.kind, error.id) == ("VM", "no-such-vm")
    error = raises(DoesNotExist, lambda: space(lab, kind).list("no-such-vm"))
    assert (error.kind, error.id) == ("VM", "no-such-vm")


@pytest.mark.parametrize("method", ["stat", "remove", "plug", "unplug"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_call_on_an_unknown_device_is_an_error_of_the_call(lab, kind, method):
    vm = lab.vm(disks=0, nics=0)
    for id in (f"{vm}/none", "no-such-vm/none"):
        error = raises(DoesNotExist, lambda d=id: getattr(space(lab, kind), method)(d))
        assert (error.kind, error.id) == (kind.upper(), id)


@pytest.mark.parametrize(
    "id", ["", "vm", "vm/", "/d", "vm/-d", "vm/.d", "vm/a b", "vm/a/b", "vm/d\n"]
)
def test_ids_of_devices_have_a_form(lab, id):
    raises(InvalidParams, lambda: lab.client.call("VBD.add", vbd={"id": id}))
    raises(InvalidParams, lambda: lab.client.call("VBD.stat", id=id))


def test_a_mac_is_derived_stable_local_and_unicast(lab):
    vm = lab.vm(nics=3)
    macs = [vif.config.mac for vif in lab.client.vif.list(vm)]
    assert len(set(macs)) == 3
    for mac in macs:
        assert int(mac[:2], 16) & 0b11 == 0b10
    lab.client.vif.remove(f"{vm}/nic1")
    lab.client.vif.add(Vif(id=f"{vm}/other", backend=Bridge(name="b")))
    again = lab.client.vif.stat(f"{vm}/other").config
    assert (again.position, again.mac) == (1, macs[1])
    other = lab.vm(nics=1)
    assert lab.client.vif.list(other)[0].config.mac not in macs


def test_a_mac_that_is_given_is_kept(lab):
    vm = lab.vm(nics=0)
    mac = "52:54:00:AB:cd:01"
    lab.client.vif.add(Vif(id=f"{vm}/n", backend=Bridge(name="b"), mac=mac))
    assert lab.client.vif.stat(f"{vm}/n").config.mac.lower() == mac.lower()


@pytest.mark.parametrize(
    "disk", [Local(path="/a.tar", format="tar"), Local(path="/a.sq", format="squashfs")]
)
def test_an_archive_is_always_a_base(lab, disk):
    vm = lab.vm(disks=0)
    lab.client.vbd.add(Vbd(id=f"{vm}/d", backend=disk))
    assert lab.client.vbd.stat(f"{vm}/d").config.backend.overlay


def test_a_disk_that_does_not_persist_is_a_base(lab):
    vm = lab.vm(disks=0)
    lab.client.vbd.add(Vbd(id=f"{vm}/d", backend=Local(path="/a"), persistent=False))
    assert lab.client.vbd.stat(f"{vm}/d").config.backend.overlay


def test_every_field_of_a_vbd_is_kept(lab):
    vm = lab.vm(disks=0)
    vbd = Vbd(
        id=f"{vm}/d",
        position=7,
        bus="scsi",
        mode="ro",
        type="cdrom",
        backend=Vdi(sr="a", vdi="b"),
        unpluggable=False,
        qos=VbdQos(read_iops=100),
    )
    lab.client.vbd.add(vbd)
    assert lab.client.vbd.stat(vbd.id).config == vbd


def test_a_layer_over_another_base_is_a_storage_error_and_the_vm_stays_halted(lab):
    vm = lab.vm(disks=0)
    disk = Local(path="/images/base", overlay=True)
    lab.client.vbd.add(Vbd(id=f"{vm}/d", backend=disk))
    lab.run(lab.client.vm.start(vm))
    lab.run(lab.client.vm.shutdown(vm))
    metadata = plain(lab.client.vm.export_metadata(vm))
    metadata["vbds"][0]["backend"]["path"] = "/images/another"
    metadata["extra"] = None
    lab.client.call("VM.import_metadata", metadata=metadata)
    error = lab.failure(lab.client.vm.start(vm), StorageError)
    assert error.reason
    assert lab.sensible(vm) == "halted"


# Plug and unplug


@pytest.mark.parametrize("state", ["running", "paused"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_device_is_plugged_into_a_vm_with_a_domain(lab, kind, state):
    vm = lab.vm()
    lab.run(lab.client.vm.start(vm, paused=state == "paused"))
    id = new(lab, kind, vm)
    task = lab.run(space(lab, kind).plug(id))
    assert (task.vm, task.object) == (vm, id)
    assert [(s.name, s.object) for s in task.subtasks] == [(f"{kind}_plug", id)]
    assert space(lab, kind).stat(id).state.plugged
    assert lab.sensible(vm) == state


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_is_unplugged_from_a_running_vm(lab, kind):
    vm = lab.vm()
    id = new(lab, kind, vm)
    lab.run(lab.client.vm.start(vm))
    assert space(lab, kind).stat(id).state.plugged
    task = lab.run(space(lab, kind).unplug(id))
    assert [(s.name, s.object) for s in task.subtasks] == [(f"{kind}_unplug", id)]
    assert not space(lab, kind).stat(id).state.plugged
    assert lab.sensible(vm) == "running"
    # What was unplugged comes back with the next start.
    lab.run(lab.client.vm.reboot(vm))
    assert space(lab, kind).stat(id).state.plugged
    assert lab.sensible(vm) == "running"


def test_a_plugged_device_shows_what_it_is_on_the_host(lab):
    vm = lab.running()
    vbd = lab.client.vbd.stat(f"{vm}/disk0").state
    assert vbd.active
    assert vbd.backend_present == Local(path=f"/images/{vm}-0")
    vif = lab.client.vif.stat(f"{vm}/nic0").state
    assert vif.active
    assert vif.media_present
    assert 0 < len(vif.device) <= 15


@pytest.mark.parametrize("method", ["plug", "unplug"])
@pytest.mark.parametrize("state", ["halted", "suspended"])
@pytest.mark.parametrize("kind", KINDS)
def test_without_a_domain_nothing_is_plugged_or_unplugged(lab, kind, state, method):
    vm = lab.vm()
    id = new(lab, kind, vm)
    if state == "suspended":
        lab.run(lab.client.vm.start(vm))
        lab.run(lab.client.vm.suspend(vm))
    with lab.untouched(vm):
        error = lab.failure(getattr(space(lab, kind), method)(id), BadPowerState)
        assert error.id == vm
        assert error.actual == state
        assert error.expected == ["running", "paused"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_plugged_device_is_not_plugged_again_nor_removed(lab, kind):
    vm = lab.vm()
    id = new(lab, kind, vm)
    lab.run(lab.client.vm.start(vm))
    with lab.untouched(vm):
        assert lab.failure(space(lab, kind).plug(id), DeviceIsConnected).id == id
        assert raises(DeviceIsConnected, lambda: space(lab, kind).remove(id)).id == id


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_that_is_not_plugged_is_not_unplugged_but_removed(lab, kind):
    vm = lab.running()
    id = new(lab, kind, vm)
    with lab.untouched(vm):
        assert lab.failure(space(lab, kind).unplug(id), DeviceNotConnected).id == id
    space(lab, kind).remove(id)
    assert lab.sensible(vm) == "running"


@pytest.mark.parametrize("kind", KINDS)
def test_a_paused_guest_lets_nothing_go(lab, kind):
    vm = lab.vm()
    id = new(lab, kind, vm)
    lab.run(lab.client.vm.start(vm, paused=True))
    with lab.untouched(vm):
        error = lab.failure(space(lab, kind).unplug(id), DeviceDetachRejected)
        assert error.id == id
        assert error.reason
    assert lab.sensible(vm) == "paused"


@pytest.mark.parametrize("kind", KINDS)
def test_force_cuts_the_hosts_side_of_a_paused_vm(lab, kind):
    vm = lab.vm()
    id = new(lab, kind, vm)
    lab.run(lab.client.vm.start(vm, paused=True))
    lab.run(space(lab, kind).unplug(id, force=True))
    assert not space(lab, kind).stat(id).state.plugged
    assert lab.sensible(vm) == "paused"


@pytest.mark.parametrize("kind", KINDS)
def test_unplug_waits_until_the_guest_has_let_go(lab, kind):
    vm = lab.vm()
    id = new(lab, kind, vm)
    lab.run(lab.client.vm.start(vm))
    lab.trigger("hold-devices", vm, "true")
    task = lab.client.call(f"{kind.upper()}.unplug", id=id)
    lab.began(task, f"{kind}_unplug")
    assert space(lab, kind).stat(id).state.plugged
    if kind == "vbd":
        eventually(lambda: lab.client.vbd.stat(id).state.detaching)
    lab.trigger("hold-devices", vm, "false")
    lab.run(task)
    assert not space(lab, kind).stat(id).state.plugged
    assert lab.sensible(vm) == "running"


@pytest.mark.parametrize("kind", KINDS)
def test_a_guest_that_does_not_let_go_in_time_keeps_its_device(shared, kind):
    lab = shared("[deadlines]\nhotplug = 0.3\n")
    vm = lab.vm()
    id = new(lab, kind, vm)
    lab.run(lab.client.vm.start(vm))
    lab.trigger("hold-devices", vm, "true")
    error = lab.failure(space(lab, kind).unplug(id), DeviceDetachRejected)
    assert error.id == id
    assert "0.3" in error.reason
    assert space(lab, kind).stat(id).state.plugged
    assert lab.sensible(vm) == "running"
    lab.run(space(lab, kind).unplug(id, force=True))
    assert not space(lab, kind).stat(id).state.plugged


def test_a_vbd_that_may_not_be_unplugged_stays(lab):
    vm = lab.vm()
    id = new(lab, "vbd", vm, unpluggable=False)
    lab.run(lab.client.vm.start(vm))
    with lab.untouched(vm):
        error = lab.failure(lab.client.vbd.unplug(id), DeviceDetachRejected)
        assert error.id == id
        assert error.reason
    lab.run(lab.client.vbd.unplug(id, force=True))
    assert lab.sensible(vm) == "running"


# Media


def drive(lab, *, plugged=True, medium=None, type="cdrom"):
    vm = lab.vm(disks=1, nics=0)
    id = new(lab, "vbd", vm, "cd", type=type, mode="ro", backend=medium)
    if plugged:
        lab.run(lab.client.vm.start(vm))
    return vm, id


ONE, TWO = Local(path="/images/one.iso"), Local(path="/images/two.iso")


@pytest.mark.parametrize("type", ["cdrom", "floppy"])
def test_media_are_inserted_changed_and_ejected(lab, type):
    vm, id = drive(lab, type=type)
    for medium in (ONE, TWO):
        lab.run(lab.client.vbd.insert(id, medium))
        found = lab.client.vbd.stat(id)
        assert found.config.backend == found.state.backend_present == medium
        assert lab.domain(vm)["vbds"][id]["medium"] == plain(medium)
    lab.run(lab.client.vbd.eject(id))
    found = lab.client.vbd.stat(id)
    assert found.config.backend is None
    assert found.state.backend_present is None
    assert found.state.plugged
    lab.run(lab.client.vbd.eject(id))
    assert lab.sensible(vm) == "running"


@pytest.mark.parametrize("state", ["halted", "running"])
def test_a_disk_is_neither_ejected_nor_inserted_into(lab, state):
    vm = lab.vm() if state == "halted" else lab.running()
    id = f"{vm}/disk0"
    with lab.untouched(vm):
        assert lab.failure(lab.client.vbd.eject(id), MediaNotEjectable).id == id
        assert lab.failure(lab.client.vbd.insert(id, ONE), MediaNotEjectable).id == id


def test_media_are_changed_in_a_drive_that_is_plugged_alone(lab):
    vm, id = drive(lab, medium=ONE)
    lab.run(lab.client.vbd.unplug(id))
    with lab.untouched(vm):
        assert lab.failure(lab.client.vbd.eject(id), DeviceNotConnected).id == id
        assert lab.failure(lab.client.vbd.insert(id, TWO), DeviceNotConnected).id == id


# VIF settings

SETTINGS = [
    ("move", "backend", Bridge(name="xenbr1")),
    ("set_carrier", "carrier", False),
    ("set_locking_mode", "locking_mode", Disabled()),
    ("set_locking_mode", "locking_mode", Locked(ipv4=["10.0.0.1"], ipv6=["fe80::1"])),
    ("set_ipv4_configuration", "ipv4", IpConfiguration(type="static", addresses=["10.0.0.1/24"])),
    ("set_ipv6_configuration", "ipv6", IpConfiguration(type="dhcp")),
    ("set_rate", "rate", Rate(kbps=1000, burst=10)),
]


@pytest.mark.parametrize("state", ["halted", "running", "paused", "suspended"])
@pytest.mark.parametrize(
    ("method", "field", "value"), SETTINGS, ids=[f"{m} {plain(v)}" for m, _, v in SETTINGS]
)
def test_a_setting_of_a_vif_applies_at_once_and_is_recorded(lab, state, method, field, value):
    vm = lab.vm(disks=0)
    id = f"{vm}/nic0"
    if state != "halted":
        lab.run(lab.client.vm.start(vm, paused=state == "paused"))
    if state == "suspended":
        lab.run(lab.client.vm.suspend(vm))
    task = lab.run(getattr(lab.client.vif, method)(id, value))
    assert task.object == id
    assert getattr(lab.client.vif.stat(id).config, field) == value
    if state in ("running", "paused"):
        assert lab.domain(vm)["vifs"][id]["config"][field] == plain(value)
        assert lab.client.vif.stat(id).state.media_present == (field != "carrier")
    assert lab.sensible(vm) == state


def test_a_rate_is_taken_off_again(lab):
    vm = lab.running()
    id = f"{vm}/nic0"
    lab.run(lab.client.vif.set_rate(id, Rate(kbps=1000)))
    lab.run(lab.client.vif.set_rate(id, None))
    assert lab.client.vif.stat(id).config.rate is None


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("VIF.move", {"backend": {"type": "bridge", "name": "b"}}),
        ("VIF.set_carrier", {"carrier": True}),
        ("VIF.set_locking_mode", {"locking_mode": {"type": "unlocked"}}),
        ("VIF.set_ipv4_configuration", {"ipv4": {"type": "none"}}),
        ("VIF.set_ipv6_configuration", {"ipv6": {"type": "none"}}),
        ("VIF.set_rate", {"rate": None}),
        ("VBD.insert", {"backend": {"type": "local", "path": "/a"}}),
        ("VBD.eject", {}),
    ],
)
def test_a_setting_of_an_unknown_device_is_an_error_of_the_call(lab, method, args):
    vm = lab.vm()
    error = raises(DoesNotExist, lambda: lab.client.call(method, id=f"{vm}/none", **args))
    assert (error.kind, error.id) == (method[:3], f"{vm}/none")


# With the VM


def test_devices_go_with_their_vm(lab):
    vm = lab.vm(disks=2, nics=2)
    new(lab, "pci", vm)
    lab.client.vm.remove(vm)
    for kind, name in (("vbd", "disk0"), ("vif", "nic1"), ("pci", "d")):
        raises(DoesNotExist, lambda k=kind, n=name: space(lab, k).stat(f"{vm}/{n}"))


def test_pci_devices_are_plugged_by_a_start_after_the_device_model(lab):
    vm = lab.vm(disks=0, nics=0)
    for n in range(2):
        new(lab, "pci", vm, f"p{n}")
    task = lab.run(lab.client.vm.start(vm))
    names = [s.name for s in task.subtasks]
    assert names.index("vm_create_device_model") < names.index("pci_plug")
    assert lab.sensible(vm) == "running"
    lab.run(lab.client.vm.suspend(vm))
    lab.run(lab.client.vm.resume(vm))
    assert all(p.state.plugged for p in lab.client.pci.list(vm))
    assert lab.sensible(vm) == "running"


def test_a_device_that_was_unplugged_is_not_plugged_by_a_resume(lab):
    vm = lab.vm(disks=2)
    lab.run(lab.client.vm.start(vm))
    lab.run(lab.client.vbd.unplug(f"{vm}/disk1"))
    lab.run(lab.client.vm.suspend(vm))
    lab.run(lab.client.vm.resume(vm))
    assert [v.state.plugged for v in lab.client.vbd.list(vm)] == [True, False]
    assert lab.sensible(vm) == "running"


def test_writable_disks_are_plugged_before_read_only_ones(lab):
    vm = lab.vm(disks=0, nics=0)
    new(lab, "vbd", vm, "ro", mode="ro")
    new(lab, "vbd", vm, "rw")
    task = lab.run(lab.client.vm.start(vm))
    plugged = [s.object for s in task.subtasks if s.name == "vbd_plug"]
    assert plugged == [f"{vm}/rw", f"{vm}/ro"]
