"""Threads of one kind, and what one of them holds: the pool's bookkeeping, kept under its lock.

Takes no lock and starts no thread itself.
"""

import threading
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import Generic, TypeVar

from xenopsd.queues import Lease

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Crew:
    """Threads of one kind. Those that wait for the bell are `sleeping` until it rings for them."""

    name: str
    bell: threading.Condition
    size: int
    urgent_only: bool
    hired: int = 0  # threads at work or idle; never those replaced
    sleeping: int = 0
    waking: int = 0  # rung for, and not yet back under the lock
    numbers: "count[int]" = field(default_factory=lambda: count(1))

    @property
    def idle(self) -> int:
        return self.sleeping + self.waking


@dataclass(slots=True, eq=False)
class Holder(Generic[T]):
    """One step in progress: who takes it, and until when its present call may take."""

    lease: Lease[T]
    crew: Crew
    thread: str
    deadline: float | None = None
    overdue_since: float | None = None
    replaced: bool = False  # it counts for nobody: its crew may hire another
    written_off: bool = False
    reported: threading.Event | None = None  # set once on_written_off has been told

    def due(self, grace: float) -> float:
        """When the supervisor has to look at this one next."""
        if self.deadline is None or self.written_off:
            return inf
        return self.deadline if self.overdue_since is None else self.overdue_since + grace

    def replace(self) -> None:
        """Its call is overdue: who knows when it comes back. Others need not wait to see."""
        if not self.replaced:
            self.replaced = True
            self.crew.hired -= 1

    def back(self) -> None:
        """It is there again; the crew may be one too many for a moment."""
        if self.replaced:
            self.replaced = False
            self.crew.hired += 1
