"""From acceptance to the queues: in order, logged before, refused when that fails."""

import asyncio
import errno
import threading
from pathlib import Path

import pytest
from fakes.disk import FaultyDisk
from rigs.daemon import eventually
from structlog.testing import capture_logs

from idl import calls
from idl.errors import StorageError
from journal.tasklog import TaskLog
from xenopsd.bridge import Bridge
from xenopsd.execution import Execution
from xenopsd.intake import Intake
from xenopsd.tasks import TaskEntry

LIMIT = 10.0
LOG = Path("/state/tasks.log")


class Desk:
    """An intake over a disk that can fail; `gate` holds its thread at the first item."""

    def __init__(self):
        self.disk = FaultyDisk()
        self.disk.mkdir(LOG.parent)
        self.queued = []
        self.refused = []
        self.logged = []
        self.gate = threading.Event()
        self.gate.set()
        self.held = threading.Event()
        self.intake = Intake(
            TaskLog(self.disk, LOG),
            Bridge(asyncio.get_running_loop()),
            enqueue=self._enqueue,
            refused=self.refused.append,
        )

    def _enqueue(self, execution):
        self.held.set()
        self.gate.wait(LIMIT)
        self.queued.append(execution)
        self.logged.append(self.disk.read(LOG) if self.disk.exists(LOG) else b"")

    def submit(self, execution):
        future = asyncio.get_running_loop().create_future()
        self.intake.submit(execution, future)
        return future


def operation(id):
    task = TaskEntry(
        id=id, vm="vm1", operation="VM.start", object="vm1", debug_info="", created=1.0,
        call=b'["VM.start",{"id":"vm1"}]',
    )
    return Execution(calls.VmStart(id="vm1"), "vm1", task=task)


def on_desk(scenario):
    async def run():
        desk = Desk()
        try:
            await asyncio.wait_for(scenario(desk), LIMIT)
        finally:
            desk.gate.set()
            assert await asyncio.to_thread(desk.intake.close, LIMIT)

    asyncio.run(run())


def test_a_task_is_logged_before_it_is_queued_and_answered():
    async def scenario(desk):
        assert await desk.submit(operation("t")) == "t"
        assert b'"id":"t"' in desk.logged[0]

    on_desk(scenario)


def test_the_order_of_acceptance_is_the_order_of_the_queues():
    async def scenario(desk):
        all_of_them = [
            Execution(calls.VmSet(id="vm1", changes={}), "vm1") if n % 3 == 0 else operation(f"t{n}")
            for n in range(100)
        ]
        futures = [desk.submit(execution) for execution in all_of_them]
        await asyncio.gather(*(f for f, e in zip(futures, all_of_them, strict=True) if e.task))
        assert await asyncio.to_thread(desk.intake.close, LIMIT)
        assert desk.queued == all_of_them

    on_desk(scenario)


def test_a_burst_is_one_write():
    async def scenario(desk):
        desk.gate.clear()
        first = desk.submit(operation("first"))
        await asyncio.to_thread(desk.held.wait, LIMIT)
        burst = [desk.submit(operation(f"t{n}")) for n in range(50)]
        versions = len(desk.disk.file(LOG).versions)
        desk.gate.set()
        await asyncio.gather(first, *burst)
        assert len(desk.disk.file(LOG).versions) == versions + 1

    on_desk(scenario)


def test_what_cannot_be_logged_is_refused_and_never_queued():
    async def scenario(desk):
        desk.disk.faults = {"write": errno.ENOSPC}
        refused = operation("t")
        with pytest.raises(StorageError) as raised:
            await desk.submit(refused)
        assert raised.value.plugin == "state directory"
        assert desk.refused == [refused]
        assert desk.queued == []
        desk.disk.faults = {}
        assert await desk.submit(operation("later")) == "later"

    with capture_logs():
        on_desk(scenario)


def test_what_needs_no_log_is_queued_though_it_cannot_be_written():
    async def scenario(desk):
        desk.disk.faults = {"write": errno.ENOSPC}
        desk.gate.clear()
        first = Execution(calls.VmSet(id="vm1", changes={}), "vm1")
        desk.intake.submit(first, None)
        await asyncio.to_thread(desk.held.wait, LIMIT)
        # One batch: a task that is refused, and what comes with it.
        refused = desk.submit(operation("t"))
        second = Execution(calls.VmSet(id="vm1", changes={}), "vm1")
        desk.intake.submit(second, None)
        desk.intake.destroyed("old")
        desk.gate.set()
        with pytest.raises(StorageError):
            await refused
        assert await asyncio.to_thread(desk.intake.close, LIMIT)
        assert desk.queued == [first, second]

    with capture_logs():
        on_desk(scenario)


def test_a_destroyed_task_is_logged():
    async def scenario(desk):
        desk.intake.destroyed("old")
        await desk.submit(operation("t"))
        assert b'"kind":"destroyed"' in desk.disk.read(LOG)

    on_desk(scenario)


def test_an_answer_that_nobody_waits_for_is_dropped():
    async def scenario(desk):
        given_up = desk.submit(operation("t"))
        given_up.cancel()
        assert await desk.submit(operation("next")) == "next"
        assert [e.task.id for e in desk.queued] == ["t", "next"], "it was accepted all the same"

    on_desk(scenario)


def test_closing_waits_for_what_was_taken():
    async def scenario(desk):
        desk.gate.clear()
        desk.submit(operation("t"))
        await asyncio.to_thread(desk.held.wait, LIMIT)
        assert not await asyncio.to_thread(desk.intake.close, 0.01)
        desk.gate.set()
        assert await asyncio.to_thread(desk.intake.close, LIMIT)
        assert len(desk.queued) == 1

    on_desk(scenario)


def test_the_thread_shows_that_it_lives():
    async def scenario(desk):
        desk.intake.pulse.ask()
        desk.intake.recheck()
        await asyncio.to_thread(eventually, lambda: desk.intake.pulse.answered)

    on_desk(scenario)


def test_a_thread_that_is_held_up_does_not_seem_to_live():
    async def scenario(desk):
        desk.gate.clear()
        first = desk.submit(operation("t"))
        await asyncio.to_thread(desk.held.wait, LIMIT)
        desk.intake.pulse.ask()
        desk.intake.recheck()
        assert not desk.intake.pulse.answered
        desk.gate.set()
        await first
        await asyncio.to_thread(eventually, lambda: desk.intake.pulse.answered)

    on_desk(scenario)
