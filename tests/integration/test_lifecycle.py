"""Start to shutdown: every call that moves a VM, every state that it may not move from."""

import time

import pytest
from rigs.lab import raises

from idl.errors import (
    BadPowerState,
    DoesNotExist,
    DomainNotBuilt,
    FailedToAcknowledge,
    FailedToShutdown,
    ImageInvalid,
    InvalidParameter,
    InvalidVcpus,
    Unimplemented,
)
from idl.vbd import Local, Vbd
from idl.vm import Container, Pv, Pvh

MIB = 2**20


def in_state(lab, state, **kwargs):
    id = lab.vm(vcpu_max=2, vcpus=1, **kwargs)
    if state == "halted":
        return id
    lab.run(lab.client.vm.start(id, paused=state == "paused"))
    if state == "suspended":
        lab.run(lab.client.vm.suspend(id))
    return id


# Start


def test_a_start_brings_a_halted_vm_to_running(lab):
    id = lab.vm(disks=2, nics=2, memory_static_max=64 * MIB, vcpu_max=2)
    before = time.time()
    task = lab.run(lab.client.vm.start(id))
    assert lab.sensible(id) == "running"
    state = lab.stat(id).state
    assert state.reason == "started"
    assert state.last_start_time >= before - 1
    assert state.memory_actual == state.memory_target == 64 * MIB
    assert state.memory_limit >= 64 * MIB
    assert state.vcpu_target == 2
    assert state.guest_agent
    assert state.pv_drivers_detected
    assert not state.uncooperative_balloon
    assert lab.stat(id).pending == {}
    assert [(s.name, s.object) for s in task.subtasks] == [
        ("vm_create", id),
        ("vm_build", id),
        ("vbd_plug", f"{id}/disk0"),
        ("vbd_plug", f"{id}/disk1"),
        ("vif_plug", f"{id}/nic0"),
        ("vif_plug", f"{id}/nic1"),
        ("vm_create_device_model", id),
        ("vm_unpause", id),
    ]


def test_a_start_may_leave_the_vm_paused(lab):
    id = lab.vm()
    lab.run(lab.client.vm.start(id, paused=True))
    assert lab.sensible(id) == "paused"
    assert lab.domain(id).get("ran", 0) == 0
    lab.run(lab.client.vm.unpause(id))
    assert lab.sensible(id) == "running"


@pytest.mark.parametrize(
    "guest", [Pv(kernel="/k"), Pvh(kernel="/k"), Container()], ids=["pv", "pvh", "container"]
)
def test_every_type_of_guest_starts_and_stops(lab, guest):
    id = lab.running(guest=guest)
    assert lab.sensible(id) == "running"
    lab.run(lab.client.vm.suspend(id))
    lab.run(lab.client.vm.resume(id))
    assert lab.sensible(id) == "running"
    lab.run(lab.client.vm.shutdown(id, timeout=10))
    assert lab.sensible(id) == "halted"


def test_a_vm_without_devices_starts(lab):
    id = lab.running(disks=0, nics=0)
    assert lab.sensible(id) == "running"


def test_each_start_and_reboot_makes_a_new_domain_and_incarnation(lab):
    id = lab.vm()
    seen = set()
    for operation in ("start", "reboot", "reboot", "start"):
        if operation == "start" and seen:
            lab.run(lab.client.vm.shutdown(id))
        lab.run(getattr(lab.client.vm, operation)(id))
        state = lab.stat(id).state
        seen.add((state.domain_ids[0], state.incarnation))
    assert len({domain for domain, _ in seen}) == 4
    assert len({incarnation for _, incarnation in seen}) == 4


# Power states that an operation may not begin in

