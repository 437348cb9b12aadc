"""The journal, the store and the task log over a disk that stops, fails and loses power."""

import errno
import importlib.util
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec import Raw

from journal.documents import Kind
from journal.errors import JournalUnwritable, StoreUnwritable
from journal.intents import VmJournal
from journal.records import Accepted, Begun, Destroyed, Done, Ended, Intent, Turned
from journal.replay import fold, parse
from journal.store import Store
from journal.tasklog import TaskLog

FAKE = Path(__file__).parents[1] / "fakes" / "disk.py"
STATE = Path("/state")
SETTINGS = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
FAULTS = st.sampled_from(
    [("write", errno.ENOSPC), ("fsync", errno.EIO), ("fsync_dir", errno.EIO), ("*", errno.EROFS)]
)
UNITS = st.integers(0, 400)
SEEDS = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def disks():
    spec = importlib.util.spec_from_file_location("fake_disk", FAKE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class OnADisk(RuleBasedStateMachine):
    """What the machines share: a disk with the durable directory /state, and its faults."""

    disks = None

    @initialize()
    def begin(self):
        self.disk = self.disks.FaultyDisk()
        self.disk.mkdir(STATE)
        self.disk.root.settle()
        self.setup()

    @rule(units=UNITS)
    def stop_soon(self, units):
        self.disk.stop_after(units)

    @rule(fault=FAULTS)
    def fail(self, fault):
        self.disk.faults = dict([fault])

    @rule(space=st.integers(0, 200))
    def fill(self, space):
        self.disk.space = space

    @rule()
    def heal(self):
        self.disk.faults = {}
        self.disk.space = None


class JournalMachine(OnADisk):
    """`generations` are (records, how many of them are durable): the last one is the present,
    the others are what a power cut may bring back, until something durable is written.
    """

    path = STATE / "vm1.journal"

    def setup(self):
        self.journal = VmJournal(self.disk, self.path)
        self.journal.open(rebooted=False)
        self.number = 0
        self.generations = [([], 0)]

    # -- appending, always a record that can follow

    @rule(durable=st.booleans())
    def begin_operation(self, durable):
        self.number += 1
        self.append(
            Begun(
                task=f"t{self.number}",
                operation="VM.start",
                params=Raw(b"{}"),
                boot="b1",
                incarnation=None,
                plan=Raw(b"[]"),
                at=float(self.number),
            ),
            durable,
        )

    @precondition(lambda self: self.journal.intent)
    @rule(durable=st.booleans(), facts=st.integers())
    def intend(self, durable, facts):
        step = self.journal.intent.done
        self.append(Intent(step=step, name="vif_plug", facts=Raw(b"%d" % facts)), durable)

    @precondition(lambda self: self.journal.intent)
    @rule(durable=st.booleans())
    def finish_a_step(self, durable):
        self.append(Done(step=self.journal.intent.done), durable)

    @precondition(lambda self: self.journal.intent)
    @rule(durable=st.booleans(), direction=st.sampled_from(["forward", "back"]))
    def turn(self, durable, direction):
        self.append(Turned(direction=direction, task=None, plan=Raw(b"[]")), durable)

    def append(self, record, durable):
        before = self.content()
        try:
            self.journal.append(record, durable=durable)
        except JournalUnwritable:
            if self.stored() == [record] and before != self.content():
                # A file made anew whose name could not be made durable.
                self.generations.append(([record], 0))
                return
            assert self.content() == before or self.cut_is_owed(before)
            # Cut off again, but after a power cut it may be there: it was only meant.
            self.generations += [([*self.present, record], self.floor), self.generations[-1]]
        except self.disks.DiskStopped:
            self.start_again(self.present, [*self.present, record], [record])
        else:
            self.appended(record, durable)

    def appended(self, record, durable):
        records = [*self.present, record]
        if self.stored() == [record]:
            # The first in a file made anew after a failed fsync, or just truncated.
            records = [record]
            self.generations.append((records, 0))
        if durable:
            self.generations = [(records, len(records))]
        else:
            self.generations[-1] = (records, self.floor)

    @rule(durable=st.booleans())
    def end(self, durable):
        try:
            self.journal.end(durable=durable)
        except JournalUnwritable:
            if not self.content():
                self.generations.append(([], 0))
        except self.disks.DiskStopped:
            self.start_again(self.present, [])
        else:
            self.generations.append(([], 0))
            # A file removed since an fsync of it had failed is not made to stay so.
            if durable and self.disk.exists(self.path):
                self.generations = [([], 0)]

    @rule()
    def let_go_of_the_descriptor(self):
        try:
            self.journal.close()
        except self.disks.DiskStopped:
            self.start_again(self.present)

    # -- starting again

    @rule()
    def kill_the_daemon(self):
        self.start_again(self.present)

    def start_again(self, *possible):
        """What was acknowledged is there, and at most what was being done when it stopped."""
        self.disk.restart()
        found = self.reopen(rebooted=False)
        assert found in possible
        same = found[: len(self.present)] == self.present
        self.generations.append((found, self.floor if same else 0))

    @rule(seed=SEEDS)
    def cut_the_power(self, seed):
        """What was made durable is there, and a prefix of what came after."""
        self.disk.power_cut(random.Random(seed).randrange)
        found = self.reopen(rebooted=True)
        assert any(
            found == records[:size]
            for records, floor in self.generations
            for size in range(floor, len(records) + 1)
        )
        # What a power cut has left is on the disk.
        self.generations = [(found, len(found))]

    @property
    def present(self):
        return self.generations[-1][0]

    @property
    def floor(self):
        return self.generations[-1][1]

    def stored(self):
        return list(parse(self.content(), rebooted=False).records)

    def cut_is_owed(self, before):
        return self.content().startswith(before) and "*" in self.disk.faults

    def reopen(self, rebooted):
        content = self.content()
        parsed = parse(content, rebooted=rebooted)
        self.journal = VmJournal(self.disk, self.path)
        assert self.journal.open(rebooted=rebooted) == fold(parsed.records)
        assert self.content() == content[: parsed.valid_bytes]
        return list(parsed.records)

    def content(self):
        if self.disk.stopped or not self.disk.exists(self.path):
            return b""
        return self.disk.file(self.path).content


class Vm(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    number: int


VMS = st.sampled_from(["vm1", "vm2"])


class StoreMachine(OnADisk):
    """`now` is what was acknowledged last (None: no record), `since` what was since the last
    durable call, itself included, oldest first.
    """

    def setup(self):
        self.reopen()
        self.number = 0
        self.now = dict.fromkeys(["vm1", "vm2"])
        self.since = {"vm1": [None], "vm2": [None]}

    def reopen(self):
        self.store = Store(self.disk, STATE / "vms", {"vm": Kind(Vm)})
        return self.store.load()

    @rule(vm=VMS, durable=st.booleans())
    def write(self, vm, durable):
        self.number += 1
        record = Vm(id=vm, number=self.number)
        self.change(
            vm, record, durable, lambda: self.store.write(vm, "vm", record, durable=durable)
        )

    @rule(vm=VMS, durable=st.booleans())
    def delete(self, vm, durable):
        self.change(vm, None, durable, lambda: self.store.delete(vm, "vm", durable=durable))

    @rule(vm=VMS)
    def remove(self, vm):
        self.change(vm, None, self.now[vm] is not None, lambda: self.store.remove(vm))

    def change(self, vm, record, durable, call):
        try:
            call()
        except StoreUnwritable:
            found = self.look(vm)
            assert found in (self.now[vm], record)
            self.acknowledge(vm, found, durable=False)
        except self.disks.DiskStopped:
            self.start_again(vm, record)
        else:
            assert self.look(vm) == record
            self.acknowledge(vm, record, durable)

    def acknowledge(self, vm, record, durable):
        self.now[vm] = record
        self.since[vm] = [record] if durable else [*self.since[vm], record]

    def look(self, vm):
        path = STATE / "vms" / vm / "vm.json"
        if not self.disk.exists(path):
            return None
        return msgspec.convert(msgspec.json.decode(self.disk.file(path).content)["record"], Vm)

    @rule()
    def kill_the_daemon(self):
        self.start_again("vm1", self.now["vm1"])

    def start_again(self, vm, in_flight):
        """The old record, or the new one; of the other VM what it was."""
        self.disk.restart()
        found = self.loaded()
        other = "vm2" if vm == "vm1" else "vm1"
        assert found[vm] in (self.now[vm], in_flight)
        assert found[other] == self.now[other]
        self.acknowledge(vm, found[vm], durable=False)

    def loaded(self):
        loaded = self.reopen()
        assert all(not each.damaged for each in loaded.values())
        found = {vm: each.records["vm"] for vm, each in loaded.items()}
        names = self.disk.names(STATE / "vms")
        assert set(found) <= set(names) <= {"vm1", "vm2"}
        assert all(self.disk.names(STATE / "vms" / name) in ([], ["vm.json"]) for name in names)
        return {vm: found.get(vm) for vm in ("vm1", "vm2")}

    @rule(seed=SEEDS)
    def cut_the_power(self, seed):
        """What was durable, or something newer; what was not may be damaged, but never wrong."""
        self.disk.power_cut(random.Random(seed).randrange)
        loaded = self.reopen()
        for vm, since in self.since.items():
            each = loaded.get(vm)
            if each and each.damaged:
                assert len(since) > 1
                self.store.remove(vm)
                self.acknowledge(vm, None, durable=True)
            else:
                found = each.records["vm"] if each else None
                assert found in since
                self.acknowledge(vm, found, durable=True)


class TaskMachine(OnADisk):
    """The log keeps what it acknowledged, whatever stops it; compacted all the time.

    `tasks` are the ids of the open ones and of the newest ended ones.
    """

    path = STATE / "tasks"
    keep = 2

    def setup(self):
        self.number = 0
        self.tasks = ([], [])
        assert self.reopen() == self.tasks

    def reopen(self):
        self.log = TaskLog(self.disk, self.path, keep=self.keep)
        tasks = self.log.load()
        assert not tasks.damaged
        assert all(accepted is not None for accepted, _ in tasks.ended.values())
        return list(tasks.open), list(tasks.ended)

    def after(self, tasks, record):
        opened, ended = ([each for each in ids if each != record.id] for ids in tasks)
        if isinstance(record, Accepted):
            return [*opened, record.id], ended
        if isinstance(record, Ended):
            return opened, [*ended, record.id][-self.keep :]
        return opened, ended

    @rule(count=st.integers(1, 4))
    def accept(self, count):
        self.number += count
        self.append([accepted(f"t{self.number - at}") for at in range(count)])

    @precondition(lambda self: self.tasks[0])
    @rule(data=st.data())
    def finish(self, data):
        ids = data.draw(st.lists(st.sampled_from(self.tasks[0]), unique=True, min_size=1))
        self.append([Ended(id=each, task=Raw(b"{}")) for each in ids])

    @precondition(lambda self: self.tasks[1])
    @rule(data=st.data(), again=st.booleans())
    def destroy(self, data, again):
        task = data.draw(st.sampled_from(self.tasks[1]))
        self.append([Destroyed(id=task), *[accepted(task)] * again])

    def append(self, records):
        stages = [self.tasks]
        for record in records:
            stages.append(self.after(stages[-1], record))
        try:
            self.log.append(records)
        except JournalUnwritable:
            pass
        except self.disks.DiskStopped:
            self.start_again(stages)
        else:
            self.tasks = stages[-1]

    @rule()
    def kill_the_daemon(self):
        self.start_again([self.tasks])

    def start_again(self, stages):
        """Of a batch that was being written the first lines may be there."""
        self.disk.restart()
        self.tasks = self.reopen()
        assert self.tasks in stages


def accepted(task):
    return Accepted(
        id=task,
        call=Raw(b"{}"),
        vm=None,
        operation="VM.start",
        object="vm1",
        debug_info=None,
        created=1.0,
    )


@pytest.mark.parametrize("machine", [JournalMachine, StoreMachine, TaskMachine])
def test_whole_records_whatever_the_disk_does(disks, machine):
    run_state_machine_as_test(
        type(machine.__name__, (machine,), {"disks": disks}), settings=SETTINGS
    )
