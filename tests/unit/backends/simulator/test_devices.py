import pytest
from msgspec.structs import replace

from backends.interface import Waiting
from backends.simulator.devices import interface
from idl.errors import AlreadyExists, BadPowerState, DeviceDetachRejected, InvalidParameter
from idl.vbd import Local, Vbd


def test_what_is_plugged_is_in_the_ledger_until_it_is_unplugged(rig):
    rig.start()
    rig.backend.vbd.plug(rig.call("vbd_plug"), rig.vm, rig.disk)
    rig.backend.vif.plug(rig.call("vif_plug"), rig.vm, rig.vif)
    assert rig.plugged() == ["vbd:disk@i1", "vif:eth0@i1"]
    rig.backend.vbd.unplug(rig.call("vbd_unplug"), rig.vm, rig.disk, force=False)
    rig.backend.vif.unplug(rig.call("vif_unplug"), rig.vm, rig.vif, force=False)
    assert rig.plugged() == []


def test_a_plug_cut_between_ledger_and_domain_can_be_repeated_or_undone(rig):
    rig.start()
    entry = rig.world / "plugged" / "default" / "vm1" / "vbd:disk@i1"
    rig.backend.vbd.plug(rig.call("vbd_plug"), rig.vm, Vbd(id="vm1/other", position=9))
    for _ in range(2):
        entry.touch()
        rig.backend.vbd.unplug(rig.call("vbd_unplug"), rig.vm, rig.disk, force=True)
        assert not entry.exists()
    entry.touch()
    rig.backend.vbd.plug(rig.call("vbd_plug"), rig.vm, rig.disk)
    assert rig.disk.id in rig.domain.vbds


def test_a_plugged_device_that_the_ledger_lost_is_entered_again(rig):
    rig.start(rig.disk)
    (rig.world / "plugged" / "default" / "vm1" / "vbd:disk@i1").unlink()
    rig.backend.vbd.plug(rig.call("vbd_plug"), rig.vm, rig.disk)
    assert rig.plugged() == ["vbd:disk@i1"]


def test_a_refused_plug_leaves_nothing(rig):
    rig.start(rig.disk)
    with pytest.raises(AlreadyExists) as refused:
        rig.backend.vbd.plug(rig.call("p"), rig.vm, replace(rig.volatile, position=0))
    assert refused.value.id == "vm1/disk"
    assert rig.plugged() == ["vbd:disk@i1"]
    assert rig.layers() == []


def test_without_a_position_the_first_free_one_is_taken(rig):
    rig.start(rig.disk)
    rig.backend.vbd.plug(rig.call("p"), rig.vm, Vbd(id="vm1/next"))
    with pytest.raises(AlreadyExists) as refused:
        rig.backend.vbd.plug(rig.call("p"), rig.vm, Vbd(id="vm1/more", position=1))
    assert refused.value.id == "vm1/next"


def test_nothing_is_plugged_into_a_guest_that_has_stopped(rig):
    rig.start()
    rig.backend.debug("halt", ["vm1"])
    with pytest.raises(BadPowerState):
        rig.backend.vbd.plug(rig.call("p"), rig.vm, rig.disk)
    assert rig.plugged() == []


def test_a_guest_that_has_stopped_holds_nothing(rig):
    rig.start(rig.disk)
    rig.backend.debug("crash", ["vm1"])
    rig.backend.vbd.unplug(rig.call("u"), rig.vm, rig.disk, force=False)
    assert rig.domain.vbds == {}


def test_a_guest_that_holds_on_is_waited_for_and_shows_it(rig):
    rig.start(rig.disk)
    rig.backend.debug("hold-devices", ["vm1", "true"])
    waiting = rig.backend.vbd.unplug(rig.call("u"), rig.vm, rig.disk, force=False)
    assert isinstance(waiting, Waiting)
    assert rig.domain.vbds["vm1/disk"].detaching
    assert rig.plugged() == ["vbd:disk@i1"]
    assert rig.backend.vbd.unplug(rig.call("u"), rig.vm, rig.disk, force=True) is None
    assert rig.domain.vbds == {}
    assert rig.plugged() == []


def test_what_is_not_unpluggable_stays_unless_forced(rig):
    fixed = replace(rig.disk, unpluggable=False)
    rig.start(fixed)
    with pytest.raises(DeviceDetachRejected):
        rig.backend.vbd.unplug(rig.call("u"), rig.vm, fixed, force=False)
    rig.backend.vbd.unplug(rig.call("u"), rig.vm, fixed, force=True)
    assert rig.domain.vbds == {}


def test_destroy_clears_what_no_record_knows(rig):
    rig.start(rig.disk)
    entry = rig.world / "plugged" / "default" / "vm1" / "vif:gone@i0"
    entry.touch()
    assert rig.backend.host.leftovers("vm1") == ["vif:gone@i0"]
    rig.destroy()
    assert rig.plugged() == []


def test_an_interface_has_a_name_that_linux_takes():
    name = interface("default", "vm1/eth0", "i1")
    assert len(name) <= 15
    assert name == interface("default", "vm1/eth0", "i1")
    assert name != interface("default", "vm1/eth0", "i2")
    assert name != interface("other", "vm1/eth0", "i1")


def test_only_what_can_be_configured_is(rig):
    rig.start()
    rig.backend.vif.plug(rig.call("p"), rig.vm, rig.vif)
    with pytest.raises(InvalidParameter, match="mtu"):
        rig.backend.vif.configure(rig.call("c"), rig.vm, rig.vif, "mtu")


def test_configuring_one_field_leaves_the_others_as_they_are(rig):
    rig.start()
    rig.backend.vif.plug(rig.call("p"), rig.vm, rig.vif)
    changed = replace(rig.vif, carrier=False)
    rig.backend.vif.configure(rig.call("c"), rig.vm, changed, "rate")
    assert rig.domain.vifs["vm1/eth0"].media_present
    rig.backend.vif.configure(rig.call("c"), rig.vm, changed, "carrier")
    assert not rig.domain.vifs["vm1/eth0"].media_present


def test_many_disks_fit(rig):
    disks = [
        Vbd(id=f"vm1/d{n}", position=n, backend=Local(path=f"/images/{n:0200}")) for n in range(64)
    ]
    rig.start(*disks)
    assert len(rig.domain.vbds) == 64
    rig.destroy()
    assert rig.plugged() == []
