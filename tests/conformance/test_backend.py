"""What every backend keeps to, as seen through its interface alone."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from backends.interface import Waiting
from idl.errors import (
    AlreadyExists,
    BadPowerState,
    DeviceDetachRejected,
    DeviceNotConnected,
    DoesNotExist,
    DomainNotBuilt,
    ImageInvalid,
    InvalidVcpus,
    MediaNotEjectable,
    Unimplemented,
    XenopsError,
)
from idl.host import FEATURES

# The backend and its host


def test_it_has_the_name_of_its_entry_point(backend, backend_name):
    assert backend.name == backend_name


def test_its_features_are_known_ones(backend):
    assert backend.features <= FEATURES


def test_the_boot_id_lasts(backend, open_backend):
    boot = backend.host.boot_id()
    assert boot
    assert backend.host.boot_id() == boot
    backend.close()
    assert open_backend().host.boot_id() == boot


def test_the_machine_has_cpus_and_memory(backend):
    stat = backend.host.stat()
    assert stat.cpu_count >= 1
    assert stat.memory_total > 0
    assert stat.hypervisor.name


def test_an_unknown_trigger_is_unimplemented(backend):
    with pytest.raises(Unimplemented):
        backend.debug("fly", [])


def test_what_it_runs_it_accepts(backend, guests):
    for feature in backend.features:
        kind, _, guest = feature.partition(":")
        if kind == "guest":
            backend.vm.accepts(guests.vm("any", guest))


# Without a domain


def test_a_vm_that_never_was_has_no_domain(subject):
    assert subject.domain is None
    assert subject.leftovers == []


@pytest.mark.parametrize("force", [False, True], ids=["asked", "forced"])
def test_taking_away_what_is_not_there_is_nothing(subject, guests, force):
    subject.destroy()
    subject.destroy_device_model()
    subject.unplug(guests.disk(subject.vm, "disk", 1), force=force)
    subject.unplug_vif(guests.vif(subject.vm, "eth0", 0), force=force)
    subject.backend.kill(subject.vm.id)
    subject.backend.interrupt(subject.vm.id)
    subject.remove(guests.volatile(subject.vm, "scratch", 2))
    assert subject.domain is None


WITHOUT_A_DOMAIN: dict[str, Callable] = {
    "pause": lambda s, g: s.pause(),
    "unpause": lambda s, g: s.unpause(),
    "build": lambda s, g: s.build(),
    "create device model": lambda s, g: s.create_device_model(),
    "set_vcpus": lambda s, g: s.set_vcpus(1),
    "set_xsdata": lambda s, g: s.set_xsdata({"a": "b"}),
    "plug a disk": lambda s, g: s.plug(g.disk(s.vm, "disk", 1)),
    "plug an interface": lambda s, g: s.plug_vif(g.vif(s.vm, "eth0", 0)),
}


@pytest.mark.parametrize("act", WITHOUT_A_DOMAIN.values(), ids=WITHOUT_A_DOMAIN.keys())
def test_without_a_domain_nothing_can_be_changed(subject, guests, act):
    with pytest.raises((DoesNotExist, BadPowerState)):
        act(subject, guests)
    assert subject.domain is None
    assert subject.leftovers == []


def test_a_domain_that_is_gone_has_stopped(subject):
    assert subject.await_shutdown() is None


# The life of a domain


def test_a_created_domain_is_empty_paused_and_marked(subject):
    subject.create()
    domain = subject.alive
    assert domain.id
    assert domain.paused
    assert not domain.built
    assert domain.stopped is None
    assert domain.vcpu_seconds == 0
    assert domain.memory_target == subject.memory
    assert domain.vm == subject.vm.id
    assert domain.instance == "conformance"
    assert domain.incarnation == subject.incarnation


def test_the_list_of_domains_has_it_as_the_single_look_does(subject):
    subject.create()
    listed = [found for found in subject.backend.host.domains() if found.vm == subject.vm.id]
    assert listed == [subject.alive]


def test_another_incarnation_cannot_be_created_beside(subject):
    subject.create()
    before = subject.alive
    with pytest.raises(AlreadyExists) as refused:
        subject.again().create()
    assert (refused.value.kind, refused.value.id) == ("domain", before.id)
    assert subject.alive == before


def test_each_domain_has_an_id_of_its_own(subject):
    subject.create()
    first = subject.alive.id
    subject.destroy()
    subject.again().create()
    assert subject.alive.id != first


BEFORE_BUILD: dict[str, Callable] = {
    "pause": lambda s: s.pause(),
    "unpause": lambda s: s.unpause(),
    "set_vcpus": lambda s: s.set_vcpus(1),
}


@pytest.mark.parametrize("act", BEFORE_BUILD.values(), ids=BEFORE_BUILD.keys())
def test_an_unbuilt_domain_is_told_as_such(subject, act):
    subject.create()
    with pytest.raises(DomainNotBuilt):
        act(subject)
    assert not subject.alive.built


def test_a_built_domain_has_its_vcpus_and_has_never_run(subject):
    subject.built()
    domain = subject.alive
    assert domain.built
    assert domain.paused
    assert domain.vcpu_seconds == 0
    assert domain.vcpus == subject.vm.vcpus


def test_an_unpaused_domain_runs(subject, eventually):
    subject.built()
    subject.unpause()
    assert not subject.alive.paused
    eventually(lambda: subject.alive.vcpu_seconds > 0)
    assert subject.alive.stopped is None


def test_a_paused_domain_stands_still(subject):
    subject.started()
    subject.pause()
    paused = subject.alive
    assert paused.paused
    assert paused.vcpu_seconds > 0
    assert subject.alive.vcpu_seconds == paused.vcpu_seconds
    subject.unpause()
    assert not subject.alive.paused


@pytest.mark.parametrize("guest", ["hvm", "pv", "pvh", "container"])
def test_every_guest_type_lives_and_ends(backend, guests, subject_of, needs, guest):
    needs(f"guest:{guest}")
    vm = subject_of(backend, guests.vm(f"conformance-{guest}", guest))
    vm.started()
    assert vm.alive.device_model or guest != "hvm"
    vm.destroy()
    assert vm.domain is None
    vm.remove()


def test_metrics_are_of_the_vm_that_runs(subject):
    subject.started()
    found = subject.backend.host.metrics(subject.vm.id)
    assert found.id == subject.vm.id
    assert found.cpu_seconds > 0
    assert found.memory > 0


# Repetition: whatever was carried out can be carried out again

Steps = list[Callable]


def _disk(s, g):
    return g.disk(s.vm, "disk", 1)


def _vif(s, g):
    return g.vif(s.vm, "eth0", 0)


REPEATED: dict[str, tuple[str | None, Steps, Callable]] = {
    "create": (None, [], lambda s, g: s.create()),
    "build": (None, [lambda s, g: s.create()], lambda s, g: s.build()),
    "create device model": (
        None,
        [lambda s, g: s.create(), lambda s, g: s.build()],
        lambda s, g: s.create_device_model(),
    ),
    "unpause": (None, [lambda s, g: s.built()], lambda s, g: s.unpause()),
    "pause": (None, [lambda s, g: s.started()], lambda s, g: s.pause()),
    "set_vcpus": ("vcpu_hotplug", [lambda s, g: s.started()], lambda s, g: s.set_vcpus(1)),
    "set_memory": ("balloon", [lambda s, g: s.started()], lambda s, g: s.set_memory(2**27)),
    "set_xsdata": (None, [lambda s, g: s.started()], lambda s, g: s.set_xsdata({"a": "b"})),
    "plug a disk": (None, [lambda s, g: s.create()], lambda s, g: s.plug(_disk(s, g))),
    "plug a disk hot": (
        "vbd_hotplug",
        [lambda s, g: s.started()],
        lambda s, g: s.plug(_disk(s, g)),
    ),
    "unplug a disk": (
        "vbd_hotplug",
        [lambda s, g: s.started(_disk(s, g))],
        lambda s, g: s.unplug(_disk(s, g)),
    ),
    "plug an interface": (None, [lambda s, g: s.create()], lambda s, g: s.plug_vif(_vif(s, g))),
    "unplug an interface": (
        "vif_hotplug",
        [lambda s, g: s.started(), lambda s, g: s.plug_vif(_vif(s, g))],
        lambda s, g: s.unplug_vif(_vif(s, g)),
    ),
    "destroy device model": (
        None,
        [lambda s, g: s.built()],
        lambda s, g: s.destroy_device_model(),
    ),
    "destroy": (None, [lambda s, g: s.started()], lambda s, g: s.destroy()),
}


@pytest.mark.parametrize("case", REPEATED.values(), ids=REPEATED.keys())
def test_repeating_a_micro_op_changes_nothing_more(subject, guests, needs, case):
    feature, before, act = case
    if feature is not None:
        needs(feature)
    for step in before:
        step(subject, guests)

    def seen():
        domain = subject.domain
        # Not what is measured of a guest that runs.
        return domain and replace(domain, vcpu_seconds=0.0, memory_actual=0, guest_agent={})

    act(subject, guests)
    once = seen()
    act(subject, guests)
    assert seen() == once


HALF_DONE: dict[str, Callable] = {
    "created": lambda s, g: s.create(),
    "with a disk": lambda s, g: (s.create(), s.plug(_disk(s, g))),
    "with an interface": lambda s, g: (s.create(), s.plug_vif(_vif(s, g))),
    "with a volatile disk": lambda s, g: (s.create(), s.plug(g.volatile(s.vm, "tmp", 1))),
    "built": lambda s, g: (s.create(), s.build()),
    "with a device model": lambda s, g: s.built(),
    "running": lambda s, g: s.started(_disk(s, g), g.volatile(s.vm, "tmp", 2)),
}


@pytest.mark.parametrize("reach", HALF_DONE.values(), ids=HALF_DONE.keys())
def test_whatever_was_reached_destroy_leaves_nothing(subject, guests, reach):
    reach(subject, guests)
    subject.destroy()
    assert subject.domain is None
    assert subject.leftovers == []
    assert subject.vm.id not in {found.vm for found in subject.backend.host.domains()}


def test_a_start_cut_anywhere_can_be_repeated_from_its_beginning(subject, guests):
    disk, vif = _disk(subject, guests), _vif(subject, guests)
    subject.create()
    subject.plug(disk)
    subject.plug_vif(vif)
    subject.built(disk)
    subject.plug_vif(vif)
    subject.unpause()
    assert list(subject.alive.vifs) == [vif.id]
    assert disk.id in subject.alive.vbds


# A daemon that comes and goes


def test_domains_outlive_the_backend(subject, open_backend, subject_of):
    subject.started()
    before = subject.alive
    subject.backend.close()
    backend = open_backend()
    after = backend.host.domain(subject.vm.id)
    assert after is not None
    assert (after.id, after.incarnation) == (before.id, before.incarnation)
    assert not after.paused
    subject.backend = backend


def test_a_call_begun_before_a_restart_is_finished_after_it(subject, guests, open_backend):
    disk = _disk(subject, guests)
    subject.create()
    subject.plug(disk)
    subject.backend.close()
    subject.backend = open_backend()
    for vbd in (*subject.boot, disk):
        subject.plug(vbd)
    subject.build(disk)
    subject.create_device_model()
    subject.unpause()
    assert disk.id in subject.alive.vbds


# What is not ours


def test_the_domain_of_another_instance_is_listed_and_left_alone(
    backend, open_backend, guests, subject_of
):
    vm = guests.vm("conformance-foreign", guests.guest_type())
    theirs = subject_of(open_backend("other"), vm)
    theirs.started()
    ours = subject_of(backend, vm)
    assert ours.domain is None
    (listed,) = [found for found in backend.host.domains() if found.vm == vm.id]
    assert (listed.instance, listed.id) == ("other", theirs.alive.id)

    backend.kill(vm.id)
    ours.destroy()
    ours.unplug(guests.disk(vm, "disk", 1), force=True)
    ours.remove()
    with pytest.raises((DoesNotExist, BadPowerState)):
        ours.pause()
    assert theirs.alive.id == listed.id
    assert not theirs.alive.paused

    theirs.destroy()
    theirs.remove()


def test_a_domain_is_adopted_and_runs_on(backend, open_backend, guests, subject_of):
    vm = guests.vm("conformance-adopted", guests.guest_type())
    theirs = subject_of(open_backend("other"), vm)
    theirs.started()
    before = theirs.alive
    ours = subject_of(backend, vm)
    ours.incarnation = theirs.incarnation
    # Twice: the first may have been cut after it was done.
    for _ in range(2):
        ours.adopt(before.id)
        found = ours.alive
        assert (found.id, found.incarnation) == (before.id, before.incarnation)
        assert (found.vm, found.paused) == (vm.id, False)
        assert found.vbds.keys() == before.vbds.keys()
    assert theirs.domain is None
    assert len([d for d in backend.host.domains() if d.id == before.id]) == 1
    with pytest.raises(AlreadyExists):
        ours.adopt("no-such-domain")
    ours.destroy()
    with pytest.raises(DoesNotExist):
        ours.adopt(before.id)
    assert ours.leftovers == []
    ours.remove()
    theirs.destroy()
    theirs.remove()


# Stopping


@pytest.mark.parametrize("reason", ["poweroff", "reboot"])
def test_a_guest_that_is_asked_stops_for_that_reason(subject, reason):
    subject.started()
    subject.done(lambda: subject.request_shutdown(reason))
    subject.done(subject.await_shutdown)
    assert subject.alive.stopped == reason


def test_a_running_guest_is_waited_for(subject):
    subject.started()
    waiting = subject.await_shutdown()
    assert isinstance(waiting, Waiting)
    assert waiting.what
    assert waiting.timeout > 0


def test_a_paused_guest_does_not_acknowledge(subject):
    subject.started()
    subject.pause()
    assert isinstance(subject.request_shutdown("poweroff"), Waiting)
    assert subject.alive.stopped is None


@pytest.mark.parametrize("reason", ["poweroff", "reboot", "crash"])
def test_a_guest_that_stops_by_itself_is_told_of(subject, guests, attention, eventually, reason):
    subject.started()
    guests.act(subject.backend, subject.vm, reason)
    attention(subject.vm.id)
    eventually(lambda: subject.alive.stopped == reason)
    assert subject.await_shutdown() is None
    with pytest.raises(BadPowerState):
        subject.unpause()


# Kill


def test_a_killed_domain_is_gone_and_what_it_had_is_cleared_by_destroy(subject, guests):
    subject.started(_disk(subject, guests), guests.volatile(subject.vm, "tmp", 2))
    subject.plug_vif(_vif(subject, guests))
    subject.backend.kill(subject.vm.id)
    assert subject.domain is None
    subject.backend.kill(subject.vm.id)
    subject.destroy()
    assert subject.leftovers == []


def test_after_a_kill_the_vm_can_start_again(subject, guests):
    disk = _disk(subject, guests)
    subject.started(disk)
    subject.backend.kill(subject.vm.id)
    subject.destroy()
    subject.again().started(disk)
    assert not subject.alive.paused


def test_kill_is_safe_beside_any_call(subject, guests):
    disk, vif = _disk(subject, guests), _vif(subject, guests)
    begun, over = threading.Event(), threading.Event()
    strays: list[BaseException] = []

    def live() -> None:
        steps: Steps = [
            subject.create,
            lambda: subject.plug(disk),
            lambda: subject.plug_vif(vif),
            lambda: subject.build(disk),
            subject.create_device_model,
            subject.unpause,
            subject.pause,
            subject.destroy,
        ]
        while not over.is_set():
            for step in steps:
                try:
                    step()
                except XenopsError:
                    pass
                except BaseException as error:  # noqa: BLE001  # told by the main thread
                    strays.append(error)
                    return
            begun.set()

    thread = threading.Thread(target=live)
    thread.start()
    try:
        assert begun.wait(60)
        for _ in range(20):
            subject.backend.kill(subject.vm.id)
    finally:
        over.set()
        thread.join()
    assert strays == []
    subject.destroy()
    assert subject.domain is None
    assert subject.leftovers == []


# Disks


def test_a_plugged_disk_shows_with_its_medium(subject, guests):
    disk = _disk(subject, guests)
    subject.started(disk)
    plugged = subject.alive.vbds[disk.id]
    assert plugged.medium == disk.backend
    assert not plugged.detaching


def test_a_disk_comes_and_goes_while_the_guest_runs(subject, guests, needs):
    needs("vbd_hotplug")
    disk = _disk(subject, guests)
    subject.started()
    subject.plug(disk)
    assert disk.id in subject.alive.vbds
    subject.unplug(disk)
    assert disk.id not in subject.alive.vbds


def test_a_position_is_given_once(subject, guests):
    subject.create()
    subject.plug(guests.disk(subject.vm, "one", 1))
    with pytest.raises(AlreadyExists):
        subject.plug(guests.disk(subject.vm, "two", 1))
    assert f"{subject.vm.id}/two" not in subject.alive.vbds


def test_a_paused_guest_does_not_let_go_of_a_disk(subject, guests):
    disk = _disk(subject, guests)
    subject.started(disk)
    subject.pause()
    with pytest.raises(DeviceDetachRejected):
        subject.unplug(disk)
    assert disk.id in subject.alive.vbds


def test_a_guest_that_is_not_up_does_not_let_go_of_a_disk(subject, guests):
    disk = _disk(subject, guests)
    subject.built(disk)
    with pytest.raises(DeviceDetachRejected):
        subject.unplug(disk)
    assert disk.id in subject.alive.vbds


def test_force_takes_a_disk_from_a_paused_guest(subject, guests, needs):
    needs("vbd_force_unplug")
    disk = _disk(subject, guests)
    subject.started(disk)
    subject.pause()
    subject.unplug(disk, force=True)
    assert disk.id not in subject.alive.vbds


def test_media_are_ejected_and_inserted(subject, guests):
    drive = guests.drive(subject.vm, "cd", 1)
    medium = guests.medium("two")
    subject.started(drive)
    assert subject.alive.vbds[drive.id].medium == drive.backend
    for _ in range(2):
        subject.eject(drive)
        assert subject.alive.vbds[drive.id].medium is None
    for _ in range(2):
        subject.insert(drive, medium)
        assert subject.alive.vbds[drive.id].medium == medium


def test_a_disk_has_no_medium_to_eject(subject, guests):
    disk = _disk(subject, guests)
    subject.started(disk)
    with pytest.raises(MediaNotEjectable):
        subject.eject(disk)
    assert subject.alive.vbds[disk.id].medium == disk.backend


def test_a_drive_that_is_not_plugged_takes_no_medium(subject, guests):
    subject.started()
    with pytest.raises(DeviceNotConnected):
        subject.insert(guests.drive(subject.vm, "cd", 1), guests.medium("two"))


# Interfaces


def test_a_plugged_interface_shows_its_device_and_finds_it_again(subject, guests):
    vif = _vif(subject, guests)
    subject.create()
    subject.plug_vif(vif)
    plugged = subject.alive.vifs[vif.id]
    assert plugged.device
    assert plugged.media_present
    subject.plug_vif(vif)
    assert subject.alive.vifs[vif.id].device == plugged.device


def test_interfaces_of_two_vifs_differ(subject, guests):
    first, second = _vif(subject, guests), guests.vif(subject.vm, "eth1", 1)
    subject.create()
    subject.plug_vif(first)
    subject.plug_vif(second)
    vifs = subject.alive.vifs
    assert vifs[first.id].device != vifs[second.id].device


def test_an_interface_comes_and_goes_while_the_guest_runs(subject, guests, needs):
    needs("vif_hotplug")
    vif = _vif(subject, guests)
    subject.started()
    subject.plug_vif(vif)
    assert vif.id in subject.alive.vifs
    subject.unplug_vif(vif)
    assert vif.id not in subject.alive.vifs


def test_the_cable_is_pulled_and_put_back(subject, guests):
    vif = _vif(subject, guests)
    subject.started()
    subject.plug_vif(vif)
    subject.configure(replace(vif, carrier=False), "carrier")
    assert not subject.alive.vifs[vif.id].media_present
    subject.configure(vif, "carrier")
    assert subject.alive.vifs[vif.id].media_present


@pytest.mark.parametrize("field", ["backend", "locking_mode", "ipv4", "ipv6", "rate"])
def test_every_field_of_an_interface_can_be_configured_twice(subject, guests, field):
    vif = _vif(subject, guests)
    subject.started()
    subject.plug_vif(vif)
    before = subject.alive.vifs[vif.id]
    subject.configure(vif, field)
    subject.configure(vif, field)
    assert subject.alive.vifs[vif.id] == before


def test_an_interface_that_is_not_plugged_is_not_configured(subject, guests):
    subject.started()
    with pytest.raises(DeviceNotConnected):
        subject.configure(_vif(subject, guests), "carrier")


# PCI


def test_a_device_of_the_host_is_given_and_taken_back(subject, guests, needs):
    needs("pci")
    pci = guests.pci(subject.vm, "nic")
    subject.create()
    for _ in range(2):
        subject.plug_pci(pci)
        assert subject.alive.pcis == [pci.id]
    for _ in range(2):
        subject.unplug_pci(pci, force=True)
        assert subject.alive.pcis == []


# CPUs and memory


def test_vcpus_are_changed_within_their_range(subject, needs):
    needs("vcpu_hotplug")
    subject.started()
    for vcpus in (1, 2):
        subject.set_vcpus(vcpus)
        assert subject.alive.vcpus == vcpus


@pytest.mark.parametrize("vcpus", [0, 3], ids=["none", "too many"])
def test_vcpus_out_of_range_are_refused(subject, needs, vcpus):
    needs("vcpu_hotplug")
    subject.started()
    with pytest.raises(InvalidVcpus) as refused:
        subject.set_vcpus(vcpus)
    assert (refused.value.requested, refused.value.maximum) == (vcpus, 2)
    assert subject.alive.vcpus == 2


def test_the_balloon_follows_its_target(subject, needs, eventually):
    needs("balloon")
    subject.started()
    subject.set_memory(2**27)
    assert subject.alive.memory_target == 2**27
    eventually(lambda: subject.alive.memory_actual <= 2**27)


# Suspend


def test_a_saved_guest_has_stopped_and_its_image_is_whole(subject, needs, tmp_path):
    needs("suspend")
    image = tmp_path / "image"
    subject.started()
    subject.save(image)
    assert subject.alive.stopped == "suspend"
    assert subject.await_shutdown() is None
    subject.check_image(image)


def test_saving_again_ends_in_the_same(subject, needs, tmp_path):
    needs("suspend")
    image = tmp_path / "image"
    subject.started()
    subject.save(image)
    subject.save(image)
    assert subject.alive.stopped == "suspend"
    subject.check_image(image)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["image"]


def test_a_suspended_guest_leaves_nothing_that_destroy_clears(subject, guests, needs, tmp_path):
    needs("suspend")
    subject.started(guests.volatile(subject.vm, "tmp", 1))
    subject.save(tmp_path / "image")
    subject.destroy()
    assert subject.domain is None
    assert subject.leftovers == []
    subject.check_image(tmp_path / "image")
    subject.remove(guests.volatile(subject.vm, "tmp", 1))


def test_a_guest_runs_on_from_its_image(subject, guests, needs, tmp_path, eventually):
    needs("suspend")
    image = tmp_path / "image"
    disk, vif = _disk(subject, guests), _vif(subject, guests)
    subject.started(disk)
    subject.plug_vif(vif)
    before = subject.alive
    subject.save(image)
    subject.destroy()

    later = subject.again()
    later.create()
    for vbd in (*later.boot, disk):
        later.plug(vbd)
    later.plug_vif(vif)
    for _ in range(2):
        later.restore(image)
        restored = later.alive
        assert restored.built
        assert restored.paused
        assert restored.stopped is None
    later.create_device_model()
    later.unpause()
    running = later.alive
    assert not running.paused
    assert running.id != before.id
    assert running.incarnation == later.incarnation
    assert running.vcpus == before.vcpus
    assert running.memory_target == before.memory_target
    assert set(running.vbds) == set(before.vbds)
    eventually(lambda: later.alive.vcpu_seconds > 0)


def test_a_resume_that_was_given_up_can_be_repeated(subject, guests, needs, tmp_path):
    needs("suspend")
    image = tmp_path / "image"
    volatile = guests.volatile(subject.vm, "tmp", 1)
    subject.started(volatile)
    subject.save(image)
    subject.destroy()
    given_up = subject.again()
    given_up.create()
    for vbd in (*given_up.boot, volatile):
        given_up.plug(vbd)
    given_up.restore(image)
    given_up.destroy()
    assert given_up.leftovers == []
    subject.check_image(image)
    later = subject.again()
    later.create()
    for vbd in (*later.boot, volatile):
        later.plug(vbd)
    later.restore(image)
    later.create_device_model()
    later.unpause()
    assert not later.alive.paused
    later.destroy()
    later.remove(volatile)


def test_a_save_can_be_undone(subject, needs, tmp_path):
    needs("suspend")
    subject.started()
    before = subject.alive
    subject.save(tmp_path / "image")
    for _ in range(2):
        subject.resume_saved()
        assert subject.alive.stopped is None
        assert not subject.alive.paused
    assert subject.alive.id == before.id


# Layers that go to another instance


def _content(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_layers_go_into_a_parcel_and_out_of_it(subject, guests, tmp_path):
    layered, parcel = guests.layered(subject.vm, "kept", 1), tmp_path / "incoming" / "vm"
    subject.started(layered)
    with pytest.raises(AlreadyExists):
        subject.hand_over(parcel)
    subject.destroy()
    packed = []
    for _ in range(2):
        for _ in range(2):
            subject.hand_over(parcel)
        packed.append(_content(parcel))
        for _ in range(2):
            subject.take_over(parcel)
        assert not parcel.exists()
    assert packed[0]
    assert packed[0] == packed[1]
    subject.again().started(layered)
    subject.destroy()
    subject.remove(layered)


def test_a_vm_without_layers_has_nothing_to_hand_over(subject, tmp_path):
    parcel = tmp_path / "parcel"
    subject.hand_over(parcel)
    assert not parcel.exists() or _content(parcel) == {}
    subject.take_over(parcel)
    assert not parcel.exists()


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "first byte": lambda image: bytes([image[0] ^ 1]) + image[1:],
    "early byte": lambda image: image[:60] + bytes([image[60] ^ 1]) + image[61:],
    "middle byte": lambda i: i[: len(i) // 2] + bytes([i[len(i) // 2] ^ 1]) + i[len(i) // 2 + 1 :],
    "last byte": lambda image: image[:-1] + bytes([image[-1] ^ 1]),
    "cut short": lambda image: image[:-10],
    "cut to nothing": lambda image: b"",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_image_is_refused(subject, needs, tmp_path, damage):
    needs("suspend")
    image = tmp_path / "image"
    subject.started()
    subject.save(image)
    subject.destroy()
    image.write_bytes(damage(image.read_bytes()))
    with pytest.raises(ImageInvalid) as refused:
        subject.check_image(image)
    assert refused.value.path == str(image)
    later = subject.again()
    later.create()
    with pytest.raises(ImageInvalid):
        later.restore(image)


def test_an_image_that_is_not_there_is_refused(subject, needs, tmp_path):
    needs("suspend")
    with pytest.raises(ImageInvalid):
        subject.check_image(tmp_path / "nothing")


def test_a_dropped_image_is_gone(subject, needs, tmp_path):
    needs("suspend")
    image = tmp_path / "image"
    subject.started()
    subject.save(image)
    subject.destroy()
    for _ in range(2):
        subject.drop_image(image)
        assert list(tmp_path.iterdir()) == [path for path in tmp_path.iterdir() if path.is_dir()]


def test_what_is_no_image_is_not_dropped(subject, needs, tmp_path):
    needs("suspend")
    precious = tmp_path / "precious"
    precious.write_text("not an image")
    subject.drop_image(precious)
    assert precious.read_text() == "not an image"


def test_what_is_no_image_is_not_overwritten(subject, needs, tmp_path):
    needs("suspend")
    precious = tmp_path / "precious"
    precious.write_text("not an image")
    subject.started()
    with pytest.raises(ImageInvalid):
        subject.save(precious)
    assert precious.read_text() == "not an image"
    assert subject.alive.stopped is None
    assert not subject.alive.paused


def test_what_is_left_of_a_guest_can_be_kept(subject, tmp_path):
    subject.started()
    core = tmp_path / "core"
    for _ in range(2):
        subject.backend.vm.coredump(subject.call("vm_coredump"), subject.vm, core)
        assert core.stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["core"]


def test_what_of_a_guest_cannot_be_kept_leaves_nothing(subject, tmp_path):
    subject.started()
    core = tmp_path / "core"
    core.mkdir()
    with pytest.raises(XenopsError):
        subject.backend.vm.coredump(subject.call("vm_coredump"), subject.vm, core)
    assert not [path.name for path in tmp_path.iterdir() if path.is_file()]
