"""What guests do by themselves, domains that vanish, hosts that restart, domains of others."""

import json
import subprocess
import sys
import time
import zlib

import pytest
from rigs.daemon import eventually
from rigs.lab import domain_of, plugged, residue
from rigs.scenarios import usable

from idl.errors import BadPowerState, DoesNotExist, InvalidParameter, OwnedByAnother
from idl.task import Completed

#: A VM is young for a moment only, and a quick reboot waits for a moment.
BRIEF = "[crash_loop]\nwindow = 0.3\n[reboot]\ndelay = 0.3\n"
#: A VM stays young for ever.
DAMPED = "[crash_loop]\nwindow = 86400\n[reboot]\ndelay = 0.5\n"


def act(daemon, *args):
    """Act in the world from another process, as a guest or an accident does."""
    subprocess.run(
        [sys.executable, "-m", "backends.simulator.act", "--world", str(daemon.world), *args],
        check=True,
        timeout=60,
    )


def aged(lab, **kwargs):
    """A running VM that started longer ago than the window of BRIEF."""
    id = lab.running(**kwargs)
    started = lab.stat(id).state.last_start_time
    eventually(lambda: time.time() > started + 0.4)
    return id


def new_incarnation(lab, id, old):
    def there():
        state = lab.stat(id).state
        return state.power_state == "running" and state.incarnation not in (old, None)

    eventually(there, why=f"{id} runs anew")
    return lab.sensible(id)


# The policies

STOPS = {
    "halt": ("on_shutdown", "guest shut down"),
    "reboot": ("on_reboot", "guest rebooted"),
    "crash": ("on_crash", "crashed"),
    "suspend": ("on_shutdown", "guest suspended itself"),
}


@pytest.mark.parametrize("trigger", STOPS)
def test_a_guest_that_stops_is_shut_down_where_its_policy_says_so(shared, trigger):
    lab = shared(BRIEF)
    policy, reason = STOPS[trigger]
    id = aged(lab, **{policy: ["shutdown"]})
    lab.trigger(trigger, id)
    eventually(lambda: lab.power_state(id) == "halted")
    assert lab.sensible(id) == "halted"
    assert lab.stat(id).state.reason == reason
    usable(lab, id)


@pytest.mark.parametrize("trigger", STOPS)
def test_a_guest_that_stops_is_started_where_its_policy_says_so(shared, trigger):
    lab = shared(BRIEF)
    policy, reason = STOPS[trigger]
    id = aged(lab, disks=2, **{policy: ["start"]})
    old = lab.stat(id).state.incarnation
    lab.trigger(trigger, id)
    assert new_incarnation(lab, id, old) == "running"
    assert lab.stat(id).state.reason == reason


@pytest.mark.parametrize("trigger", STOPS)
def test_a_guest_that_stops_is_kept_where_its_policy_says_so(shared, trigger):
    lab = shared(BRIEF)
    policy, _ = STOPS[trigger]
    id = aged(lab, **{policy: ["pause"]})
    incarnation = lab.stat(id).state.incarnation
    lab.trigger(trigger, id)
    eventually(lambda: lab.power_state(id) == "paused")
    state = lab.stat(id).state
    assert state.incarnation == incarnation
    assert lab.domain(id)["stopped"]
    lab.run(lab.client.vm.shutdown(id))
    assert lab.sensible(id) == "halted"
    usable(lab, id)


@pytest.mark.parametrize("actions", [["coredump"], ["coredump", "shutdown"]])
def test_a_crash_that_is_to_be_dumped_ends_halted(shared, actions):
    lab = shared(BRIEF)
    id = aged(lab, on_crash=actions)
    lab.trigger("crash", id)
    eventually(lambda: lab.power_state(id) == "halted")
    assert lab.sensible(id) == "halted"
    usable(lab, id)


def test_a_crash_that_is_to_be_dumped_and_started_runs_again(shared):
    lab = shared(BRIEF)
    id = aged(lab, on_crash=["coredump", "start"])
    old = lab.stat(id).state.incarnation
    lab.trigger("crash", id)
    assert new_incarnation(lab, id, old) == "running"


