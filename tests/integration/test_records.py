"""HOST and VM records: what is added, set, exported and imported, and what reads answer."""

import json
import os
import platform
import socket
import time
import uuid

import pytest
from msgspec.structs import replace
from rigs.daemon import eventually
from rigs.lab import plain, plugged, raises

from idl.calls import CALLS
from idl.client import Client
from idl.errors import (
    AlreadyExists,
    BadPowerState,
    DeadlineExceeded,
    DeviceIsConnected,
    DoesNotExist,
    HypervisorError,
    InvalidParameter,
    InvalidParams,
    InvalidVcpus,
    MethodNotFound,
    PermissionDenied,
)
from idl.host import FEATURES
from idl.metadata import Metadata
from idl.vbd import Local, Vbd
from idl.vif import Bridge, Vif
from idl.vm import Container, Hvm, Vm

MIB = 2**20

DEFAULTS = {
    "name": "",
    "guest": {
        "type": "hvm",
        "firmware": "bios",
        "boot_order": ["disk", "cdrom", "network"],
        "kernel": None,
        "ramdisk": None,
        "cmdline": None,
    },
    "memory_static_max": 268435456,
    "memory_dynamic_max": 268435456,
    "memory_dynamic_min": 268435456,
    "vcpu_max": 1,
    "vcpus": 1,
    "on_crash": ["shutdown"],
    "on_shutdown": ["shutdown"],
    "on_reboot": ["start"],
    "scheduler": {"weight": 256, "cap": 0, "affinity": []},
    "xsdata": {},
    "platform": {},
    "auto_start": False,
}


# HOST


def test_host_query_says_who_answers(lab):
    found = lab.client.call("HOST.query")
    assert set(found) == {
        "name", "version", "instance", "backend", "epoch", "features", "recovering",
    }  # fmt: skip
    assert (found["name"], found["instance"], found["backend"]) == (
        "xenopsd",
        "default",
        "simulator",
    )
    assert set(found["features"]) <= FEATURES
    assert "suspend" in found["features"]
    assert found["recovering"] is False


def test_host_stat_says_what_the_host_has(lab):
    found = lab.client.host.stat()
    assert found.cpu_count == os.cpu_count()
    assert 0 < found.memory_free <= found.memory_total
    assert found.hypervisor.name == "simulator"
    assert found.kernel == platform.release()
    assert found.hostname == platform.node()


def test_memory_is_taken_by_what_runs_and_given_back(lab):
    id = lab.vm(memory_static_max=512 * MIB)
    free = lab.client.host.stat().memory_free
    lab.run(lab.client.vm.start(id))
    assert lab.client.host.stat().memory_free == free - 512 * MIB
    lab.run(lab.client.vm.suspend(id))
    assert lab.client.host.stat().memory_free == free
    lab.run(lab.client.vm.resume(id))
    assert lab.client.host.stat().memory_free == free - 512 * MIB
    lab.run(lab.client.vm.shutdown(id))
    assert lab.client.host.stat().memory_free == free


def test_console_data_is_text(lab):
    assert "simulator" in lab.client.host.get_console_data()


def test_no_domain_is_foreign_where_none_is(lab):
    lab.running()
    assert lab.client.host.list_foreign() == []


def test_the_worker_pool_is_shown(lab, pool_size):
    pool = lab.client.host.get_worker_pool()
    assert pool.size == pool_size
    assert 0 <= pool.busy <= pool.size
    assert pool.parked >= 0
    assert pool.queued >= 0


@pytest.mark.parametrize("size", [0, -1, 1025, 10**9])
def test_a_pool_size_out_of_range_is_refused(lab, pool_size, size):
    error = raises(InvalidParameter, lambda: lab.client.host.set_worker_pool_size(size))
    assert error.name == "size"
    assert lab.client.host.get_worker_pool().size == pool_size


def test_diagnostics_show_for_how_long_a_queue_waits(lab):
    id = lab.vm()
    task = lab.client.vm.delay(id, 3600)
    lab.began(task, "vm_delay")
    queues = lab.client.host.get_diagnostics().queues
    queue = next(q for q in queues if q.vm == id and q.state == "parked")
    assert 3500 < queue.deadline <= 3600
    lab.client.task.cancel(task)


