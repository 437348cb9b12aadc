"""Those who follow the updates, come and go, and must in the end know what the daemon knows.

`Poller` and `Subscriber` keep a view by token by hand, as interface.md tells a client to; `Viewer`
leaves that to `client.updates.follow`. None of them looks at anything that it was not told of.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any, TypeAlias, TypeVar

from rigs.daemon import DaemonProcess
from rigs.lab import plain

from idl.client import Client, ConnectionFailed, Subscription
from idl.errors import XenopsError
from idl.update import UpdateBatch
from idl.view import View, look

#: Kind and id of an object, and its record; of a task only whether it has ended.
Known: TypeAlias = dict[tuple[str, str], Any]
T = TypeVar("T")
KINDS = ("vm", "vbd", "vif", "pci")


def record(found: Any) -> Any:
    """What two who look at an object at different moments must agree on."""
    told = plain(found)
    told.get("state", {}).pop("observed_at", None)
    return told


class Follower:
    """Follows in a thread of its own; `shake` has it go away and come back."""

    def __init__(self, daemon: DaemonProcess, dice: Random) -> None:
        self.client = Client(daemon.socket, 10.0, reconnect=60.0)
        self.dice = dice
        self.failure = ""
        self.returns = 0
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__)
        self._thread.start()

    def known(self) -> Known:
        """What it knows now."""
        raise NotImplementedError

    def shake(self) -> None:
        """Let it lose its connection."""
        self.client.close()

    def stop(self) -> None:
        self.stopped.set()
        self.shake()
        self._thread.join(30)
        self.client.close()

    def _run(self) -> None:
        while not self.stopped.is_set():
            try:
                self._follow()
            except (ConnectionFailed, XenopsError) as error:
                if isinstance(error, XenopsError):
                    self.failure = f"{type(error).__name__}: {error}"
            self.returns += 1
            self.stopped.wait(self.dice.random() / 2)

    def _follow(self) -> None:
        raise NotImplementedError


class Poller(Follower):
    """UPDATES.get with the token of the last answer; a batch counts once it is looked at whole."""

    def __init__(self, daemon: DaemonProcess, dice: Random) -> None:
        self.token: str | None = None
        self.records: Known = {}
        super().__init__(daemon, dice)

    def known(self) -> Known:
        return self.records.copy()

    def _follow(self) -> None:
        self._take(self.client.updates.get(self.token, timeout=1.0))

    def _take(self, batch: UpdateBatch) -> None:
        if batch.resync:
            named = {(update.type, update.id) for update in batch.updates}
            self.records = {name: r for name, r in self.records.items() if name in named}
        for update in batch.updates:
            found = None if update.removed else self._look(update)
            if found is None:
                self.records.pop((update.type, update.id), None)
            else:
                self.records[(update.type, update.id)] = found
        self.token = batch.next

    def _look(self, update: Any) -> Any:
        try:
            if update.type == "task":
                return self.client.task.stat(update.id).ended
            call = look(update)
            return None if call is None else record(self.client.send(call))
        except XenopsError as error:
            if type(error).__name__ == "DoesNotExist":
                return None
            raise


class Subscriber(Poller):
    """The same over UPDATES.subscribe; the connection ends with the daemon."""

    stream: Subscription | None = None

    def shake(self) -> None:
        if self.stream is not None:
            self.stream.close()
        super().shake()

    def _follow(self) -> None:
        with self.client.subscribe(self.token) as self.stream:
            for batch in self.stream:
                self._take(batch)
                if self.stopped.is_set():
                    return


class Viewer(Follower):
    """client.updates.follow with one View, over every restart."""

    def __init__(self, daemon: DaemonProcess, dice: Random) -> None:
        self.view = View()
        super().__init__(daemon, dice)

    def known(self) -> Known:
        shelves = (self.view.vms, self.view.vbds, self.view.vifs, self.view.pcis)
        found = zip(KINDS, shelves, strict=True)
        return {(kind, id): record(r) for kind, shelf in found for id, r in shelf.items()}

    def _follow(self) -> None:
        for _update in self.client.updates.follow(view=self.view):
            if self.stopped.is_set():
                return


#: Those of a run.
CREW: tuple[type[Follower], ...] = (Poller, Viewer, Subscriber) * 2


def truth(client: Client) -> Known:
    """What the daemon answers about everything."""
    found: Known = {("task", task.id): task.ended for task in client.task.list()}
    for vm in client.vm.list():
        found["vm", vm.id] = record(vm)
        for kind, listed in zip(KINDS[1:], (client.vbd, client.vif, client.pci), strict=True):
            found.update({(kind, d.id): record(d) for d in listed.list(vm.id)})
    return found


def differences(follower: Follower, daemon: Known) -> list[str]:
    """What a follower knows otherwise than the daemon answers."""
    known = follower.known()
    kinds = KINDS if isinstance(follower, Viewer) else (*KINDS, "task")
    names = [name for name in sorted(known.keys() | daemon.keys()) if name[0] in kinds]
    who = type(follower).__name__
    return [
        f"{who} knows of {' '.join(name)}: {known.get(name)}\n  and the daemon: {daemon.get(name)}"
        for name in names
        if known.get(name) != daemon.get(name)
    ]


def within(seconds: float, what: Callable[[], list[T]]) -> list[T]:
    """The last answer of `what`: as soon as it is empty, or past the deadline."""
    until = time.monotonic() + seconds
    pause = threading.Event()
    while True:
        with suppress(ConnectionFailed):
            if not (left := what()) or time.monotonic() > until:
                return left
        pause.wait(0.1)