def test_the_default_policies(shared):
    lab = shared(BRIEF)
    rebooting, crashing = aged(lab), aged(lab)
    old = lab.stat(rebooting).state.incarnation
    lab.trigger("reboot", rebooting)
    lab.trigger("crash", crashing)
    assert new_incarnation(lab, rebooting, old) == "running"
    eventually(lambda: lab.power_state(crashing) == "halted")


def test_what_was_changed_meanwhile_applies_to_the_domain_that_a_guests_reboot_makes(shared):
    lab = shared(BRIEF)
    id = aged(lab, vcpu_max=2)
    lab.client.vm.set(id, {"vcpu_max": 4})
    old = lab.stat(id).state.incarnation
    lab.trigger("reboot", id)
    new_incarnation(lab, id, old)
    assert lab.stat(id).pending == {}
    assert lab.stat(id).state.vcpu_target == 2


def test_a_paused_guest_that_crashes_is_noticed(shared):
    lab = shared(BRIEF)
    id = aged(lab)
    lab.run(lab.client.vm.pause(id))
    lab.trigger("crash", id)
    eventually(lambda: lab.power_state(id) == "halted")
    assert lab.sensible(id) == "halted"


# Crash loops


def test_a_vm_that_crashes_soon_after_its_start_is_not_started_again(shared):
    lab = shared(DAMPED)
    id = lab.running(on_crash=["start"])
    lab.trigger("crash", id)
    eventually(lambda: lab.power_state(id) == "halted")
    assert lab.sensible(id) == "halted"
    assert "crashed" in lab.stat(id).state.reason


def test_a_vm_that_reboots_soon_after_its_start_waits_without_a_worker(shared):
    lab = shared(DAMPED)
    id, other = lab.running(), lab.vm()
    old = lab.stat(id).state.incarnation
    before = time.time()
    lab.trigger("reboot", id)

    def parked():
        operation = lab.stat(id).state.operation
        return operation is not None and operation.micro_op == "vm_delay"

    eventually(parked)
    # With a pool of one this moves all the same.
    lab.run(lab.client.vm.start(other))
    new_incarnation(lab, id, old)
    assert lab.stat(id).state.last_start_time - before >= 0.5


def test_a_vm_that_waits_to_be_started_again_is_shut_down_at_once(shared):
    lab = shared("[crash_loop]\nwindow = 86400\n[reboot]\ndelay = 3600\n")
    id = lab.running()
    lab.trigger("reboot", id)

    def parked():
        operation = lab.stat(id).state.operation
        return operation is not None and operation.micro_op == "vm_delay"

    eventually(parked)
    lab.run(lab.client.vm.shutdown(id))
    assert lab.sensible(id) == "halted"
    assert not plugged(lab.daemon, id)


# Vanished domains


def test_a_domain_that_vanishes_leaves_its_vm_halted_and_runs_no_policy(shared):
    lab = shared(BRIEF)
    id = aged(lab, on_shutdown=["start"], on_crash=["start"], on_reboot=["start"])
    lab.trigger("lose", id)
    eventually(lambda: lab.power_state(id) == "halted", why="nobody told, and yet it is seen")
    assert lab.sensible(id) == "halted"
    assert lab.stat(id).state.reason == "lost"
    usable(lab, id)


@pytest.mark.parametrize("operation", ["start", "create", "reboot", "suspend", "shutdown"])
def test_what_a_vanished_domain_left_is_cleared_by_the_next_operation(shared, operation):
    lab = shared(BRIEF)
    id = aged(lab, disks=2, nics=2)
    lab.trigger("lose", id)
    task = lab.end(getattr(lab.client.vm, operation)(id))
    assert isinstance(task.state, Completed) == (operation in ("start", "create", "shutdown"))
    if operation == "create":
        assert not plugged(lab.daemon, id)
    else:
        assert lab.sensible(id) == ("running" if operation == "start" else "halted")
    usable(lab, id)


