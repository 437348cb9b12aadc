"""The beginning of operations: records, who is admitted, memory, what recovery takes in."""

import errno

import pytest
from msgspec import Raw
from msgspec.structs import replace
from rigs.core import Core
from rigs.values import ETH0, MIB, OLD, ROOT, VM, suspended

from idl import calls
from idl.errors import (
    AlreadyExists,
    DeviceIsConnected,
    HypervisorError,
    InvalidVcpus,
    NotEnoughMemory,
    StorageError,
)
from idl.metadata import Metadata
from idl.vbd import Vbd
from idl.vm import PowerState
from journal.records import Begun
from xenopsd.claims import Claims
from xenopsd.record import VmExtra

SMALL = Metadata(vm=VM, vbds=[ROOT], vifs=[ETH0])
ADD = calls.VmAdd(vm=VM)


@pytest.fixture
def core(tmp_path):
    made = Core(tmp_path)
    yield made
    made.close()


@pytest.fixture
def one(core):
    """With one VM."""
    core.add(SMALL)
    return core


def entry(core):
    return core.inventory.require("vm1")


def refused(core, request, kind):
    error = core.done(request).error
    assert isinstance(error, kind), error
    return error


def stored(core, kind="config"):
    return core.store.load()["vm1"].records.get(kind)


# Records


def test_a_vm_is_recorded_claimed_and_announced(core):
    execution = core.done(ADD)
    assert (execution.error, execution.result) == (None, "vm1")
    assert stored(core) == Metadata(vm=VM)
    assert entry(core).power_state is PowerState.HALTED
    assert (core.directory / "run" / "owners" / "vm1").exists()


def test_a_vm_that_cannot_be_written_is_not_there_at_all(core):
    core.disks["store"].faults = {"write": errno.ENOSPC}
    refused(core, ADD, StorageError)
    core.disks["store"].faults = {}
    assert core.inventory.get("vm1") is None
    assert core.store.load() == {}
    assert not (core.directory / "run" / "owners" / "vm1").exists()


def test_a_vm_that_cannot_be_observed_is_recorded_all_the_same(core):
    """Wholly or not at all: what says that it failed leaves nothing."""

    def unreachable(_vm):
        raise HypervisorError(call="domain", reason="it does not answer")

    real, core.backend.host.domain = core.backend.host.domain, unreachable
    execution = core.done(ADD)
    core.backend.host.domain = real
    assert (execution.error, execution.result) == (None, "vm1")
    assert "cannot be observed" in entry(core).attention.reason


def test_a_vm_that_another_instance_has_is_refused(core, tmp_path):
    other = tmp_path / "other"
    (other / "vm" / "vm1").mkdir(parents=True)
    (other / "vm" / "vm1" / "config.json").write_text("{}")
    with Claims(core.directory / "run", "second", other).taking("vm1"):
        pass
    error = core.done(ADD).error
    assert error.facts() == {"id": "vm1", "instance": "second"}
    assert core.inventory.get("vm1") is None


def test_a_vm_is_added_once_unless_it_is_replaced(one):
    assert refused(one, ADD, AlreadyExists).facts() == {"kind": "VM", "id": "vm1"}
    changed = replace(VM, name="new")
    assert one.done(calls.VmAdd(vm=changed, replace=True)).error is None
    assert stored(one) == replace(SMALL, vm=changed), "its devices stay"


def test_what_contradicts_itself_is_not_recorded(one):
    refused(one, calls.VmSet(id="vm1", changes={"vcpu_max": 1}), InvalidVcpus)
    assert entry(one).meta == SMALL


def test_what_is_set_and_applies_at_once_is_in_the_running_record_too(one):
    one.completed(calls.VmStart(id="vm1"))
    execution = one.done(calls.VmSet(id="vm1", changes={"name": "new", "vcpu_max": 8}))
    assert execution.result == entry(one).meta.vm
    assert entry(one).extra.running == replace(VM, name="new")
    assert set(entry(one).record().pending) == {"vcpu_max"}


def test_a_balloons_range_that_was_set_is_not_pending(one):
    one.completed(calls.VmStart(id="vm1"))
    one.completed(
        calls.VmSetMemoryDynamicRange(id="vm1", minimum=MIB, maximum=300 * MIB)
    )
    assert entry(one).record().pending == {}
    assert entry(one).domain.memory_target == 300 * MIB