LIVE = ["running", "paused"]
REFUSED = [
    ("start", {}, "running", ["halted"]),
    ("start", {}, "paused", ["halted"]),
    ("start", {}, "suspended", ["halted"]),
    ("reboot", {}, "halted", LIVE),
    ("reboot", {}, "suspended", LIVE),
    ("reboot", {"timeout": 5}, "paused", ["running"]),
    ("shutdown", {"timeout": 5}, "paused", ["running"]),
    ("pause", {}, "halted", LIVE),
    ("pause", {}, "suspended", LIVE),
    ("unpause", {}, "halted", LIVE),
    ("unpause", {}, "suspended", LIVE),
    ("suspend", {}, "halted", ["running"]),
    ("suspend", {}, "paused", ["running"]),
    ("suspend", {}, "suspended", ["running"]),
    ("resume", {}, "halted", ["suspended"]),
    ("resume", {}, "running", ["suspended"]),
    ("resume", {}, "paused", ["suspended"]),
    ("create", {}, "running", ["halted"]),
    ("create", {}, "paused", ["halted"]),
    ("create", {}, "suspended", ["halted"]),
    ("build", {}, "halted", ["paused"]),
    ("build", {}, "running", ["paused"]),
    ("build", {}, "suspended", ["paused"]),
    ("create_device_model", {}, "halted", LIVE),
    ("create_device_model", {}, "suspended", LIVE),
    ("set_vcpus", {"vcpus": 1}, "halted", LIVE),
    ("set_vcpus", {"vcpus": 1}, "suspended", LIVE),
]


@pytest.mark.parametrize(
    ("operation", "args", "state", "expected"),
    REFUSED,
    ids=[f"{o} {a or ''} when {s}" for o, a, s, _ in REFUSED],
)
def test_an_operation_in_a_wrong_power_state_is_the_tasks_error(
    lab, operation, args, state, expected
):
    id = in_state(lab, state)
    with lab.untouched(id):
        error = lab.failure(getattr(lab.client.vm, operation)(id, **args), BadPowerState)
        assert error.id == id
        assert error.actual == state
        assert error.expected == expected
    lab.sensible(id, state)


NO_EFFECT = [
    ("pause", "paused"),
    ("unpause", "running"),
    ("shutdown", "halted"),
    ("destroy", "halted"),
]


@pytest.mark.parametrize(
    ("operation", "state"), NO_EFFECT, ids=[f"{o} when {s}" for o, s in NO_EFFECT]
)
def test_an_operation_on_a_vm_that_is_there_already_succeeds(lab, operation, state):
    id = in_state(lab, state)
    lab.run(getattr(lab.client.vm, operation)(id))
    assert lab.sensible(id) == state


@pytest.mark.parametrize("method", [
    "start", "shutdown", "reboot", "pause", "unpause", "suspend", "resume", "create", "build",
    "create_device_model", "destroy", "forget",
])  # fmt: skip
def test_an_operation_on_an_unknown_vm_is_an_error_of_the_call(lab, method):
    error = raises(DoesNotExist, lambda: getattr(lab.client.vm, method)("no-such-vm"))
    assert (error.kind, error.id) == ("VM", "no-such-vm")


@pytest.mark.parametrize(("method", "args"), [
    ("set_vcpus", [1]), ("set_memory_dynamic_range", [1, 2]), ("set_xsdata", [{}]), ("delay", [0.0]),
], ids=["set_vcpus", "set_memory_dynamic_range", "set_xsdata", "delay"])  # fmt: skip
def test_a_setting_of_an_unknown_vm_is_an_error_of_the_call(lab, method, args):
    error = raises(DoesNotExist, lambda: getattr(lab.client.vm, method)("no-such-vm", *args))
    assert (error.kind, error.id) == ("VM", "no-such-vm")


# Shutdown and reboot


@pytest.mark.parametrize("state", ["running", "paused", "suspended"])
def test_a_hard_shutdown_halts_a_vm_in_any_state(lab, state):
    id = in_state(lab, state, disks=2)
    lab.run(lab.client.vm.shutdown(id))
    assert lab.sensible(id) == "halted"
    assert lab.stat(id).state.reason == "shut down"
    lab.run(lab.client.vm.start(id))
    assert lab.sensible(id) == "running"


def test_a_clean_shutdown_asks_the_guest(lab):
    id = lab.running()
    task = lab.run(lab.client.vm.shutdown(id, timeout=20))
    assert "vm_request_shutdown" in [s.name for s in task.subtasks]
    assert lab.sensible(id) == "halted"


@pytest.mark.parametrize("state", ["halted", "suspended"])
def test_a_clean_shutdown_of_a_vm_that_does_not_run_ends_at_once(lab, state):
    id = in_state(lab, state)
    lab.run(lab.client.vm.shutdown(id, timeout=3600))
    assert lab.sensible(id) == "halted"


