"""Tasks: what became of each operation, for those who asked for it.

An entry is written by whoever holds the lease of its VM; the registry is under one lock. Ended
tasks are kept as the JSON they are answered with, compressed, the newest `keep` of them: with ten
thousand of them that is half of what they would take, and small blocks, which do not fragment.
"""

import asyncio
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable

import msgspec
from msgspec import Raw

from idl.errors import DoesNotExist, TaskIsRunning
from idl.task import Completed, ErrorObject, Failed, Pending, Subtask, Task
from xenopsd.bridge import Bridge

#: The level of compression that costs an operation the least, some 10 us.
FAST = 1


class TaskEntry:
    """A task that is queued or running."""

    __slots__ = (
        "call",
        "cancel_points_seen",
        "cancellable",
        "created",
        "debug_info",
        "id",
        "interrupted",
        "object",
        "operation",
        "progress",
        "subtasks",
        "vm",
    )

    def __init__(
        self,
        *,
        id: str,
        vm: str,
        operation: str,
        object: str,
        debug_info: str,
        created: float,
        call: bytes,
    ) -> None:
        self.id = id
        self.vm = vm
        self.operation = operation
        self.object = object
        self.debug_info = debug_info
        self.created = created
        self.call = call
        self.progress = 0.0
        self.subtasks: list[Subtask] = []
        self.cancellable = True
        self.cancel_points_seen = 0
        self.interrupted = False

    def task(self, state: Pending | Completed | Failed | None = None) -> Task:
        """As TASK.stat answers it; pending unless an end is given."""
        return Task(
            id=self.id,
            vm=self.vm,
            operation=self.operation,
            debug_info=self.debug_info,
            created=self.created,
            object=self.object,
            state=Pending(progress=self.progress) if state is None else state,
            subtasks=list(self.subtasks),
            cancellable=self.cancellable and state is None,
            cancel_points_seen=self.cancel_points_seen,
            interrupted=self.interrupted,
        )


class EndedTask(msgspec.Struct, frozen=True, gc=False):
    """A task that has ended: its JSON, and the call that it came from (to recognise a repeat)."""

    packed: bytes

    @classmethod
    def of(cls, task: bytes, call: bytes) -> "EndedTask":
        """Neither holds a newline: it is JSON without white space."""
        return cls(zlib.compress(b"%b\n%b" % (task, call), FAST))

    @property
    def task(self) -> bytes:
        return zlib.decompress(self.packed).partition(b"\n")[0]

    @property
    def call(self) -> bytes:
        return zlib.decompress(self.packed).partition(b"\n")[2]


class Tasks:
    """All tasks by id."""

    def __init__(self, bridge: Bridge, *, keep: int, forgotten: Callable[[str], None]) -> None:
        self._bridge = bridge
        self._keep = keep
        self._forgotten = forgotten
        self._lock = threading.Lock()
        self._open: dict[str, TaskEntry] = {}
        self._ended: OrderedDict[str, EndedTask] = OrderedDict()
        # On the loop alone.
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}

    def add(self, entry: TaskEntry) -> None:
        """A task is accepted."""
        with self._lock:
            self._open[entry.id] = entry

    def withdraw(self, id: str) -> None:
        """Its acceptance could not be written: it never was."""
        with self._lock:
            self._open.pop(id, None)

    def restore(self, id: str, task: bytes, call: bytes) -> None:
        """An ended task from a former life of the daemon."""
        with self._lock:
            self._ended[id] = EndedTask.of(task, call)

    def open(self, id: str) -> TaskEntry | None:
        """The entry of a task that has not ended."""
        return self._open.get(id)

    def known_call(self, id: str) -> bytes | None:
        """The call that a known task came from; None for an unknown task."""
        with self._lock:
            if id in self._open:
                return self._open[id].call
            return self._ended[id].call if id in self._ended else None

    def encoded(self, id: str) -> Raw:
        """A task as JSON. Raises DoesNotExist."""
        with self._lock:
            entry, ended = self._open.get(id), self._ended.get(id)
        if entry is not None:
            return Raw(msgspec.json.encode(entry.task()))
        if ended is not None:
            return Raw(ended.task)
        raise DoesNotExist(kind="task", id=id)

    def ids(self) -> list[str]:
        """Every task, ended ones first, oldest first."""
        with self._lock:
            return [*self._ended, *self._open]

    def encoded_list(self) -> list[Raw]:
        """All tasks as JSON."""
        with self._lock:
            ended = list(self._ended.values())
            entries = list(self._open.values())
        now = (msgspec.json.encode(entry.task()) for entry in entries)
        return [*(Raw(task.task) for task in ended), *(Raw(task) for task in now)]

    def final(
        self, entry: TaskEntry, *, now: float, result: object = None, error: ErrorObject | None
    ) -> bytes:
        """The JSON of a task that is about to end; `end` makes it visible."""
        duration = max(0.0, now - entry.created)
        if error is None:
            return msgspec.json.encode(entry.task(Completed(duration=duration, result=result)))
        return msgspec.json.encode(entry.task(Failed(duration=duration, error=error)))

    def end(self, entry: TaskEntry, final: bytes) -> None:
        """The task has ended: reads say so, and those who wait are told."""
        ended = EndedTask.of(final, entry.call)
        with self._lock:
            self._open.pop(entry.id, None)
            self._ended[entry.id] = ended
            aged = [self._ended.popitem(last=False)[0]] if len(self._ended) > self._keep else []
        for id in aged:
            self._forgotten(id)
        self._bridge.post(lambda: self._tell(entry.id))

    def destroy(self, id: str) -> None:
        """Drop an ended task. Raises TaskIsRunning, DoesNotExist."""
        with self._lock:
            if id in self._open:
                raise TaskIsRunning(task=id)
            if self._ended.pop(id, None) is None:
                raise DoesNotExist(kind="task", id=id)

    def wait(self, id: str, timeout: float) -> asyncio.Future[None] | None:
        """On the loop: done when the task has ended or the time is over; None if it has.

        Raises DoesNotExist.
        """
        if id not in self._open:
            self.encoded(id)
            return None
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(timeout, _resolve, future)
        self._waiters.setdefault(id, []).append(future)

        def leave(_: object) -> None:
            timer.cancel()
            self._leave(id, future)

        future.add_done_callback(leave)
        return future

    def counts(self) -> dict[str, int]:
        """How many are open and how many ended ones are kept."""
        return {"open": len(self._open), "ended": len(self._ended)}

    def _tell(self, id: str) -> None:
        for future in self._waiters.pop(id, ()):
            _resolve(future)

    def _leave(self, id: str, future: asyncio.Future[None]) -> None:
        waiting = self._waiters.get(id)
        if waiting and future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._waiters[id]


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
