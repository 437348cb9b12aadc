"""The thread that asks the daemon for `xenops top`: what changed when it changes, the rest now
and then.

One long poll tells which VMs and tasks to look at again; many changes at once become one list.
A daemon that goes away is told, and asked again until it is back: nothing is missed by that,
since everything is then read anew.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from idl.client import Client, ConnectionFailed
from idl.errors import DoesNotExist, XenopsError
from idl.task import Task
from idl.update import Update
from idl.vm import VmRecord
from xenopsd.cli.top.board import Look

T = TypeVar("T")

#: Changes within so many seconds are read together: a storm costs ten reads a second.
GATHER = 0.1
#: From so many changed objects on, one list is cheaper than asking for each.
MANY = 100
#: How long after a failure the daemon is asked again, in seconds.
AGAIN = 1.0


@dataclass(frozen=True, slots=True)
class Changed:
    """VMs and tasks that changed; with `whole` they are all that there are."""

    vms: list[VmRecord]
    gone: list[str]
    tasks: list[Task]
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Away:
    """The daemon cannot be asked: why."""

    reason: str


News = Changed | Look | Away


class Feed(threading.Thread):
    """Tells news, from a thread of its own, until it is stopped."""

    def __init__(self, socket: Path, interval: float, tell: Callable[[News], None]) -> None:
        super().__init__(name="feed", daemon=True)
        self._interval = interval
        self._tell = tell
        self._ending = threading.Event()
        # That it is away is told at once, and asked again here.
        self._client = Client(socket, reconnect=0)

    def stop(self) -> None:
        """End it; it has let go of the daemon when this returns."""
        self._ending.set()
        while self.is_alive():
            # Again and again: it may have been between two calls.
            self._client.close()
            self.join(GATHER)
        self._client.close()

    def run(self) -> None:
        while not self._ending.is_set():
            try:
                self._follow()
            except (ConnectionFailed, XenopsError) as error:
                if self._ending.is_set():
                    return
                self._tell(Away(str(error)))
                self._ending.wait(AGAIN)

    def _follow(self) -> None:
        """Until something fails."""
        since = self._client.updates.last_id()
        self._tell(self._everything())
        due = time.monotonic()
        while not self._ending.is_set():
            if time.monotonic() >= due:
                self._tell(self._look())
                due = time.monotonic() + self._interval
            wait = max(due - time.monotonic(), 0.0)
            batch = self._client.updates.get(since, wait)
            since = batch.next
            if batch.resync:
                self._tell(self._everything())
            elif batch.updates:
                self._tell(self._changed(batch.updates))
                self._ending.wait(GATHER)

    def _look(self) -> Look:
        host = self._client.host
        return Look(
            at=time.monotonic(),
            query=host.query(),
            pool=host.get_worker_pool(),
            diagnostics=host.get_diagnostics(),
            metrics=self._client.vm.metrics(),
        )

    def _everything(self) -> Changed:
        tasks = [task for task in self._client.task.list() if not task.ended]
        return Changed(vms=self._client.vm.list(), gone=[], tasks=tasks, whole=True)

    def _changed(self, updates: list[Update]) -> Changed:
        vms = [update.id for update in updates if update.type == "vm" and not update.removed]
        gone = [update.id for update in updates if update.type == "vm" and update.removed]
        tasks = [update.id for update in updates if update.type == "task" and not update.removed]
        return Changed(vms=self._vms(vms), gone=gone, tasks=self._tasks(tasks))

    def _vms(self, ids: list[str]) -> list[VmRecord]:
        if len(ids) >= MANY:
            wanted = set(ids)
            return [record for record in self._client.vm.list() if record.id in wanted]
        return _each(self._client.vm.stat, ids)

    def _tasks(self, ids: list[str]) -> list[Task]:
        if len(ids) >= MANY:
            wanted = set(ids)
            return [task for task in self._client.task.list() if task.id in wanted]
        return _each(self._client.task.stat, ids)


def _each(ask: Callable[[str], T], ids: list[str]) -> list[T]:
    """What is gone by now is announced next."""
    found = []
    for id in ids:
        with suppress(DoesNotExist):
            found.append(ask(id))
    return found