@pytest.mark.parametrize("micro_op", ["vm_build", "vif_plug", "vm_unpause"])
def test_a_domain_that_vanishes_in_the_middle_of_its_start(shared, micro_op):
    lab = shared(BRIEF)
    id = lab.vm(disks=2, nics=2)
    lab.trigger("set-latency", micro_op, 0.2)
    task = lab.client.vm.start(id)
    lab.began(task, micro_op)
    lab.trigger("lose", id)
    lab.end(task)
    lab.disarm()
    eventually(lambda: lab.power_state(id) == "halted")
    assert lab.sensible(id) == "halted"
    usable(lab, id)


# Acts from outside, the daemon up or down


@pytest.mark.parametrize("action", ["halt", "crash", "reboot"])
def test_a_guest_that_acts_beside_the_daemon_is_noticed(shared, action):
    lab = shared(BRIEF)
    id = aged(lab)
    old = lab.stat(id).state.incarnation
    act(lab.daemon, action, id)
    if action == "reboot":
        new_incarnation(lab, id, old)
    else:
        eventually(lambda: lab.power_state(id) == "halted")
        assert lab.sensible(id) == "halted"


def test_what_guests_did_while_the_daemon_was_down_is_made_good(start):
    lab = start(BRIEF)
    halted, crashed, rebooted, lost, still = (lab.running() for _ in range(5))
    suspended, paused = lab.suspended(), lab.running()
    lab.run(lab.client.vm.pause(paused))
    kept = lab.stat(still).state
    old = lab.stat(rebooted).state.incarnation
    lab.client.close()
    lab.daemon.kill()
    act(lab.daemon, "halt", halted)
    act(lab.daemon, "crash", crashed)
    act(lab.daemon, "reboot", rebooted)
    act(lab.daemon, "lose", lost)
    lab.daemon.start()
    lab.daemon.recovered()
    for id in (halted, crashed, lost):
        eventually(lambda vm=id: lab.power_state(vm) == "halted")
        assert lab.sensible(id) == "halted"
    assert lab.stat(lost).state.reason == "lost"
    new_incarnation(lab, rebooted, old)
    assert lab.sensible(still) == "running"
    assert lab.stat(still).state.incarnation == kept.incarnation
    assert lab.stat(still).state.domain_ids == kept.domain_ids
    assert lab.sensible(suspended) == "suspended"
    assert lab.sensible(paused) == "paused"


# The host restarts


def test_after_a_restart_of_the_host(start):
    lab = start()
    running = lab.running(disks=2, nics=2)
    paused = lab.running()
    lab.run(lab.client.vm.pause(paused))
    suspended = lab.suspended()
    started, halted = lab.running(auto_start=True), lab.vm(auto_start=True)
    free = lab.client.host.stat().memory_free
    lab.client.close()
    with lab.daemon.client() as client, pytest.raises(OSError, match="cannot be asked"):
        client.debug.trigger("reboot-host", [])
    lab.daemon.wait()
    lab.daemon.start()
    lab.daemon.recovered()
    for id in (running, paused):
        assert lab.sensible(id) == "halted"
        assert lab.stat(id).state.reason
    assert lab.sensible(suspended) == "suspended"
    for id in (started, halted):
        eventually(lambda vm=id: lab.power_state(vm) == "running", why=f"{id} starts by itself")
        assert lab.sensible(id) == "running"
    lab.run(lab.client.vm.resume(suspended))
    assert lab.sensible(suspended) == "running"
    assert lab.client.host.stat().memory_free == free
    for id in (running, paused):
        usable(lab, id)


def test_after_a_restart_of_the_daemon_alone_nothing_starts_by_itself(start):
    lab = start()
    id = lab.vm(auto_start=True)
    lab.restart()
    assert lab.sensible(id) == "halted"


def test_the_host_restarts_while_the_daemon_is_down(start):
    lab = start()
    id, auto = lab.running(), lab.running(auto_start=True)
    lab.client.close()
    lab.daemon.stop()
    act(lab.daemon, "reboot-host")
    lab.daemon.start()
    lab.daemon.recovered()
    assert lab.sensible(id) == "halted"
    eventually(lambda: lab.power_state(auto) == "running")
    assert lab.sensible(auto) == "running"