def test_a_clean_shutdown_that_the_guest_ignores_fails_and_leaves_it_running(lab):
    id = lab.running()
    lab.trigger("ignore-shutdown", id, "true")
    domain = lab.domain(id)
    error = lab.failure(lab.client.vm.shutdown(id, timeout=0.2), FailedToShutdown)
    assert (error.id, error.timeout) == (id, 0.2)
    assert lab.sensible(id) == "running"
    assert lab.domain(id) == domain


@pytest.mark.parametrize(
    ("operation", "request_"), [("shutdown", "poweroff"), ("reboot", "reboot")]
)
def test_a_guest_that_does_not_even_acknowledge_is_told_apart(shared, operation, request_):
    lab = shared("[deadlines]\nshutdown_ack = 0.2\n")
    id = lab.running()
    lab.trigger("ignore-shutdown", id, "true")
    error = lab.failure(getattr(lab.client.vm, operation)(id, timeout=3600), FailedToAcknowledge)
    assert (error.id, error.request, error.timeout) == (id, request_, 0.2)
    assert lab.sensible(id) == "running"


def test_a_clean_shutdown_by_force_halts_a_guest_that_ignores_it(lab):
    id = lab.running()
    lab.trigger("ignore-shutdown", id, "true")
    lab.run(lab.client.vm.shutdown(id, timeout=0.2, force=True))
    assert lab.sensible(id) == "halted"


def test_a_clean_shutdown_by_force_halts_a_paused_vm(lab):
    id = in_state(lab, "paused")
    lab.run(lab.client.vm.shutdown(id, timeout=0.2, force=True))
    assert lab.sensible(id) == "halted"


def test_a_clean_shutdown_ends_when_the_guest_stops_by_itself_meanwhile(lab):
    id = lab.running()
    lab.trigger("ignore-shutdown", id, "true")
    task = lab.client.vm.shutdown(id, timeout=3600)
    lab.began(task)
    lab.trigger("halt", id)
    lab.run(task)
    assert lab.sensible(id) == "halted"


def test_a_clean_shutdown_halts_a_guest_that_reboots_instead(lab):
    id = lab.running()
    lab.trigger("ignore-shutdown", id, "true")
    task = lab.client.vm.shutdown(id, timeout=3600)
    lab.began(task)
    lab.trigger("reboot", id)
    lab.run(task)
    assert lab.sensible(id) == "halted"


@pytest.mark.parametrize("args", [{}, {"timeout": 20}], ids=["hard", "clean"])
def test_a_reboot_ends_running_in_a_new_domain(lab, args):
    id = lab.running(disks=2)
    old = lab.stat(id).state.incarnation
    lab.run(lab.client.vm.reboot(id, **args))
    assert lab.sensible(id) == "running"
    state = lab.stat(id).state
    assert state.incarnation != old
    assert state.reason == "rebooted"


def test_a_hard_reboot_starts_a_paused_vm_anew(lab):
    id = in_state(lab, "paused")
    lab.run(lab.client.vm.reboot(id))
    assert lab.sensible(id) == "running"


def test_a_clean_reboot_that_the_guest_ignores_fails_and_leaves_it_running(lab):
    id = lab.running()
    lab.trigger("ignore-shutdown", id, "true")
    domain = lab.domain(id)
    error = lab.failure(lab.client.vm.reboot(id, timeout=0.2), FailedToShutdown)
    assert (error.id, error.timeout) == (id, 0.2)
    assert lab.sensible(id) == "running"
    assert lab.domain(id) == domain
    lab.run(lab.client.vm.reboot(id, timeout=0.2, force=True))
    assert lab.sensible(id) == "running"
    assert lab.domain(id)["incarnation"] != domain["incarnation"]


def test_during_a_reboot_the_vm_counts_as_running(lab):
    id = lab.running()
    lab.trigger("set-latency", "vm_build", 30)
    task = lab.client.vm.reboot(id)
    lab.began(task, "vm_build")
    assert lab.power_state(id) == "running"
    assert lab.stat(id).state.operation.name == "VM.reboot"
    lab.client.task.cancel(task)
    lab.end(task)


# Pause