def test_diagnostics_show_an_operation_and_who_holds_it(lab):
    id = lab.vm()
    lab.trigger("hang", "vm_build", 1)
    task, queued = lab.client.vm.start(id), lab.client.vm.pause(id)
    lab.began(task, "vm_build")
    found = lab.client.host.get_diagnostics()
    queue = next(q for q in found.queues if q.vm == id)
    assert [(o.name, o.task, o.state) for o in queue.operations] == [
        ("VM.start", task, "running"),
        ("VM.pause", queued, "queued"),
    ]
    assert queue.operations[0].micro_ops[0] == "vm_build"
    assert (queue.running.name, queue.running.object) == ("vm_build", id)
    assert queue.running.holder
    assert queue.running.age >= 0
    assert 0 < queue.running.deadline <= 10
    assert not queue.running.written_off
    intent = next(i for i in found.journal if i.vm == id)
    assert (intent.task, intent.operation, intent.intended) == (task, "VM.start", "vm_build")
    assert found.workers["size"] >= 1
    assert found.tasks["open"] >= 2
    assert found.updates["number"] > 0
    assert found.quarantined == []
    assert found.versions["xenopsd"]
    state = lab.stat(id).state
    assert (state.operation.task, state.operation.name, state.operation.micro_op) == (
        task,
        "VM.start",
        "vm_build",
    )
    assert state.operation.since <= time.time()
    assert state.queue_depth == 2
    for each in (queued, task):
        lab.client.task.cancel(each)
        lab.end(each)
    assert lab.sensible(id) == "halted"


def test_the_published_document_has_every_call(lab):
    document = lab.client.rpc.discover()
    assert {m["name"] for m in document["methods"]} >= set(CALLS) - {"rpc.discover"}


# Adding


def test_what_a_vm_defaults_to(lab):
    id = lab.new_id()
    assert lab.client.vm.add(Vm(id=id)) == id
    config = lab.client.call("VM.stat", id=id)["config"]
    assert config.pop("id") == id
    uuid.UUID(config.pop("uuid"))
    assert config == DEFAULTS


def test_what_the_state_of_a_new_vm_is(lab):
    id = lab.vm(disks=0, nics=0)
    found = lab.client.call("VM.stat", id=id)
    state = found["state"]
    assert state.pop("observed_at") is not None
    assert state == {
        "power_state": "halted",
        "domain_ids": [],
        "incarnation": None,
        "consoles": [],
        "memory_target": 0,
        "memory_actual": 0,
        "memory_limit": 0,
        "vcpu_target": 0,
        "guest_agent": {},
        "pv_drivers_detected": False,
        "uncooperative_balloon": False,
        "last_start_time": None,
        "reason": "",
        "attention": None,
        "operation": None,
        "queue_depth": 0,
    }
    assert found["pending"] == {}


def test_fields_default_to_each_other(lab):
    id = lab.vm(memory_static_max=64 * MIB, vcpu_max=3)
    config = lab.stat(id).config
    assert config.memory_dynamic_max == config.memory_dynamic_min == 64 * MIB
    assert config.vcpus == 3


def test_every_field_of_a_vm_is_kept(lab):
    given = {
        "id": lab.new_id(),
        "uuid": str(uuid.uuid4()),
        "name": "Größe \U0001f600",
        "guest": {"type": "container", "init": ["/sbin/init"], "environment": {"A": "b"},
                  "hostname": "h", "privileged": False, "nesting": True},
        "memory_static_max": 4 * MIB,
        "memory_dynamic_max": 3 * MIB,
        "memory_dynamic_min": 2 * MIB,
        "vcpu_max": 8,
        "vcpus": 2,
        "on_crash": ["coredump", "start"],
        "on_shutdown": ["pause"],
        "on_reboot": ["shutdown"],
        "scheduler": {"weight": 10, "cap": 50, "affinity": [[0, 1], [1]]},
        "xsdata": {"a": "b"},
        "platform": {"machine": "q35", "x": 1, "y": True},
        "auto_start": True,
    }  # fmt: skip
    lab.client.call("VM.add", vm=given)
    assert lab.client.call("VM.stat", id=given["id"])["config"] == given
    assert lab.client.call("VM.set", id=given["id"], changes={"auto_start": False}) == {
        **given,
        "auto_start": False,
    }


def test_a_uuid_is_the_id_or_derived_from_it_for_ever(lab):
    id = str(uuid.uuid4())
    lab.vm(id=id)
    assert lab.stat(id).config.uuid == id
    other = lab.vm()
    first = lab.stat(other).config.uuid
    lab.client.vm.remove(other)
    lab.vm(id=other)
    assert lab.stat(other).config.uuid == first


