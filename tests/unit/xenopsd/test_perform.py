"""Micro-ops carried out on the real simulator: each may be repeated, each keeps the record true."""

import errno
import time

import pytest
from msgspec.structs import replace
from rigs.core import Core
from rigs.values import CD, DATA, ETH0, FRESH, ISO, MIB, ROOT, VM

from idl.errors import BadPowerState, DoesNotExist
from idl.metadata import Metadata
from idl.vm import Action, PowerState
from journal.errors import StoreUnwritable
from xenopsd import microop as m
from xenopsd.execution import BackendCall, Check, Execution
from xenopsd.perform import without
from xenopsd.record import power_state

#: What stops stays as it is, for the steps here to be tried on.
VM = replace(VM, on_shutdown=[Action.PAUSE])
META = Metadata(vm=VM, vbds=[ROOT, CD, DATA], vifs=[ETH0])
OTHER = replace(ISO, path="/images/other")


@pytest.fixture
def rig(tmp_path):
    """Carries micro-ops out on one VM, for one incarnation, in no queue."""
    core = Core(tmp_path)
    yield Rig(core, core.add(META))
    core.close()


class Rig:
    def __init__(self, core, entry):
        self.core, self.entry = core, entry
        self.image = str(core.directory / "suspend" / "vm1.image")

    def do(self, *ops, incarnation=FRESH):
        waiting = None
        for op in ops:
            call = BackendCall(
                Execution(Check("vm1"), "vm1"),
                m.name(op),
                incarnation,
                time.monotonic() + 10,
                seconds=10.0,
                progress=lambda _fraction: None,
            )
            performer = self.core.executor.context.performer
            waiting = performer.perform(self.entry, op, call)
            if waiting is None:
                performer.advance(self.entry, op, incarnation, time.time())
        return waiting

    @property
    def domain(self):
        return self.core.backend.host.domain("vm1")

    @property
    def state(self):
        return power_state(self.domain, self.entry.extra)

    def stored(self, kind):
        return self.core.store.load()["vm1"].records.get(kind)

    def start(self):
        self.do(*START)

    def suspend(self):
        self.do(m.VmSave(image=self.image), m.VmCommitImage(image=self.image, plugged=[ROOT.id]))
        self.do(m.VmDestroy())


START = [
    m.VmCreate(), m.VmBuild(), m.VbdPlug(id=ROOT.id), m.VbdPlug(id=CD.id), m.VifPlug(id=ETH0.id),
    m.VmCreateDeviceModel(), m.VmUnpause(),
]  # fmt: skip
STOP = [
    m.VmPause(if_running=True), m.VmDestroyDeviceModel(), m.VifUnplug(id=ETH0.id, force=True),
    m.VbdUnplug(id=ROOT.id, force=True), m.VmDestroy(),
]  # fmt: skip


def test_every_step_of_a_life_may_be_repeated(rig):
    """As recovery does: in the end it is what it would have been."""
    for op in START:
        rig.do(op)
        rig.do(op)
    assert (rig.state, set(rig.domain.vbds)) == (PowerState.RUNNING, {ROOT.id, CD.id})
    for op in STOP:
        rig.do(op)
        rig.do(op)
    assert rig.state is PowerState.HALTED
    assert rig.core.leftovers("vm1") == []
    assert rig.core.memory.free == 2**40


def test_every_step_of_a_suspend_and_a_resume_may_be_repeated(rig):
    rig.start()
    before = rig.domain.vcpu_seconds
    for op in [
        m.VmSave(image=rig.image),
        m.VmCommitImage(image=rig.image, plugged=[ROOT.id]),
        m.VmDestroy(),
    ]:
        rig.do(op, op)
    assert rig.state is PowerState.SUSPENDED
    for op in [
        m.VmCheckImage(image=rig.image),
        m.VmCreate(),
        m.VmRestore(image=rig.image),
        m.VbdPlug(id=ROOT.id),
        m.VmCreateDeviceModel(),
        m.VmSpendImage(image=rig.image),
        m.VmUnpause(),
        m.VmDropImage(image=rig.image),
    ]:
        rig.do(op, op, incarnation="another")
    assert rig.state is PowerState.RUNNING
    assert rig.domain.incarnation == "another"
    assert rig.domain.vcpu_seconds >= before
    assert rig.entry.extra.image is None


def test_memory_is_reserved_before_a_domain_is_made_and_given_back_with_it(rig):
    rig.do(m.VmCreate())
    assert rig.core.memory.free == 2**40 - 512 * MIB
    rig.do(m.VmSetMemory(target=300 * MIB, was=512 * MIB))
    assert rig.core.memory.free == 2**40 - 300 * MIB
    rig.do(m.VmDestroy())
    assert rig.core.memory.free == 2**40


def test_vcpus_of_what_runs_no_more_are_not_stopped(rig):
    rig.do(m.VmPause(if_running=True))
    rig.start()
    rig.core.backend.debug("halt", ["vm1"])
    rig.core.quiet("vm1")
    rig.do(m.VmPause(if_running=True))
    with pytest.raises(BadPowerState):
        rig.do(m.VmPause())


