import pytest
from msgspec.structs import replace

from backends.interface import Waiting
from backends.simulator.record import decode, encode
from idl.errors import (
    AlreadyExists,
    BadPowerState,
    DoesNotExist,
    DomainNotBuilt,
    HypervisorError,
    ImageInvalid,
    InvalidParameter,
)
from idl.vm import Container, Vm


def test_a_late_call_does_nothing_to_the_domain_after(rig):
    rig.start(incarnation="i2")
    before = rig.domain
    for act in (
        lambda: rig.backend.vm.pause(rig.call("vm_pause", "i1"), rig.vm),
        lambda: rig.backend.vbd.plug(rig.call("vbd_plug", "i1"), rig.vm, rig.disk),
    ):
        with pytest.raises(DoesNotExist):
            act()
    with pytest.raises(AlreadyExists):
        rig.backend.vm.create(rig.call("vm_create", "i1"), rig.vm, 1)
    rig.backend.vbd.unplug(rig.call("vbd_unplug", "i1"), rig.vm, rig.disk, force=True)
    assert rig.backend.vm.request_shutdown(rig.call("r", "i1"), rig.vm, "poweroff") is None
    assert (rig.domain.id, rig.domain.paused, rig.domain.stopped) == (before.id, False, None)


def test_a_domain_without_a_mark_is_listed_and_never_touched(rig):
    rig.start()
    path = rig.world / "domains" / "vm1.json"
    path.write_bytes(encode(replace(decode(path.read_bytes()), instance=None)))
    rig.backend.kill("vm1")
    rig.destroy()
    rig.backend.vm.remove(rig.call("vm_remove_layers"), "vm1", [])
    assert rig.domain is None
    (listed,) = rig.backend.host.domains()
    assert (listed.vm, listed.instance) == ("vm1", None)
    with pytest.raises(AlreadyExists) as refused:
        rig.backend.vm.create(rig.call("vm_create"), rig.vm, 1)
    assert refused.value.id == listed.id


def test_a_create_cut_after_its_file_was_made_is_no_domain_and_goes_on(rig):
    (rig.world / "domains" / "vm1.json").touch()
    assert rig.domain is None
    rig.build()
    assert rig.domain.built


def test_an_hvm_without_device_model_does_not_run(rig):
    rig.build()
    rig.backend.vm.destroy_device_model(rig.call("d"), rig.vm)
    with pytest.raises(DomainNotBuilt):
        rig.backend.vm.unpause(rig.call("vm_unpause"), rig.vm)


def test_a_container_needs_no_device_model(rig):
    rig.vm = Vm(id="vm1", guest=Container())
    rig.start()
    assert not rig.domain.device_model
    assert not rig.domain.paused


def test_a_device_model_needs_a_built_domain(rig):
    rig.backend.vm.create(rig.call("vm_create"), rig.vm, 1)
    with pytest.raises(DomainNotBuilt):
        rig.backend.vm.create_device_model(rig.call("c"), rig.vm)


def test_a_request_to_a_guest_that_ignores_it_is_asked_again(rig):
    rig.start()
    rig.backend.debug("ignore-shutdown", ["vm1", "true"])
    call = rig.call("vm_request_shutdown")
    assert isinstance(rig.backend.vm.request_shutdown(call, rig.vm, "poweroff"), Waiting)
    rig.backend.debug("ignore-shutdown", ["vm1", "false"])
    assert rig.domain.stopped is None
    assert rig.backend.vm.request_shutdown(call, rig.vm, "poweroff") is None
    assert rig.domain.stopped == "poweroff"


def test_what_has_no_guest_need_not_be_waited_for(rig):
    rig.backend.vm.create(rig.call("vm_create"), rig.vm, 1)
    call = rig.call("vm_request_shutdown")
    assert rig.backend.vm.request_shutdown(call, rig.vm, "poweroff") is None
    assert rig.backend.vm.await_shutdown(call, rig.vm) is None


@pytest.mark.parametrize("target", [0, 2**40], ids=["nothing", "over the limit"])
def test_a_memory_target_out_of_range_is_refused(rig, target):
    rig.start()
    with pytest.raises(InvalidParameter):
        rig.backend.vm.set_memory(rig.call("vm_set_memory"), rig.vm, target)


def test_a_guest_that_has_stopped_is_not_saved(rig, tmp_path):
    rig.start()
    rig.backend.debug("halt", ["vm1"])
    with pytest.raises(BadPowerState):
        rig.backend.vm.save(rig.call("vm_save"), rig.vm, tmp_path / "image")
    assert not (tmp_path / "image").exists()


def test_a_save_that_fails_leaves_the_guest_running_with_its_layers(rig, tmp_path):
    rig.start(rig.volatile)
    layers = rig.layers()
    with pytest.raises(ImageInvalid):
        rig.backend.vm.save(rig.call("vm_save"), rig.vm, tmp_path / "missing" / "image")
    assert rig.domain.stopped is None
    assert rig.layers() == layers == ["tmp@i1.json"]