# Domains of others


def foreign_domain(daemon, name, **fields):
    """Put a domain into the world that nobody here has made."""
    domain = {"id": "900", "name": name, "created": time.time(), "built": True, **fields}
    body = json.dumps(domain, separators=(",", ":")).encode()
    line = b'{"checksum":"crc32:%08x","domain":%b}\n' % (zlib.crc32(body), body)
    (daemon.world / "domains" / f"{name}.json").write_bytes(line)
    return domain


def test_a_domain_without_our_mark_is_listed_and_never_touched(start):
    lab = start()
    lab.client.close()
    lab.daemon.stop()
    stranger = foreign_domain(lab.daemon, "stranger")
    theirs = foreign_domain(lab.daemon, "theirs", vm="theirs", instance="other", incarnation="i")
    ghost = foreign_domain(lab.daemon, "ghost", vm="ghost", instance="default", incarnation="i")
    lab.daemon.start()
    lab.daemon.recovered()
    listed = lab.client.host.list_foreign()
    assert {f.name for f in listed} == {"stranger", "theirs", "ghost"}
    assert all(f.id and f.why for f in listed)
    id = lab.running()
    lab.restart()
    assert lab.sensible(id) == "running"
    for domain in (stranger, theirs, ghost):
        assert domain_of(lab.daemon, domain["name"]) == domain


def test_a_domain_of_a_stranger_in_the_place_of_a_vm_is_not_touched(start):
    lab = start()
    id = lab.vm()
    lab.client.close()
    lab.daemon.stop()
    domain = foreign_domain(lab.daemon, id, vm=id, instance="other", incarnation="i")
    lab.daemon.start()
    lab.daemon.recovered()
    lab.end(lab.client.vm.start(id))
    assert domain_of(lab.daemon, id) == domain
    lab.end(lab.client.vm.shutdown(id))
    assert domain_of(lab.daemon, id) == domain


def test_a_domain_with_our_mark_that_no_record_knows_needs_attention(start):
    lab = start()
    id = lab.running()
    lab.client.close()
    lab.daemon.stop()
    mark = {"vm": id, "instance": "default", "incarnation": "another"}
    ours = {"paused": False, "ran": 1.0, "device_model": True}
    domain = foreign_domain(lab.daemon, id, **ours, **mark)
    lab.daemon.start()
    lab.daemon.recovered()
    state = lab.stat(id).state
    assert state.attention is not None
    assert state.attention.reason
    assert domain_of(lab.daemon, id) == domain, "in doubt nothing is touched"
    lab.run(lab.client.vm.shutdown(id))
    assert lab.sensible(id) == "halted"
    assert not residue(lab.daemon, id)
    usable(lab, id)


# Adoption


def test_a_forgotten_vm_is_added_again_and_has_its_domain_back(lab):
    id = lab.running()
    kept = lab.client.vm.export_metadata(id)
    domain = lab.domain(id)
    lab.run(lab.client.vm.forget(id))
    assert [f.id for f in lab.client.host.list_foreign()] == [domain["id"]]
    lab.client.vm.import_metadata(kept)
    lab.run(lab.client.vm.adopt(id, domain["id"]))
    assert lab.domain(id) == domain
    assert lab.sensible(id) == "running"
    assert lab.client.host.list_foreign() == []
    found = lab.stat(id)
    assert found.state.domain_ids == [domain["id"]]
    assert (found.pending, found.state.reason) == ({}, "adopted")
    assert lab.client.vbd.stat(f"{id}/disk0").state.plugged
    lab.restart()
    assert lab.sensible(id) == "running"
    usable(lab, id)