def test_pause_stops_the_vcpus_and_unpause_lets_them_run(lab):
    id = lab.running()
    domain = lab.stat(id).state.domain_ids
    lab.run(lab.client.vm.pause(id))
    assert lab.sensible(id) == "paused"
    lab.run(lab.client.vm.unpause(id))
    assert lab.sensible(id) == "running"
    assert lab.stat(id).state.domain_ids == domain


# Suspend and resume


def test_suspend_frees_the_domain_and_resume_brings_it_back(lab):
    id = lab.running(disks=2, nics=2)
    lab.run(lab.client.vm.suspend(id))
    assert lab.sensible(id) == "suspended"
    assert lab.stat(id).state.reason == "suspended"
    uptime = lab.domain(id)
    assert uptime is None
    lab.run(lab.client.vm.resume(id))
    assert lab.sensible(id) == "running"
    assert lab.stat(id).state.reason == "resumed"
    assert lab.domain(id)["uptime"] > 0


def test_resume_may_leave_the_vm_paused(lab):
    id = lab.suspended()
    lab.run(lab.client.vm.resume(id, paused=True))
    assert lab.sensible(id) == "paused"
    assert lab.domain(id)["restored"]
    lab.run(lab.client.vm.unpause(id))
    assert lab.sensible(id) == "running"


def test_suspend_goes_to_the_image_that_was_named(lab, directory):
    id = lab.running()
    image = directory / "image"
    lab.run(lab.client.vm.suspend(id, image=str(image)))
    assert lab.sensible(id) == "suspended"
    assert image.stat().st_size > 0
    assert not (lab.daemon.state_dir / "suspend" / f"{id}.image").exists()
    lab.run(lab.client.vm.resume(id))
    assert lab.sensible(id) == "running"
    assert not image.exists()


def test_resume_takes_the_image_that_was_named(lab, directory):
    id = lab.running()
    image = directory / "image"
    lab.run(lab.client.vm.suspend(id, image=str(image)))
    moved = image.rename(directory / "moved")
    lab.run(lab.client.vm.resume(id, image=str(moved)))
    assert lab.sensible(id) == "running"


def test_an_image_serves_once(lab, directory):
    id = lab.running()
    image = directory / "image"
    lab.run(lab.client.vm.suspend(id, image=str(image)))
    copy = image.read_bytes()
    lab.run(lab.client.vm.resume(id))
    image.write_bytes(copy)
    error = lab.failure(lab.client.vm.resume(id, image=str(image)), BadPowerState)
    assert error.expected == ["suspended"]


def test_suspend_overwrites_no_file_that_is_no_image(lab, directory):
    id = lab.running()
    precious = directory / "precious"
    precious.write_text("a file of somebody else")
    error = lab.failure(lab.client.vm.suspend(id, image=str(precious)), ImageInvalid)
    assert error.path == str(precious)
    assert error.reason
    assert precious.read_text() == "a file of somebody else"
    assert lab.sensible(id) == "running"


def test_suspend_to_a_place_that_is_not_there_leaves_the_vm_running(lab, directory):
    id = lab.running()
    image = directory / "no" / "such" / "image"
    error = lab.failure(lab.client.vm.suspend(id, image=str(image)), ImageInvalid)
    assert error.path == str(image)
    assert lab.sensible(id) == "running"


