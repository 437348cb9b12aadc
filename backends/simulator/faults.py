"""Faults that DEBUG.trigger arms: latency, failures, calls that hang. Gone with the daemon.

A latency or a hang pauses through the executor's own `Call`, which wakes on a cancel and at
the deadline; so `Backend.interrupt` has nothing left to do. A deaf hang waits for `undeaf`
alone, and then carries out its effect, late: what a written-off call may do at its worst.
"""

import threading
from collections import Counter

from backends.interface import Call
from idl.errors import HypervisorError

ANY = "*"


class Faults:
    """What is armed, for each micro-op. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed = False
        self._seconds: dict[str, float] = {}
        self._failing: Counter[str] = Counter()
        self._hanging: Counter[str] = Counter()
        self._deaf: Counter[str] = Counter()
        self._hearing = threading.Event()

    def slow(self, micro_op: str, seconds: float) -> None:
        """Let each such micro-op take this long."""
        with self._lock:
            self._seconds[micro_op] = seconds
            self._armed = True

    def fail(self, micro_op: str, count: int) -> None:
        """Let the next `count` fail."""
        with self._lock:
            self._failing[micro_op] = count
            self._armed = True

    def hang(self, micro_op: str, count: int, *, deaf: bool) -> None:
        """Let the next `count` block: until broken off, or (deaf) until `undeaf`."""
        with self._lock:
            (self._deaf if deaf else self._hanging)[micro_op] = count
            self._armed = True

    def undeaf(self) -> None:
        """Release every deaf call, and arm no more."""
        with self._lock:
            self._deaf.clear()
            self._hearing.set()
            self._hearing = threading.Event()

    def meet(self, call: Call) -> None:
        """Let a call suffer what is armed for it. Raises what the call's `pause` raises, and
        HypervisorError."""
        call.checkpoint()
        if not self._armed:
            return
        name = call.micro_op
        with self._lock:
            seconds = self._seconds.get(name, self._seconds.get(ANY, 0.0))
            deaf = self._hearing if _take(self._deaf, name) else None
            hangs, fails = _take(self._hanging, name), _take(self._failing, name)
        if seconds:
            call.pause(seconds)
        if deaf is not None:
            deaf.wait()
        if hangs:
            call.pause(None)
            raise HypervisorError(call=name, reason="it hung and was interrupted")
        if fails:
            raise HypervisorError(call=name, reason="made to fail by DEBUG.trigger")


def _take(armed: Counter[str], name: str) -> bool:
    for key in (name, ANY):
        if armed[key] > 0:
            armed[key] -= 1
            return True
    return False
