"""What a service manager is told while the daemon lives: that it is ready, what it does, whether
a reload was taken, and that it lives. Nothing is decided here, and nothing waits for an answer.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from xenopsd.notify import Notifier
from xenopsd.watchdog import Watchdog, Watched

#: Seconds for which a status may be out of date.
PERIOD = 1.0


@dataclass(slots=True)
class Reload:
    """What came of one; `note` is what an administrator should know of it."""

    note: str


class Supervision:
    """The daemon's side of sd_notify. On the event loop alone. `doing` says what goes on;
    `patience` is that of the manager's watchdog in seconds (None: it does not watch).
    """

    def __init__(
        self,
        notifier: Notifier,
        doing: Callable[[], str],
        watched: Sequence[Watched] = (),
        patience: float | None = None,
    ) -> None:
        self._notifier = notifier
        self._doing = doing
        self._watchdog = None if patience is None else Watchdog(notifier, watched)
        # A late answer or two must not cost a life.
        self._period = PERIOD if patience is None else min(PERIOD, patience / 4)
        self._note = ""
        self._told = ""

    def ready(self) -> None:
        """The sockets answer."""
        self._told = self._status()
        self._notifier.tell("READY=1", self._told)

    @contextmanager
    def reloading(self) -> Iterator[Reload]:
        """A reload goes on. However it ends, the service is ready again."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notifier.tell("RELOADING=1", f"MONOTONIC_USEC={now}")
        reload = Reload("the reload has failed; see the log")
        try:
            yield reload
        finally:
            self._note = reload.note
            self.ready()

    def stopping(self) -> None:
        """No new work is taken."""
        self._notifier.tell("STOPPING=1", "STATUS=stopping")

    async def run(self) -> None:
        """Keep the status true and the watchdog quiet, until cancelled; nothing to do where
        nobody hears it."""
        while self._notifier.heard:
            self.tick()
            await asyncio.sleep(self._period)

    def tick(self) -> None:
        """Tell that we live, and the status where it is another than the last one told."""
        if self._watchdog is not None:
            self._watchdog.tick()
        if (status := self._status()) != self._told:
            self._told = status
            self._notifier.tell(status)

    def _status(self) -> str:
        # One line: a reason may have several.
        return " ".join(f"STATUS={self._doing()}{'; ' if self._note else ''}{self._note}".split())