def test_a_device_is_added_and_dropped(one):
    assert one.done(calls.VbdAdd(vbd=Vbd(id="vm1/new"))).result == "vm1/new"
    assert stored(one).vbds[-1].position == 0
    assert one.done(calls.VbdRemove(id="vm1/new")).error is None
    assert stored(one) == SMALL


def test_a_plugged_device_is_not_dropped(one):
    one.completed(calls.VmStart(id="vm1"))
    assert refused(one, calls.VbdRemove(id=ROOT.id), DeviceIsConnected).id == ROOT.id


def test_a_removed_vm_leaves_nothing(one):
    one.completed(calls.VmStart(id="vm1"))
    one.completed(calls.VmSuspend(id="vm1"))
    assert one.done(calls.VmRemove(id="vm1")).error is None
    assert one.inventory.get("vm1") is None
    assert one.store.load() == {}
    assert not list((one.directory / "suspend").iterdir())


# Admission


@pytest.mark.parametrize(
    ("request_", "admitted"),
    [
        (calls.VmPause(id="vm1"), False),
        (calls.VmShutdown(id="vm1", timeout=1), False),
        (calls.VbdUnplug(id=ROOT.id), False),
        (calls.VmShutdown(id="vm1"), True),
        (calls.VmDestroy(id="vm1"), True),
    ],
    ids=["pause", "clean shutdown", "unplug", "hard shutdown", "destroy"],
)
def test_of_a_vm_in_doubt_only_what_settles_it_is_admitted(one, request_, admitted):
    one.completed(calls.VmStart(id="vm1"))
    one.executor.observation.doubt(entry(one), "somebody should look")
    execution = one.submit(request_)
    one.wait(execution)
    error = execution.error
    assert (error is None) is admitted
    assert (entry(one).attention is None) is admitted
    if not admitted:
        assert "somebody should look" in str(error)


# Memory


def test_what_is_not_there_is_refused_with_what_could_be(one):
    one.memory.set_total(600 * MIB, host_reserve=0, overcommit=1.0)
    one.completed(calls.VmStart(id="vm1"))
    with pytest.raises(NotEnoughMemory) as raised:
        one.operations.ballooning.reserve("vm2", 500 * MIB, 500 * MIB)
    assert raised.value.facts() == {"needed": 500 * MIB, "free": (88 + 256) * MIB}


# Recovery


def test_a_domain_that_no_record_knows_is_taken_in(one):
    one.completed(calls.VmStart(id="vm1"))
    running = entry(one).domain.incarnation
    entry(one).extra = VmExtra()
    one.recover("vm1")
    assert entry(one).extra.incarnation == running
    assert entry(one).extra.running == VM
    assert entry(one).attention is None
    assert one.memory.free == 2**40 - 512 * MIB


def test_a_stranger_is_left_alone_and_so_is_the_journal(one):
    one.completed(calls.VmStart(id="vm1"))
    found = entry(one)
    found.extra = replace(found.extra, incarnation=OLD)
    found.journal.append(begun(b'{"segments":[]}'), durable=False)
    one.recover("vm1")
    assert "no record and no journal" in found.attention.reason
    assert one.backend.host.domain("vm1") is not None
    assert found.journal.intent is not None, "the doubt is to outlive the daemon"


def test_what_runs_beside_its_own_image_is_left_alone(one):
    one.completed(calls.VmStart(id="vm1"))
    entry(one).extra = suspended(SMALL)
    one.recover("vm1")
    assert entry(one).attention is not None
    assert one.backend.host.domain("vm1") is not None


def test_a_journal_that_is_not_understood_is_left_alone(one):
    one.completed(calls.VmStart(id="vm1"))
    entry(one).journal.append(
        begun(b'{"segments":[{"steps":[{"op":"vm_fly"}]}]}'), durable=False
    )
    one.recover("vm1")
    assert "cannot be understood" in entry(one).attention.reason
    assert one.backend.host.domain("vm1") is not None


def begun(plan):
    return Begun(
        task=None, operation="VM.start", params=Raw(b"null"), boot="", incarnation=None,
        plan=Raw(plan), at=1.0,
    )  # fmt: skip