def test_a_domain_that_nobody_has_comes_under_a_record(start):
    lab = start()
    free = lab.client.host.stat().memory_free
    runs = {"paused": False, "ran": 1.0, "vcpus": 2, "memory_target": 2**29, "guest": "pv"}
    domain = foreign_domain(lab.daemon, "stranger", **runs, memory_limit=2**30, memory_actual=2**29)
    id = lab.vm(disks=0, nics=0)
    lab.run(lab.client.vm.adopt(id, "900"))
    mark = {"vm": id, "instance": "default", "incarnation": lab.stat(id).state.incarnation}
    assert domain_of(lab.daemon, id) == domain | mark
    assert domain_of(lab.daemon, "stranger") is None
    assert lab.client.host.list_foreign() == []
    assert lab.client.host.stat().memory_free == free - 2**29
    found = lab.stat(id)
    assert found.pending["vcpus"].running == 2
    assert found.pending["memory_static_max"].running == 2**30
    lab.run(lab.client.vm.shutdown(id))
    assert lab.sensible(id) == "halted"
    assert not residue(lab.daemon, id)


def test_devices_come_with_the_domain_by_their_names(start):
    lab = start()
    disk = {"position": 0, "medium": {"type": "local", "path": "/images/a", "format": "raw"}}
    foreign_domain(lab.daemon, "stranger", vbds={"stranger/disk0": disk}, device_model=True)
    bare = lab.vm(disks=0, nics=0)
    error = lab.failure(lab.client.vm.adopt(bare, "900"), InvalidParameter)
    assert "VBD disk0" in str(error)
    id = lab.vm(disks=1, nics=0)
    lab.run(lab.client.vm.adopt(id, "900"))
    assert lab.client.vbd.stat(f"{id}/disk0").state.plugged
    assert lab.sensible(id) == "paused"
    lab.restart()
    assert lab.sensible(id) == "paused"


def test_what_somebody_has_is_not_adopted(start):
    lab = start()
    other, id, running = lab.vm(), lab.vm(), lab.running()
    foreign_domain(lab.daemon, "theirs", vm="theirs", instance="other", incarnation="i")
    adopt = lab.client.vm.adopt
    assert lab.failure(adopt(id, "900"), OwnedByAnother).instance == "other"
    assert lab.failure(adopt(id, "no-such"), DoesNotExist).kind == "domain"
    of_running = lab.stat(running).state.domain_ids[0]
    assert running in str(lab.failure(adopt(id, of_running), InvalidParameter))
    assert lab.failure(adopt(running, of_running), BadPowerState).actual == "running"
    foreign_domain(lab.daemon, "ghost", vm="ghost", instance="default", incarnation="i", id="901")
    assert "ghost" in str(lab.failure(adopt(other, "901"), InvalidParameter))
    foreign_domain(lab.daemon, "stopped", stopped="crash", id="902")
    assert "902" in str(lab.failure(adopt(other, "902"), InvalidParameter))
    assert lab.failure(adopt(running, "902"), BadPowerState).id == running
    assert lab.sensible(id) == lab.sensible(other) == "halted"


def test_a_contradiction_is_settled_by_adoption(start):
    lab = start()
    id = lab.suspended()
    lab.client.close()
    lab.daemon.stop()
    mark = {"vm": id, "instance": "default", "incarnation": "another"}
    foreign_domain(lab.daemon, id, paused=False, ran=1.0, device_model=True, **mark)
    lab.daemon.start()
    lab.daemon.recovered()
    assert lab.stat(id).state.attention is not None
    lab.run(lab.client.vm.adopt(id, "900"))
    state = lab.stat(id).state
    assert (state.attention, state.power_state, state.incarnation) == (None, "running", "another")
    assert not list((lab.daemon.state_dir / "suspend").iterdir())
    lab.restart()
    assert lab.power_state(id) == "running"


def test_a_change_of_a_lost_vm_does_not_hide_what_it_left(lab):
    id = lab.running()
    old = lab.stat(id).state.incarnation
    lab.trigger("lose", id)
    # Allowed of a halted VM, so it succeeds; and begins before anybody has missed the domain.
    lab.run(lab.client.vif.set_carrier(f"{id}/nic0", carrier=False))
    lab.run(lab.client.vm.start(id))
    assert not [entry for entry in plugged(lab.daemon, id) if old in entry]
    assert lab.sensible(id) == "running"