@pytest.mark.parametrize("end", ["kill", "halt"])
def test_what_ends_while_its_vcpus_are_stopped_needs_it_no_more(rig, monkeypatch, end):
    """By the thread that kills what should be gone, or by itself."""
    rig.start()
    backend = rig.core.backend
    pause = backend.vm.pause

    def late(call, vm):
        backend.kill("vm1") if end == "kill" else backend.debug("halt", ["vm1"])
        rig.core.quiet("vm1")
        pause(call, vm)

    monkeypatch.setattr(backend.vm, "pause", late)
    rig.do(m.VmPause(if_running=True))
    with pytest.raises((DoesNotExist, BadPowerState)):
        rig.do(m.VmPause())


def test_an_unpause_that_is_repeated_after_its_guest_has_stopped_was_done(rig):
    rig.start()
    rig.core.backend.debug("halt", ["vm1"])
    rig.core.quiet("vm1")
    rig.do(m.VmUnpause())
    rig.do(m.VmDestroy())
    with pytest.raises(DoesNotExist):
        rig.do(m.VmUnpause())


def test_what_is_unplugged_and_has_no_record_is_gone(rig):
    rig.start()
    rig.entry.meta = Metadata(vm=VM)
    assert rig.do(m.VbdUnplug(id=ROOT.id), m.VifUnplug(id=ETH0.id), m.PciUnplug(id="vm1/x")) is None


def test_a_delay_is_waited_for_without_a_worker(rig):
    waiting = rig.do(m.VmDelay(seconds=2.5))
    assert (waiting.what, waiting.timeout, waiting.recheck) == ("delay", 2.5, 2.5)


# What is durable


def test_an_image_counts_from_when_it_is_recorded(rig):
    rig.start()
    rig.do(m.VmSave(image=rig.image))
    assert rig.stored("extra") is None
    rig.do(m.VmCommitImage(image=rig.image, plugged=[ROOT.id]))
    found = rig.stored("extra")
    assert (found.image.path, found.image.plugged, found.image.spent) == (
        rig.image, [ROOT.id], False,
    )
    assert found.running == VM


def test_a_spending_is_recorded_and_can_be_taken_back(rig):
    rig.start()
    rig.suspend()
    rig.do(m.VmSpendImage(image=rig.image))
    assert rig.stored("extra").image.spent
    rig.do(m.VmUnspendImage(image=rig.image))
    assert not rig.stored("extra").image.spent
    assert rig.state is PowerState.SUSPENDED


def test_an_image_is_forgotten_before_its_file_goes(rig):
    rig.start()
    rig.suspend()
    rig.core.disks["store"].faults = {"write": errno.ENOSPC}
    with pytest.raises(StoreUnwritable):
        rig.do(m.VmDropImage(image=rig.image))
    assert rig.state is PowerState.SUSPENDED
    rig.core.disks["store"].faults = {}
    rig.do(m.VmCheckImage(image=rig.image), m.VmDropImage(image=rig.image))
    assert rig.stored("extra").image is None
    assert rig.state is PowerState.HALTED


def test_a_file_that_is_no_image_is_never_dropped(rig, tmp_path):
    """It was named by a client, and a suspend into it was refused: that is no reason to lose it."""
    precious = tmp_path / "precious"
    precious.write_text("letters")
    rig.do(m.VmDropImage(image=str(precious)))
    assert precious.read_text() == "letters"


# Records


@pytest.mark.parametrize(
    ("op", "shown"),
    [
        (m.VmRecord(object="vm1", changes={"vcpus": 3}, was={}), lambda meta: meta.vm.vcpus == 3),
        (m.VmRecord(object=ROOT.id, changes={"mode": "ro"}, was={}), lambda meta: meta.vbds[0].mode == "ro"),
        (m.VmRecord(object=ETH0.id, changes={"carrier": False}, was={}), lambda meta: not meta.vifs[0].carrier),
        (m.VmRemoveDevice(id=ROOT.id), lambda meta: [v.id for v in meta.vbds] == [CD.id, DATA.id]),
    ],
    ids=["the VM", "a VBD", "a VIF", "a device that goes"],
)
def test_a_change_is_written_and_then_known(rig, op, shown):
    rig.core.disks["store"].faults = {"write": errno.ENOSPC}
    with pytest.raises(StoreUnwritable):
        rig.do(op)
    assert rig.entry.meta == META, "what was not written is not known"
    rig.core.disks["store"].faults = {}
    rig.do(op)
    assert shown(rig.entry.meta)
    assert rig.stored("config") == rig.entry.meta


def test_a_removed_record_takes_everything_with_it(rig):
    rig.do(m.VmRemoveRecord())
    assert rig.core.store.load() == {}
    assert rig.core.inventory.get("vm1") is None


def test_a_setting_of_a_vif_is_applied_as_it_will_be_recorded(rig):
    rig.start()
    rig.do(m.VifConfigure(id=ETH0.id, field="carrier", value=False, was=True))
    assert not rig.domain.vifs[ETH0.id].media_present
    assert rig.entry.meta.vifs[0].carrier, "recorded by a step of its own"


def test_media_go_in_and_out(rig):
    rig.start()
    rig.do(m.VbdInsert(id=CD.id, backend=OTHER, was=ISO))
    assert rig.domain.vbds[CD.id].medium == OTHER
    rig.do(m.VbdEject(id=CD.id, was=OTHER))
    assert rig.domain.vbds[CD.id].medium is None


def test_metadata_less_one_device():
    assert without(META, ETH0.id) == replace(META, vifs=[])
    assert without(META, "vm1/no") == META