def test_an_image_of_another_vm_is_refused(rig, tmp_path):
    rig.start()
    rig.backend.vm.save(rig.call("vm_save"), rig.vm, tmp_path / "image")
    other = Vm(id="vm2")
    rig.backend.vm.create(rig.call("vm_create"), other, 1)
    with pytest.raises(ImageInvalid, match="vm1"):
        rig.backend.vm.restore(rig.call("vm_restore"), other, tmp_path / "image")


def test_a_domain_that_was_built_is_not_restored_over(rig, tmp_path):
    rig.start()
    rig.backend.vm.save(rig.call("vm_save"), rig.vm, tmp_path / "image")
    rig.backend.vm.resume_saved(rig.call("vm_resume_saved"), rig.vm)
    with pytest.raises(BadPowerState):
        rig.backend.vm.restore(rig.call("vm_restore"), rig.vm, tmp_path / "image")


def test_a_volatile_layer_goes_through_suspend_and_resume(rig, tmp_path):
    rig.start(rig.volatile)
    layer = rig.world / "layers" / "vm1" / "tmp@i1.json"
    content = layer.read_bytes()
    rig.backend.vm.save(rig.call("vm_save"), rig.vm, tmp_path / "image")
    rig.destroy()
    assert rig.layers() == ["tmp@suspended.json"]

    rig.backend.vm.create(rig.call("vm_create", "i2"), rig.vm, 1)
    rig.backend.vbd.plug(rig.call("vbd_plug", "i2"), rig.vm, rig.volatile)
    rig.backend.vm.restore(rig.call("vm_restore", "i2"), rig.vm, tmp_path / "image")
    rig.backend.vm.create_device_model(rig.call("c", "i2"), rig.vm)
    assert rig.layers() == ["tmp@i2.json", "tmp@suspended.json"]
    rig.backend.vm.unpause(rig.call("vm_unpause", "i2"), rig.vm)
    assert rig.layers() == ["tmp@i2.json"]
    assert (layer.parent / "tmp@i2.json").read_bytes() == content
    rig.destroy("i2")
    assert rig.layers() == []


def test_a_start_after_a_suspend_that_was_dropped_begins_anew(rig, tmp_path):
    rig.start(rig.volatile)
    rig.backend.vm.save(rig.call("vm_save"), rig.vm, tmp_path / "image")
    rig.destroy()
    rig.start(rig.volatile, incarnation="i2")
    assert rig.layers() == ["tmp@i2.json"]


def test_removing_a_vm_leaves_nothing_of_it_in_the_world(rig):
    rig.start(rig.disk, rig.volatile)
    rig.destroy()
    rig.backend.vm.remove(rig.call("vm_remove_layers"), "vm1", [rig.disk, rig.volatile])
    assert [path for path in rig.world.rglob("*") if "vm1" in path.name] == []


def test_removing_layers_beside_a_domain_leaves_the_domain(rig):
    rig.start(rig.disk)
    rig.backend.vm.remove(rig.call("vm_remove_layers"), "vm1", [rig.volatile])
    assert rig.domain is not None
    assert rig.plugged() == ["vbd:disk@i1"]


def test_what_the_files_refuse_is_a_hypervisor_error(rig):
    rig.backend.close()
    with pytest.raises(HypervisorError) as failed:
        rig.backend.vm.create(rig.call("vm_create"), rig.vm, 1)
    assert failed.value.call == "vm_create"


def test_an_adoption_cut_between_its_two_files_leaves_one_domain(rig):
    rig.start()
    mine = rig.world / "domains" / "vm1.json"
    unmarked = replace(decode(mine.read_bytes()), vm=None, instance=None, incarnation=None)
    theirs = mine.with_name("stranger.json")
    theirs.write_bytes(encode(unmarked))
    rig.backend.vm.adopt(rig.call("vm_adopt"), rig.vm, unmarked.id)
    assert [d.id for d in rig.backend.host.domains()] == [unmarked.id]
    assert rig.domain.id == unmarked.id


def test_an_adopted_domain_has_devices_of_its_vm(rig):
    rig.start(rig.disk)
    mine = rig.world / "domains" / "vm1.json"
    record = decode(mine.read_bytes())
    elsewhere = {id.replace("vm1/", "other/"): vbd for id, vbd in record.vbds.items()}
    mine.with_name("other.json").write_bytes(encode(replace(record, vm=None, vbds=elsewhere)))
    rig.backend.vm.destroy(rig.call("vm_destroy"), rig.vm)
    rig.backend.vm.adopt(rig.call("vm_adopt"), rig.vm, record.id)
    assert rig.domain.vbds.keys() == record.vbds.keys()
    assert rig.plugged() == [f"vbd:{rig.disk.id.partition('/')[2]}@i1"]
    rig.destroy()
    assert rig.plugged() == []