@pytest.mark.parametrize("id", ["", ".a", "-a", "a b", "a/b", "ä", "a" * 65, "a\n", "a\x00"])
def test_ids_of_vms_have_a_form(lab, id):
    error = raises(InvalidParams, lambda: lab.client.call("VM.add", vm={"id": id}))
    assert "vm.id" in error.reason


@pytest.mark.parametrize("id", ["a" * 64, "A.b_c-9", "_", "0"])
def test_ids_may_be(lab, id):
    lab.vm(id=id, disks=1, nics=0)
    lab.run(lab.client.vm.start(id))
    assert lab.sensible(id) == "running"


def test_a_vm_that_exists_is_not_added_again(lab):
    id = lab.vm()
    with lab.untouched(id):
        error = raises(AlreadyExists, lambda: lab.client.vm.add(Vm(id=id, name="other")))
        assert (error.kind, error.id) == ("VM", id)


def pipelined(lab, *sent) -> list[dict]:
    """The answers to calls that are all sent at once, in the order of the calls."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(lab.daemon.socket))
        asked = (
            {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            for number, (method, params) in enumerate(sent)
        )
        sock.sendall(b"".join(json.dumps(request).encode() + b"\n" for request in asked))
        with sock.makefile("rb") as stream:
            answers = [json.loads(stream.readline()) for _ in sent]
    return sorted(answers, key=lambda answer: answer["id"])


def test_a_vm_can_be_used_before_its_addition_is_answered(lab):
    id = lab.new_id()
    answers = pipelined(
        lab,
        ("VM.add", {"vm": {"id": id}}),
        ("VBD.add", {"vbd": {"id": f"{id}/root"}}),
        ("VM.start", {"id": id, "task": f"{id}-start"}),
        ("VM.pause", {"id": id, "task": f"{id}-pause"}),
    )
    assert [answer["result"] for answer in answers] == [
        id,
        f"{id}/root",
        f"{id}-start",
        f"{id}-pause",
    ]
    lab.run(f"{id}-pause")
    assert lab.power_state(id) == "paused"
    assert lab.client.vbd.stat(f"{id}/root").state.plugged


def test_what_follows_an_addition_that_fails_finds_no_vm(lab):
    id = lab.new_id()
    too_many = {"id": id, "vcpu_max": 1, "vcpus": 9}
    answers = pipelined(lab, ("VM.add", {"vm": too_many}), ("VM.start", {"id": id}))
    errors = [answer["error"]["data"]["error"] for answer in answers]
    assert errors == ["InvalidVcpus", "DoesNotExist"]


def test_add_with_replace_behaves_as_set_of_every_field(lab):
    id = lab.running(name="old", vcpu_max=2, xsdata={"a": "b"})
    assert lab.client.vm.add(Vm(id=id, name="new", memory_static_max=MIB), replace=True) == id
    record = lab.stat(id)
    assert record.config.name == "new"
    assert record.config.vcpu_max == 1
    assert record.config.xsdata == {}
    assert [v.id for v in lab.client.vbd.list(id)] == [f"{id}/disk0"]
    assert set(record.pending) == {
        "memory_static_max", "memory_dynamic_max", "memory_dynamic_min",
        "vcpu_max", "vcpus", "xsdata",
    }  # fmt: skip
    assert lab.sensible(id) == "running"


def test_add_with_replace_of_a_vm_that_is_not_there_adds_it(lab):
    id = lab.new_id()
    assert lab.client.vm.add(Vm(id=id), replace=True) == id
    assert lab.sensible(id) == "halted"


WRONG = [
    ({"memory_static_max": "many"}, "vm.memory_static_max: expected int, got str"),
    ({"memory_static_max": 0}, "vm.memory_static_max"),
    ({"vcpu_max": 0}, "vm.vcpu_max"),
    ({"guest": {"type": "toaster"}}, "vm.guest"),
    ({"guest": {"type": "pv"}}, "vm.guest"),
    ({"guest": {"type": "hvm", "firmwear": "x"}}, "vm.guest"),
    ({"on_crash": ["explode"]}, "vm.on_crash"),
    ({"scheduler": {"weight": 0}}, "vm.scheduler.weight"),
    ({"colour": "red"}, "vm"),
    ({"uuid": "nonsense"}, "vm.uuid"),
]


@pytest.mark.parametrize(("fields", "path"), WRONG, ids=[json.dumps(f) for f, _ in WRONG])
def test_a_malformed_field_is_named_by_its_path(lab, fields, path):
    id = lab.new_id()
    error = raises(InvalidParams, lambda: lab.client.call("VM.add", vm={"id": id, **fields}))
    assert path in str(error)
    assert not lab.client.vm.exists(id)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"vcpu_max": 2, "vcpus": 3}, InvalidVcpus),
        ({"memory_static_max": MIB, "memory_dynamic_max": 2 * MIB}, InvalidParameter),
        ({"memory_dynamic_max": MIB, "memory_dynamic_min": 2 * MIB}, InvalidParameter),
    ],
    ids=["too many vCPUs", "dynamic over static", "minimum over maximum"],
)
def test_fields_that_contradict_each_other_are_refused(lab, fields, kind):
    id = lab.new_id()
    raises(kind, lambda: lab.client.vm.add(Vm(id=id, **fields)))
    assert not lab.client.vm.exists(id)
    lab.vm(id=id)
    with lab.untouched(id):
        raises(kind, lambda: lab.client.vm.set(id, fields))


# Reading


def test_list_exists_and_stat_agree(lab):
    ids = [lab.vm() for _ in range(3)]
    listed = {record.id: record for record in lab.client.vm.list()}
    for id in ids:
        assert lab.client.vm.exists(id)
        assert listed[id] == lab.stat(id)
    assert not lab.client.vm.exists("no-such-vm")
    error = raises(DoesNotExist, lambda: lab.client.vm.stat("no-such-vm"))
    assert (error.kind, error.id) == ("VM", "no-such-vm")
    assert error.code == 1002


def test_parameters_may_be_positional(lab):
    id = lab.new_id()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(lab.daemon.socket))
        stream = sock.makefile("rwb")

        def ask(method, *params):
            request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
            stream.write(json.dumps(request).encode() + b"\n")
            stream.flush()
            return json.loads(stream.readline())

        assert ask("VM.add", {"id": id})["result"] == id
        assert ask("VM.set", id, {"vcpu_max": 4})["result"]["vcpu_max"] == 4
        assert ask("VM.exists", id)["result"] is True
        task = ask("VM.start", id, True, "a tag")["result"]
        assert lab.run(task).debug_info == "a tag"
        assert ask("VM.stat", id)["result"]["state"]["power_state"] == "paused"
        assert ask("VM.stat", id, 2)["error"]["code"] == -32602
        stream.close()


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("VM.stat", {}),
        ("VM.stat", {"id": 1}),
        ("VM.stat", {"id": "a", "colour": "red"}),
        ("VM.start", {"id": "a", "paused": "yes"}),
        ("VM.delay", {"id": "a", "seconds": -1}),
        ("VM.start", {"id": "a", "task": "not an id"}),
        ("HOST.set_worker_pool_size", {"size": 1.5}),
        ("UPDATES.inject_barrier", {"vm": "a", "id": "one"}),
        ("HOST.query", {"x": 1}),
    ],
)
def test_malformed_parameters_are_an_error_of_the_call(lab, method, params):
    error = raises(InvalidParams, lambda: lab.client.call(method, **params))
    assert error.code == -32602


def test_an_unknown_call_is_not_found(lab):
    error = raises(MethodNotFound, lambda: lab.client.call("VM.explode"))
    assert (error.code, error.method) == (-32601, "VM.explode")


def test_metrics_of_one_vm_and_of_all(lab):
    id, halted = lab.running(), lab.vm()
    assert {m.id for m in lab.client.vm.metrics()} >= {id, halted}
    (one,) = lab.client.vm.metrics(halted)
    assert one.observed_at is None
    assert (one.id, one.cpu_seconds, one.memory) == (halted, 0.0, 0)

    def sampled():
        (found,) = lab.client.vm.metrics(id)
        return found if found.cpu_seconds > 0 else None

    found = eventually(sampled)
    assert found.memory == lab.stat(id).state.memory_actual
    assert found.observed_at > lab.stat(id).state.last_start_time
    assert set(found.disks) == {f"{id}/disk0"}
    assert set(found.networks) == {f"{id}/nic0"}
    raises(DoesNotExist, lambda: lab.client.vm.metrics("no-such-vm"))


# Setting


def test_set_replaces_whole_fields_and_answers_the_new_configuration(lab):
    id = lab.vm(xsdata={"a": "1", "b": "2"}, name="old")
    config = lab.client.vm.set(id, {"xsdata": {"c": "3"}, "name": "new"})
    assert config.xsdata == {"c": "3"}
    assert config.name == "new"
    assert lab.stat(id).config == config
    assert lab.stat(id).pending == {}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"id": "other"}, InvalidParameter),
        ({"colour": "red"}, InvalidParams),
        ({"memory_static_max": "many"}, InvalidParams),
        ({"vcpus": 2}, InvalidVcpus),
        ({"name": "fine", "guest": {"type": "toaster"}}, InvalidParams),
    ],
    ids=["the id", "an unknown field", "a wrong type", "too many vCPUs", "one good and one bad"],
)
def test_set_applies_wholly_or_not_at_all(lab, changes, kind):
    id = lab.vm()
    with lab.untouched(id):
        error = raises(kind, lambda: lab.client.vm.set(id, changes))
        if kind is InvalidParams:
            assert "changes." in error.reason


def test_set_may_repeat_the_id(lab):
    id = lab.vm()
    assert lab.client.vm.set(id, {"id": id, "name": "x"}).name == "x"


@pytest.mark.parametrize("state", ["running", "suspended"])
def test_what_cannot_apply_to_a_running_vm_is_pending_until_its_next_start(lab, state):
    id = lab.running(vcpu_max=2, platform={"machine": "pc"})
    if state == "suspended":
        lab.run(lab.client.vm.suspend(id))
    lab.client.vm.set(id, {"vcpu_max": 4, "platform": {"machine": "q35"}})
    pending = plain(lab.stat(id).pending)
    assert pending == {
        "vcpu_max": {"running": 2, "configured": 4},
        "platform": {"running": {"machine": "pc"}, "configured": {"machine": "q35"}},
    }
    if state == "suspended":
        lab.run(lab.client.vm.resume(id))
        assert plain(lab.stat(id).pending) == pending
    lab.run(lab.client.vm.reboot(id))
    assert lab.stat(id).pending == {}
    assert lab.sensible(id) == "running"


def test_what_the_daemon_alone_reads_applies_at_once(lab):
    id = lab.running()
    lab.client.vm.set(
        id, {"name": "n", "on_crash": ["start"], "on_reboot": ["shutdown"], "auto_start": True}
    )
    assert lab.stat(id).pending == {}
    lab.trigger("reboot", id)
    eventually(lambda: lab.power_state(id) == "halted")
    assert lab.sensible(id) == "halted"


def test_pending_is_gone_when_the_change_is_taken_back(lab):
    id = lab.running(vcpu_max=2)
    lab.client.vm.set(id, {"vcpu_max": 4, "vcpus": 2})
    assert set(lab.stat(id).pending) == {"vcpu_max"}
    lab.client.vm.set(id, {"vcpu_max": 2})
    assert lab.stat(id).pending == {}


def test_pending_is_gone_when_the_vm_is_halted(lab):
    id = lab.running()
    lab.client.vm.set(id, {"vcpu_max": 4})
    lab.run(lab.client.vm.shutdown(id))
    assert lab.stat(id).pending == {}


@pytest.mark.parametrize("method", ["set", "remove", "export_metadata"])
def test_a_record_that_is_not_there_is_an_error_of_the_call(lab, method):
    args = [{}] if method == "set" else []
    error = raises(DoesNotExist, lambda: getattr(lab.client.vm, method)("no-such-vm", *args))
    assert (error.kind, error.id) == ("VM", "no-such-vm")


# Removing


@pytest.mark.parametrize("state", ["running", "paused"])
def test_a_vm_that_runs_is_not_removed(lab, state):
    id = lab.vm()
    lab.run(lab.client.vm.start(id, paused=state == "paused"))
    with lab.untouched(id):
        error = raises(BadPowerState, lambda: lab.client.vm.remove(id))
        assert (error.id, error.actual) == (id, state)
        assert error.expected == ["halted", "suspended"]
    assert lab.sensible(id) == state


def test_remove_takes_the_suspend_image_and_the_layers(lab, directory):
    id = lab.vm(disks=0)
    base = Local(path="/images/base", overlay=True)
    lab.client.vbd.add(Vbd(id=f"{id}/kept", backend=base))
    lab.client.vbd.add(Vbd(id=f"{id}/scratch", backend=base, persistent=False))
    lab.run(lab.client.vm.start(id))
    lab.run(lab.client.vm.suspend(id, image=str(directory / "image")))
    lab.client.vm.remove(id)
    assert not lab.client.vm.exists(id)
    assert not (directory / "image").exists()
    assert lab.layers(id) == []
    assert not (lab.daemon.state_dir / "vm" / id).exists()
    lab.vm(id=id)
    assert lab.sensible(id) == "halted"
    assert lab.client.vbd.list(id) != []


def test_remove_may_keep_the_layers(lab):
    id = lab.vm(disks=0)
    lab.client.vbd.add(Vbd(id=f"{id}/d", backend=Local(path="/b", overlay=True)))
    lab.run(lab.client.vm.start(id))
    lab.run(lab.client.vm.shutdown(id))
    lab.client.vm.remove(id, keep_layers=True)
    assert lab.layers(id) == ["d.json"]
    lab.vm(id=id, disks=0)
    lab.client.vbd.add(Vbd(id=f"{id}/d", backend=Local(path="/b", overlay=True)))
    lab.run(lab.client.vm.start(id))
    assert lab.sensible(id) == "running"


@pytest.mark.parametrize("how", ["import", "forget"])
def test_remove_drops_layers_that_no_record_describes_any_more(lab, how):
    id = lab.vm()
    without = lab.client.vm.export_metadata(id)
    lab.client.vbd.add(Vbd(id=f"{id}/d", backend=Local(path="/b", overlay=True)))
    lab.run(lab.client.vm.start(id))
    lab.run(lab.client.vm.shutdown(id))
    if how == "forget":
        lab.run(lab.client.vm.forget(id))
    lab.client.vm.import_metadata(without)
    assert lab.layers(id) == ["d.json"], "what was written is kept while the VM is"
    lab.client.vm.remove(id)
    assert lab.layers(id) == []


def test_what_a_lost_domain_of_a_forgotten_vm_left_goes_with_its_next_record(lab):
    id = lab.running()
    kept = lab.client.vm.export_metadata(id)
    lab.trigger("fail", "vm_destroy", 5)  # as often as it is tried
    lab.trigger("lose", id)
    eventually(lambda: lab.power_state(id) == "halted" and not lab.stat(id).state.queue_depth)
    lab.run(lab.client.vm.forget(id))
    assert plugged(lab.daemon, id), "else there is nothing to see here"
    lab.trigger("fail", "vm_destroy", 0)
    lab.client.vm.import_metadata(kept)
    assert plugged(lab.daemon, id) == []
    lab.run(lab.client.vm.start(id))
    assert lab.sensible(id) == "running"


@pytest.mark.parametrize(("act", "power"), [("crash", "halted"), ("reboot", "running")])
def test_what_a_guest_did_while_it_was_forgotten_is_acted_on(lab, act, power):
    id = lab.running()
    kept = lab.client.vm.export_metadata(id)
    before = lab.stat(id).state.domain_ids
    lab.run(lab.client.vm.forget(id))
    lab.trigger(act, id)
    lab.client.vm.import_metadata(kept)
    eventually(lambda: lab.stat(id).state.domain_ids != before)
    eventually(lambda: not lab.client.host.get_diagnostics().queues)
    assert lab.sensible(id) == power


def test_the_image_of_a_vm_that_was_forgotten_goes_with_its_next_record(lab):
    id = lab.suspended()
    kept = lab.client.vm.export_metadata(id)
    image = lab.daemon.state_dir / "suspend" / f"{id}.image"
    lab.run(lab.client.vm.forget(id))
    assert image.exists(), "nothing else is touched"
    lab.client.vm.import_metadata(kept)
    assert lab.power_state(id) == "halted"
    lab.client.vm.remove(id)
    assert not image.exists()


@pytest.mark.parametrize("restarted", [False, True])
def test_a_domain_with_devices_that_a_new_record_lacks_is_in_doubt(start, restarted):
    lab = start()
    id = lab.running(disks=2)
    kept = lab.client.vm.export_metadata(id)
    domain = lab.stat(id).state.domain_ids[0]
    lab.run(lab.client.vm.forget(id))
    lab.client.vm.import_metadata(replace(kept, vbds=kept.vbds[:1]))
    if restarted:
        lab.restart()
    attention = lab.stat(id).state.attention
    assert attention.reason == (
        f"domain {domain} has the VBD disk1, of which VM {id} has no record; "
        "add it with VBD.add first, then VM.adopt"
    )
    raises(HypervisorError, lambda: lab.run(lab.client.vm.reboot(id)))
    lab.client.vbd.add(kept.vbds[1])
    lab.run(lab.client.vm.adopt(id, domain))
    assert lab.sensible(id) == "running"
    assert lab.stat(id).state.domain_ids == [domain]


def test_forget_drops_the_record_and_touches_nothing_else(lab, start):
    own = start()
    id = own.running()
    free = own.client.host.stat().memory_free
    own.run(own.client.vm.forget(id))
    assert not own.client.vm.exists(id)
    assert own.domain(id) is not None
    assert [foreign.name for foreign in own.client.host.list_foreign()] != []
    assert own.client.host.stat().memory_free == free
    own.client.vm.add(Vm(id=id))
    assert own.client.host.list_foreign() == []
    assert own.client.host.stat().memory_free == free
    assert own.stat(id).state.power_state == "running"


# Export and import


def exported(lab, **kwargs):
    id = lab.vm(disks=2, nics=1, **kwargs)
    metadata = lab.client.call("VM.export_metadata", id=id)
    metadata["extra"] = None
    return id, metadata


def test_what_was_exported_can_be_imported(lab):
    id, metadata = exported(lab, name="n", platform={"a": 1})
    assert set(metadata) == {"version", "vm", "vbds", "vifs", "pcis", "extra"}
    lab.client.vm.remove(id)
    assert lab.client.call("VM.import_metadata", metadata=metadata) == id
    again = lab.client.call("VM.export_metadata", id=id)
    assert {**again, "extra": None} == metadata
    lab.run(lab.client.vm.start(id))
    assert lab.sensible(id) == "running"


def test_a_whole_export_with_its_running_part_can_be_imported(lab):
    id = lab.running()
    metadata = lab.client.vm.export_metadata(id)
    assert metadata.extra["incarnation"] == lab.stat(id).state.incarnation
    lab.run(lab.client.vm.shutdown(id))
    lab.client.vm.remove(id)
    assert lab.client.vm.import_metadata(metadata) == id
    assert lab.sensible(id) == "halted"


def test_an_import_replaces_what_was_there(lab):
    id, metadata = exported(lab)
    metadata["vm"]["name"] = "imported"
    del metadata["vbds"][0]
    lab.client.call("VM.import_metadata", metadata=metadata)
    assert lab.stat(id).config.name == "imported"
    assert [v.id for v in lab.client.vbd.list(id)] == [f"{id}/disk1"]
    assert lab.sensible(id) == "halted"


def test_an_import_does_not_drop_what_is_plugged(lab):
    id, metadata = exported(lab)
    lab.run(lab.client.vm.start(id))
    del metadata["vbds"][0]
    metadata["vm"]["name"] = "imported"
    with lab.untouched(id):
        error = raises(
            DeviceIsConnected, lambda: lab.client.call("VM.import_metadata", metadata=metadata)
        )
        assert error.id == f"{id}/disk0"


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda m: m.update(version=99), InvalidParameter),
        (lambda m: m["vbds"].append(m["vbds"][0]), AlreadyExists),
        (lambda m: m["vbds"].append({"id": "other/d"}), InvalidParameter),
        (lambda m: m["vifs"][0].update(position="x"), InvalidParams),
        (lambda m: m["vm"].update(vcpus=5), InvalidVcpus),
        (lambda m: m.update(colour="red"), InvalidParams),
    ],
    ids=["version", "twice", "of another VM", "malformed", "vCPUs", "unknown field"],
)
@pytest.mark.parametrize("there", [True, False], ids=["over a record", "anew"])
def test_an_import_is_made_wholly_or_not_at_all(lab, spoil, kind, there):
    id, metadata = exported(lab)
    if not there:
        lab.client.vm.remove(id)
    spoil(metadata)

    def take():
        return lab.client.call("VM.import_metadata", metadata=metadata)

    if there:
        with lab.untouched(id):
            raises(kind, take)
    else:
        raises(kind, take)
        assert not lab.client.vm.exists(id)


def test_an_import_fills_in_what_an_add_does(lab):
    id = lab.new_id()
    vif = Vif(id=f"{id}/n", backend=Bridge(name="b"))
    lab.client.vm.import_metadata(Metadata(vm=Vm(id=id), vifs=[vif], vbds=[Vbd(id=f"{id}/d")]))
    assert lab.client.vif.stat(f"{id}/n").config.mac
    assert lab.client.vbd.stat(f"{id}/d").config.position == 0


# Queued calls


def test_a_queued_call_that_could_not_begin_in_time_is_withdrawn(lab):
    id = lab.vm(name="old")
    task = lab.client.vm.delay(id, 3600)
    lab.began(task)
    error = raises(DeadlineExceeded, lambda: lab.client.vm.set(id, {"name": "new"}, timeout=0.1))
    assert error.seconds == 0.1
    assert error.what
    lab.client.task.cancel(task)
    lab.end(task)
    assert lab.sensible(id) == "halted"
    assert lab.stat(id).config.name == "old"


def test_a_queued_call_has_its_place_in_the_queue(lab):
    id = lab.vm(name="old")
    tasks = [lab.client.vm.delay(id, 0.2), lab.client.vm.start(id)]
    lab.client.vm.set(id, {"name": "new"})
    assert [lab.client.task.stat(t).ended for t in tasks] == [True, True]
    assert lab.stat(id).config.name == "new"
    assert lab.power_state(id) == "running"


def test_what_an_answered_call_changed_is_in_every_read_after_it(lab):
    id = lab.vm(disks=0, nics=0)
    for n in range(100):
        assert lab.client.vm.set(id, {"name": str(n)}).name == str(n)
        assert lab.stat(id).config.name == str(n)
        assert {r.id: r.config.name for r in lab.client.vm.list()}[id] == str(n)


def test_what_an_ended_task_changed_is_in_every_read_after_it(lab):
    id = lab.vm()
    for _ in range(50):
        lab.run(lab.client.vm.start(id))
        assert lab.power_state(id) == "running"
        assert lab.client.vbd.stat(f"{id}/disk0").state.plugged
        lab.run(lab.client.vm.shutdown(id))
        assert lab.power_state(id) == "halted"
        assert not lab.client.vif.stat(f"{id}/nic0").state.plugged


# The read-only socket


@pytest.fixture
def readonly(lab):
    with Client(lab.daemon.readonly_socket) as client:
        yield client


READS = (".stat", ".list", "VM.exists", "VM.metrics")
PRIVATE = [
    *(name for name in CALLS if name[:3] in ("DEB", "PCI", "VBD", "VIF", "VM.")),
    "HOST.get_diagnostics",
    "HOST.get_console_data",
    "HOST.set_worker_pool_size",
    "TASK.cancel",
    "TASK.destroy",
    "UPDATES.inject_barrier",
    "UPDATES.remove_barrier",
    "UPDATES.refresh_vm",
]


@pytest.mark.parametrize("method", [name for name in PRIVATE if not name.endswith(READS)])
def test_the_readonly_socket_refuses_before_it_looks_at_parameters(readonly, method):
    error = raises(PermissionDenied, lambda: readonly.call(method, nonsense=1))
    assert error.method == method


def test_the_readonly_socket_answers_reads(lab, readonly):
    id = lab.running()
    assert readonly.vm.stat(id).state.power_state == "running"
    assert id in [r.id for r in readonly.vm.list()]
    assert readonly.vbd.list(id)[0].state.plugged
    assert readonly.task.list()
    assert readonly.updates.get().updates
    assert readonly.host.query().name == "xenopsd"


def test_the_readonly_socket_hides_what_may_be_secret(lab, readonly):
    id = lab.running(xsdata={"password": "hunter2"}, guest=Hvm(kernel="/k", cmdline="hunter2"))
    box = lab.running(guest=Container(environment={"PASSWORD": "hunter2"}))
    lab.client.vm.set(id, {"guest": {"type": "hvm", "cmdline": "hunter2 too"}})
    text = json.dumps([readonly.call("VM.stat", id=id), readonly.call("VM.stat", id=box)])
    assert "hunter2" not in text + json.dumps(readonly.call("VM.list"))
    assert readonly.vm.stat(id).state.guest_agent == {}
    assert lab.stat(id).state.guest_agent != {}
    assert lab.stat(id).config.xsdata == {"password": "hunter2"}
