"""The watchdog of the service manager, which restarts a daemon that no longer tells it anything.

It is told so by the event loop alone, and only while the threads that everything else depends on
answer, too. Workers are not among them: their calls may hang, and the pool's supervisor sees to
that.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import structlog

from xenopsd.notify import Notifier
from xenopsd.pulse import Pulse

log = structlog.get_logger(__name__)

#: After so many ticks without an answer it is logged who is silent.
SILENCE = 5


class Watched(Protocol):
    """Something with a thread of its own."""

    pulse: Pulse

    def recheck(self) -> None:
        """Have the thread look round, and answer."""


def patience(environ: Mapping[str, str], pid: int) -> float | None:
    """Seconds after which the manager restarts us; None where it does not watch."""
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None  # another process is watched
    given = environ.get("WATCHDOG_USEC", "")
    return int(given) / 1e6 if given.isdecimal() and int(given) else None


class Watchdog:
    """Tells the manager that we live, at every tick at which that is known."""

    def __init__(self, notifier: Notifier, watched: Sequence[Watched]) -> None:
        self._notifier = notifier
        self._watched = watched
        self._silent_for = 0

    def tick(self) -> None:
        """On the event loop. Tell it if all have answered, and ask them again."""
        silent = [one.pulse.name for one in self._watched if not one.pulse.answered]
        self._silent_for = self._silent_for + 1 if silent else 0
        if self._silent_for == SILENCE:
            log.error("threads_silent", threads=silent)
        if silent:
            return
        self._notifier.tell("WATCHDOG=1")
        for one in self._watched:
            one.pulse.ask()
            one.recheck()
