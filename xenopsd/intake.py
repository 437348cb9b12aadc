"""From acceptance on the event loop to the queues: one thread, in the order of acceptance.

A task's accepted line is written before its operation can begin and before its caller is
answered; what cannot be written is refused. Lines of a burst are written with one write.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog
from msgspec import Raw

from idl.errors import StorageError, XenopsError
from journal.errors import JournalUnwritable
from journal.records import Accepted, Destroyed
from journal.tasklog import TaskLog
from xenopsd.bridge import Bridge
from xenopsd.errands import start
from xenopsd.execution import Execution
from xenopsd.pulse import Pulse

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Item:
    execution: Execution | None
    accepted: "asyncio.Future[str] | None" = None
    destroyed: str | None = None
    forgotten: "asyncio.Future[None] | None" = None


class Intake:
    """Takes what the loop has accepted. `refused` undoes an acceptance that was not written."""

    def __init__(
        self,
        tasklog: TaskLog,
        bridge: Bridge,
        *,
        enqueue: Callable[[Execution], None],
        refused: Callable[[Execution], None],
    ) -> None:
        self._tasklog = tasklog
        self._bridge = bridge
        self._enqueue = enqueue
        self._refused = refused
        self._items: deque[_Item] = deque()
        self._bell = threading.Condition()
        self._closed = False
        self.pulse = Pulse("intake")
        # On the loop alone.
        self._accepting: dict[str, asyncio.Future[str]] = {}
        self._idle = True
        start("intake", self._run)

    def repeated(self, task: str) -> "asyncio.Future[str] | None":
        """On the loop: another future of a task whose acceptance is not written yet."""
        first = self._accepting.get(task)
        if first is None or first.done():
            return None
        second: asyncio.Future[str] = first.get_loop().create_future()
        first.add_done_callback(partial(_follow, second))
        return second

    def submit(self, execution: Execution, accepted: "asyncio.Future[str] | None") -> None:
        """On the loop: queue an operation; `accepted` is told its task once that is logged."""
        if accepted is not None and execution.task is not None:
            self._accepting[execution.task.id] = accepted
            accepted.add_done_callback(partial(self._accepted, execution.task.id))
        self._put(_Item(execution, accepted))

    def destroyed(self, task: str, forgotten: "asyncio.Future[None] | None" = None) -> None:
        """On the loop: note that a task was destroyed; `forgotten` is told once that is logged."""
        self._put(_Item(None, destroyed=task, forgotten=forgotten))

    def recheck(self) -> None:
        """Have the thread show that it lives."""
        with self._bell:
            self._bell.notify_all()

    def close(self, timeout: float) -> bool:
        """Take nothing more; True when all that was taken is done."""
        with self._bell:
            self._closed = True
            self._bell.notify_all()
            return self._bell.wait_for(lambda: self._idle and not self._items, timeout)

    def _accepted(self, task: str, _future: "asyncio.Future[str]") -> None:
        self._accepting.pop(task, None)

    def _put(self, item: _Item) -> None:
        with self._bell:
            self._items.append(item)
            self._bell.notify()

    def _run(self) -> None:
        while True:
            with self._bell:
                self._idle = True
                self._bell.notify_all()
                self.pulse.answer()
                while not self._items:
                    if self._closed:
                        return
                    self._bell.wait()
                    self.pulse.answer()
                self._idle = False
                batch = list(self._items)
                self._items.clear()
            self._take(batch)

    def _take(self, batch: list[_Item]) -> None:
        error = self._write(batch)
        resolved: list[tuple[asyncio.Future[str], str]] = []
        for item in batch:
            execution = item.execution
            if execution is None:
                if item.forgotten is not None:
                    self._bridge.post(partial(_done, item.forgotten))
                continue
            if error is not None and execution.task is not None:
                self._refused(execution)
                if item.accepted is not None:
                    self._bridge.post(partial(_fail, item.accepted, error))
                continue
            self._enqueue(execution)
            if item.accepted is not None and execution.task_id:
                resolved.append((item.accepted, execution.task_id))
        if resolved:
            self._bridge.post(partial(_resolve, resolved))

    def _write(self, batch: list[_Item]) -> XenopsError | None:
        lines: list[Accepted | Destroyed] = []
        for item in batch:
            task = item.execution.task if item.execution else None
            if task is not None:
                lines.append(
                    Accepted(
                        id=task.id,
                        call=Raw(task.call),
                        vm=task.vm,
                        operation=task.operation,
                        object=task.object,
                        debug_info=task.debug_info,
                        created=task.created,
                    )
                )
            elif item.destroyed is not None:
                lines.append(Destroyed(id=item.destroyed))
        if not lines:
            return None
        try:
            self._tasklog.append(lines)
        except JournalUnwritable as error:
            log.error("tasks_refused", reason=str(error))
            return StorageError(plugin="state directory", reason=str(error))
        return None


def _resolve(resolved: "list[tuple[asyncio.Future[str], str]]") -> None:
    for future, id in resolved:
        if not future.done():
            future.set_result(id)


def _done(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: "asyncio.Future[str]", error: XenopsError) -> None:
    if not future.done():
        future.set_exception(error)


def _follow(second: "asyncio.Future[str]", first: "asyncio.Future[str]") -> None:
    if second.done():
        return
    if first.cancelled():
        second.cancel()
    elif (error := first.exception()) is not None:
        second.set_exception(error)
    else:
        second.set_result(first.result())
