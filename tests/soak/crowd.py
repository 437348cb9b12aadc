"""Clients that do random things to VMs, with a memory of what they did."""

import threading
import time
from collections import Counter, deque
from random import Random

from rigs.daemon import DaemonProcess
from soak.actions import STEPS

from idl.client import Client, ConnectionFailed
from idl.errors import InternalError, MetadataCorrupt, XenopsError
from idl.task import Failed

#: What no operation may ever end with.
BROKEN = (InternalError.__name__, MetadataCorrupt.__name__)


class History:
    """The newest things that were done to each VM, and to the daemon (VM "")."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._lines: dict[str, deque[str]] = {}
        self.operations = 0
        self.answers: Counter[str] = Counter()
        #: Steps by name: all, and those that went well.
        self.steps: Counter[str] = Counter()
        self.well: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.broken: list[str] = []
        #: VMs that were forgotten, and may have left a suspend image.
        self.forgotten: set[str] = set()

    def note(self, vm: str, what: str, answer: str = "") -> None:
        line = f"{time.monotonic() - self._began:9.3f} s  {what}  {answer}"
        with self._lock:
            self._lines.setdefault(vm, deque(maxlen=60)).append(line)
            if not vm:
                self.events[what.partition(" ")[0]] += 1
                return
            self.operations += 1
            self.answers[answer] += 1
            self.steps[what] += 1
            self.well[what] += answer == "ok"
            if what.startswith("forget"):
                self.forgotten.add(vm)
            if answer in BROKEN:
                self.broken.append(f"{vm}: {line}")

    def of(self, vm: str) -> list[str]:
        """What was done to a VM or to the daemon, oldest first."""
        with self._lock:
            lines = dict.fromkeys([*self._lines.get(vm, ()), *self._lines.get("", ())])
        return sorted(lines, key=lambda line: float(line.split()[0]))


def once(client: Client, vm: str, dice: Random, history: History) -> None:
    """One random step, and its end where that comes soon."""
    names = list(STEPS)
    name = dice.choices(names, [STEPS[n][0] for n in names])[0]
    answer = "ok"
    try:
        task = STEPS[name][1](client, vm, dice)
        if task is not None:
            found = client.task.wait(task, timeout=dice.random()).state
            answer = found.error.data["error"] if isinstance(found, Failed) else "ok"
    except (XenopsError, ConnectionFailed) as error:
        answer = type(error).__name__
    history.note(vm, name, answer)


class Crowd:
    """So many clients at once, each with dice of its own, until it is told to stop."""

    def __init__(
        self, daemon: DaemonProcess, vms: list[str], dice: Random, history: History, size: int = 4
    ) -> None:
        self._vms, self._history = vms, history
        self._stopped = threading.Event()
        self.failure: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._run, args=(daemon, Random(dice.random())))
            for _ in range(size)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, daemon: DaemonProcess, dice: Random) -> None:
        try:
            with Client(daemon.socket, 60.0, reconnect=60.0) as client:
                while not self._stopped.is_set():
                    once(client, dice.choice(self._vms), dice, self._history)
        except BaseException as error:  # noqa: BLE001  # it is raised by stop
            self.failure = error

    def stop(self) -> None:
        """Wait until all have done their last step; raises what went wrong in one."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(120)
        if self.failure is not None:
            raise self.failure