def damage(image, how):
    match how:
        case "cut short":
            image.write_bytes(image.read_bytes()[:-20])
        case "a byte changed":
            content = bytearray(image.read_bytes())
            content[len(content) // 2] ^= 1
            image.write_bytes(content)
        case "empty":
            image.write_bytes(b"")
        case "gone":
            image.unlink()


@pytest.mark.parametrize("how", ["cut short", "a byte changed", "empty", "gone"])
def test_a_damaged_image_is_refused_and_the_vm_stays_suspended(lab, directory, how):
    id = lab.running()
    image = directory / "image"
    lab.run(lab.client.vm.suspend(id, image=str(image)))
    whole = image.read_bytes()
    damage(image, how)
    error = lab.failure(lab.client.vm.resume(id), ImageInvalid)
    assert error.path == str(image)
    assert error.reason
    assert lab.power_state(id) == "suspended"
    image.write_bytes(whole)
    lab.run(lab.client.vm.resume(id))
    assert lab.sensible(id) == "running"


def test_the_image_of_another_vm_is_refused(lab):
    id, other = lab.suspended(), lab.suspended()
    theirs = lab.daemon.state_dir / "suspend" / f"{other}.image"
    error = lab.failure(lab.client.vm.resume(id, image=str(theirs)), ImageInvalid)
    assert error.path == str(theirs)
    for vm in (id, other):
        assert lab.sensible(vm) == "suspended"
        lab.run(lab.client.vm.resume(vm))
        assert lab.sensible(vm) == "running"


@pytest.mark.parametrize("timeout", [None, 10.0], ids=["hard", "clean"])
def test_shutdown_of_a_suspended_vm_drops_its_image(lab, directory, timeout):
    id = lab.running()
    image = directory / "image"
    lab.run(lab.client.vm.suspend(id, image=str(image)))
    lab.run(lab.client.vm.shutdown(id, timeout=timeout))
    assert not image.exists()
    assert lab.sensible(id) == "halted"


def test_throwaway_layers_live_over_a_suspend_and_are_new_at_a_start(lab):
    id = lab.vm(disks=0)
    base = Local(path="/images/base", overlay=True)
    lab.client.vbd.add(Vbd(id=f"{id}/scratch", backend=base, persistent=False))
    lab.client.vbd.add(Vbd(id=f"{id}/kept", backend=base))
    lab.run(lab.client.vm.start(id))
    first = lab.stat(id).state.incarnation
    assert lab.layers(id) == ["kept.json", f"scratch@{first}.json"]
    lab.run(lab.client.vm.suspend(id))
    assert lab.layers(id) == ["kept.json", "scratch@suspended.json"]
    lab.run(lab.client.vm.resume(id))
    second = lab.stat(id).state.incarnation
    assert lab.layers(id) == ["kept.json", f"scratch@{second}.json"]
    lab.run(lab.client.vm.reboot(id))
    third = lab.stat(id).state.incarnation
    assert lab.layers(id) == ["kept.json", f"scratch@{third}.json"]
    lab.run(lab.client.vm.shutdown(id))
    assert lab.layers(id) == ["kept.json"]
    lab.client.vbd.remove(f"{id}/kept")
    assert lab.layers(id) == []


# The single micro-ops


def test_a_toolstack_may_sequence_the_micro_ops_itself(lab):
    id = lab.vm(vcpu_max=2)
    vm = lab.client.vm
    lab.run(vm.create(id))
    assert lab.power_state(id) == "paused"
    for early in (vm.pause(id), vm.unpause(id), vm.set_vcpus(id, 1)):
        assert lab.failure(early, DomainNotBuilt).id == id
    lab.run(vm.build(id))
    lab.run(lab.client.vbd.plug(f"{id}/disk0"))
    lab.run(lab.client.vif.plug(f"{id}/nic0"))
    lab.run(vm.create_device_model(id))
    lab.run(vm.unpause(id))
    assert lab.sensible(id) == "running"
    lab.run(vm.destroy(id))
    assert lab.sensible(id) == "halted"
    lab.run(vm.destroy(id))
    assert lab.sensible(id) == "halted"


def test_a_device_model_that_is_there_is_let_be(lab):
    id = lab.running()
    lab.trigger("fail", "vm_create_device_model", 1)
    lab.run(lab.client.vm.create_device_model(id))
    lab.trigger("fail", "vm_create_device_model", 0)
    assert lab.domain(id)["device_model"]
    lab.run(lab.client.vm.pause(id))
    lab.trigger("fail", "vm_build", 1)
    lab.run(lab.client.vm.build(id))
    lab.trigger("fail", "vm_build", 0)
    assert lab.sensible(id) == "paused"


def test_a_device_model_before_build_is_refused(lab):
    id = lab.vm()
    lab.run(lab.client.vm.create(id))
    assert lab.failure(lab.client.vm.create_device_model(id), DomainNotBuilt).id == id
    lab.run(lab.client.vm.destroy(id))
    assert lab.sensible(id) == "halted"


@pytest.mark.parametrize("after", ["create", "build"])
def test_a_shell_that_was_left_can_be_shut_down(lab, after):
    id = lab.vm()
    lab.run(lab.client.vm.create(id))
    if after == "build":
        lab.run(lab.client.vm.build(id))
    lab.run(lab.client.vm.shutdown(id))
    assert lab.sensible(id) == "halted"


def test_destroy_of_a_suspended_vm_keeps_its_image(lab):
    id = lab.suspended()
    lab.run(lab.client.vm.destroy(id))
    assert lab.sensible(id) == "suspended"
    lab.run(lab.client.vm.resume(id))
    assert lab.sensible(id) == "running"


# Live settings


def test_set_vcpus_applies_now_and_at_the_next_start(lab):
    id = lab.running(vcpu_max=4, vcpus=1)
    lab.run(lab.client.vm.set_vcpus(id, 3))
    record = lab.stat(id)
    assert record.state.vcpu_target == 3
    assert record.config.vcpus == 3
    assert record.pending == {}
    assert lab.domain(id)["vcpus"] == 3
    lab.run(lab.client.vm.reboot(id))
    assert lab.stat(id).state.vcpu_target == 3


@pytest.mark.parametrize("vcpus", [0, -1, 5])
def test_set_vcpus_out_of_range_changes_nothing(lab, vcpus):
    id = lab.running(vcpu_max=4, vcpus=1)
    with lab.untouched(id):
        error = lab.failure(lab.client.vm.set_vcpus(id, vcpus), InvalidVcpus)
        assert (error.requested, error.maximum) == (vcpus, 4)


def test_set_memory_dynamic_range_moves_the_balloon_into_the_range(lab):
    id = lab.running(memory_static_max=256 * MIB)
    lab.run(lab.client.vm.set_memory_dynamic_range(id, 64 * MIB, 128 * MIB))
    record = lab.stat(id)
    assert record.state.memory_target == record.state.memory_actual == 128 * MIB
    assert (record.config.memory_dynamic_min, record.config.memory_dynamic_max) == (
        64 * MIB,
        128 * MIB,
    )
    lab.run(lab.client.vm.set_memory_dynamic_range(id, 192 * MIB, 256 * MIB))
    assert lab.stat(id).state.memory_target == 192 * MIB
    assert lab.sensible(id) == "running"


@pytest.mark.parametrize("state", ["halted", "suspended"])
def test_set_memory_dynamic_range_of_a_vm_without_a_domain_is_recorded(lab, state):
    id = in_state(lab, state, memory_static_max=256 * MIB)
    lab.run(lab.client.vm.set_memory_dynamic_range(id, 64 * MIB, 128 * MIB))
    config = lab.stat(id).config
    assert (config.memory_dynamic_min, config.memory_dynamic_max) == (64 * MIB, 128 * MIB)


@pytest.mark.parametrize(
    ("minimum", "maximum", "name"),
    [(0, 64 * MIB, "minimum"), (64 * MIB, 32 * MIB, "minimum"), (MIB, 512 * MIB, "maximum")],
    ids=["no memory at all", "the wrong way round", "over the static maximum"],
)
def test_a_memory_range_that_cannot_be_changes_nothing(lab, minimum, maximum, name):
    id = lab.running(memory_static_max=256 * MIB)
    with lab.untouched(id):
        task = lab.client.vm.set_memory_dynamic_range(id, minimum, maximum)
        error = lab.failure(task, InvalidParameter)
        assert error.name == name
        assert error.reason


@pytest.mark.parametrize("state", ["halted", "running", "paused", "suspended"])
def test_set_xsdata_is_recorded_and_seen_by_the_guest(lab, state):
    id = in_state(lab, state)
    lab.run(lab.client.vm.set_xsdata(id, {"vm-data/a": "1"}))
    record = lab.stat(id)
    assert record.config.xsdata == {"vm-data/a": "1"}
    if state in LIVE:
        assert lab.domain(id)["xsdata"] == {"vm-data/a": "1"}
        assert record.pending == {}


def test_delay_holds_the_queue_for_so_long(lab):
    id = lab.vm()
    begin = time.monotonic()
    lab.run(lab.client.vm.delay(id, 0.3))
    assert time.monotonic() - begin >= 0.3
    assert lab.sensible(id) == "halted"


def test_what_no_backend_here_can_is_unimplemented(lab):
    id = lab.vm()
    error = raises(Unimplemented, lambda: lab.client.vm.migrate(id, "host://elsewhere"))
    assert error.backend == "simulator"
    assert error.what
