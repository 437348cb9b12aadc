"""Per-key queues of work, of which at most one lease a key is out at any moment.

Every queue (one a VM, one for the host's memory) is a FIFO of opaque items. Keys that have
something to be done stand in a ready list and are leased in the order in which they became ready;
a key whose lease is given back with more to do goes to the end of that list, so a busy VM starves
nobody. Waiting costs no lease: the key is parked until an event or its deadline wakes it.

This module thinks: it takes no lock, starts no thread, reads no clock and calls nobody.
`xenopsd.workers` puts the one lock and the threads around it.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T")

STALE_ALLOWED = 64  # heap entries that may be void before it is worth sweeping them out


class QueueFull(Exception):
    """No room: `limit` items may wait (on this key, or in all), and `queued` do."""

    def __init__(self, limit: int, queued: int) -> None:
        super().__init__(f"{queued} operations are queued and {limit} may be")
        self.limit = limit
        self.queued = queued


class State(StrEnum):
    """What a key is doing. Only a ready key can be leased."""

    READY = "ready"
    LEASED = "leased"
    PARKED = "parked"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True)
class Again:
    """More to do for this item: to the end of the ready list."""


@dataclass(frozen=True, slots=True)
class Parked:
    """The item waits for an event, at most until `deadline` (None: for ever), without a worker."""

    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The item is done with and leaves its queue."""


Outcome = Again | Parked | Ended


@dataclass(frozen=True, slots=True)
class Lease(Generic[T]):
    """The right to act for `key`, held by one worker; `generation` is never used twice."""

    key: str
    item: T
    generation: int
    since: float


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[T]):
    """One key as it is now, for diagnostics.

    `begun` tells whether the head, the first of `items`, has ever been leased. `generation` is
    that of its last lease and `since` when it was last leased or given back (None: never).
    """

    key: str
    state: State
    begun: bool
    generation: int | None
    since: float | None
    deadline: float | None
    items: tuple[T, ...]


@dataclass(slots=True)
class _Entry(Generic[T]):
    item: T
    limited: bool
    urgent: bool
    coalesce: Hashable | None


@dataclass(slots=True, eq=False)
class _Line(Generic[T]):
    key: str
    entries: deque[_Entry[T]] = field(default_factory=deque)
    state: State = State.READY
    begun: bool = False  # the head has been leased at least once
    woken: bool = False  # a wake came while the key was leased
    generation: int | None = None
    since: float | None = None
    deadline: float | None = None
    limited: int = 0  # of those not begun, how many count against admission
    urgent: int = 0  # of all, the head included
    coalesced: set[Hashable] = field(default_factory=set)  # of those not begun


class Queues(Generic[T]):
    """FIFO queues by key, at most one lease a key. Not thread-safe: see `xenopsd.workers`.

    `per_key` and `total` bound the limited items that wait, not begun, on one key and in all.
    """

    def __init__(self, *, per_key: int = 256, total: int = 100_000) -> None:
        self._per_key = per_key
        self._most = total
        self._lines: dict[str, _Line[T]] = {}
        # Ordered sets: taking the first and taking out any one are both O(1).
        self._ready: OrderedDict[str, _Line[T]] = OrderedDict()
        self._urgent: OrderedDict[str, _Line[T]] = OrderedDict()  # those of _ready that are urgent
        self._deadlines: list[tuple[float, int, _Line[T]]] = []
        self._generation = 0
        self._total = 0
        self._waiting = 0
        self._limited = 0
        self._leased = 0
        self._parked = 0

    def push(
        self,
        key: str,
        item: T,
        *,
        limited: bool = True,
        coalesce: Hashable | None = None,
        urgent: bool = False,
    ) -> bool:
        """Append `item`; False if it was dropped for one that waits with the same `coalesce`.

        An urgent item makes its key urgent for as long as it is on the queue, head or not.
        Raises QueueFull for a limited item that there is no room for.
        """
        line = self._lines.get(key)
        if line is not None and coalesce is not None and coalesce in line.coalesced:
            return False
        if limited:
            self._admit(line)
        if line is None:
            line = self._lines[key] = _Line(key)
            self._ready[key] = line
        self._append(line, _Entry(item, limited, urgent, coalesce))
        return True

    def lease(self, now: float, *, urgent_only: bool = False) -> Lease[T] | None:
        """Lease the key that has been ready longest, None if there is none.

        With `urgent_only` the longest ready of the urgent keys, past all others. The item stays
        at the head of its queue, begun, until a release says Ended.
        """
        ready = self._urgent if urgent_only else self._ready
        if not ready:
            return None
        line = next(iter(ready.values()))
        self._unready(line)
        self._begin(line)
        self._generation += 1
        self._leased += 1
        line.state = State.LEASED
        line.generation = self._generation
        line.since = now
        return Lease(line.key, line.entries[0].item, self._generation, now)

    def release(self, lease: Lease[T], outcome: Outcome, now: float) -> bool:
        """Give a lease back; False, and nothing changes, if it is void or given back already."""
        line = self._held(lease)
        if line is None:
            return False
        self._leased -= 1
        line.since = now
        match outcome:
            case Again():
                self._make_ready(line)
            case Parked(deadline):
                self._park(line, lease.generation, deadline)
            case Ended():
                self._end(line)
        return True

    def wake(self, key: str) -> bool:
        """Make a parked key ready; True if it was parked.

        A wake of a leased key is remembered until its head is parked, and then wakes it at once,
        or ends: what the holder is about to wait for may be just what has happened.
        """
        line = self._lines.get(key)
        if line is None:
            return False
        if line.state is State.LEASED:
            line.woken = True
        if line.state is not State.PARKED:
            return False
        self._unpark(line)
        return True

    def next_deadline(self) -> float | None:
        """The earliest deadline of a parked key."""
        while self._deadlines and not self._waits(self._deadlines[0]):
            heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def expire(self, now: float) -> list[str]:
        """Wake the parked keys whose deadline is not after `now`, earliest first."""
        expired = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            line = heappop(self._deadlines)[2]
            self._unpark(line)
            expired.append(line.key)
        return expired

    def withdraw(self, key: str, match: Callable[[T], bool]) -> list[T]:
        """Take out and return, in order, the items on `key` that have not begun and match."""
        line = self._lines.get(key)
        if line is None:
            return []
        first = 1 if line.begun else 0
        gone = [e for e in list(line.entries)[first:] if match(e.item)]
        if not gone:
            return []
        leaving = {id(entry) for entry in gone}
        line.entries = deque(e for e in line.entries if id(e) not in leaving)
        for entry in gone:
            self._await_no_more(line, entry)
            self._leave(line, entry)
        self._drop_if_empty(line)
        return [entry.item for entry in gone]

    def revoke(self, lease: Lease[T]) -> bool:
        """Write the holder off: the lease is void and its key blocked until `unblock`.

        The holder's call may still act, so nothing else may be leased from the key before.
        False if the lease is not out any more.
        """
        line = self._held(lease)
        if line is None:
            return False
        self._leased -= 1
        line.state = State.BLOCKED
        return True

    def unblock(self, key: str) -> bool:
        """Make a blocked key ready, its begun head first; False if it was not blocked."""
        line = self._lines.get(key)
        if line is None or line.state is not State.BLOCKED:
            return False
        self._make_ready(line)
        return True

    @property
    def total(self) -> int:
        """Items on all queues, begun or not."""
        return self._total

    @property
    def waiting(self) -> int:
        """Items on all queues that have not begun."""
        return self._waiting

    @property
    def ready(self) -> int:
        """Keys that can be leased."""
        return len(self._ready)

    @property
    def ready_urgent(self) -> int:
        """Keys that can be leased with `urgent_only`."""
        return len(self._urgent)

    @property
    def leased(self) -> int:
        """Leases that are out and not revoked."""
        return self._leased

    @property
    def parked(self) -> int:
        """Keys that wait for an event or a deadline."""
        return self._parked

    def depth(self, key: str) -> int:
        """Items on `key`, a begun head included."""
        line = self._lines.get(key)
        return 0 if line is None else len(line.entries)

    def head(self, key: str) -> T | None:
        """The first item on `key`, begun or not."""
        line = self._lines.get(key)
        return None if line is None else line.entries[0].item

    def snapshot(self, key: str) -> Snapshot[T] | None:
        """What `key` is doing; None for an empty queue."""
        line = self._lines.get(key)
        return None if line is None else _snapshot(line)

    def __iter__(self) -> Iterator[Snapshot[T]]:
        """Each key that has items, in the order of its first one."""
        return map(_snapshot, self._lines.values())

    def __len__(self) -> int:
        """Keys that have items."""
        return len(self._lines)

    def _admit(self, line: _Line[T] | None) -> None:
        if line is not None and line.limited >= self._per_key:
            raise QueueFull(self._per_key, line.limited)
        if self._limited >= self._most:
            raise QueueFull(self._most, self._limited)

    def _append(self, line: _Line[T], entry: _Entry[T]) -> None:
        line.entries.append(entry)
        self._total += 1
        self._waiting += 1
        if entry.limited:
            line.limited += 1
            self._limited += 1
        if entry.coalesce is not None:
            line.coalesced.add(entry.coalesce)
        if entry.urgent:
            line.urgent += 1
            if line.state is State.READY:
                self._urgent[line.key] = line

    def _begin(self, line: _Line[T]) -> None:
        if not line.begun:
            line.begun = True
            self._await_no_more(line, line.entries[0])

    def _await_no_more(self, line: _Line[T], entry: _Entry[T]) -> None:
        self._waiting -= 1
        if entry.limited:
            line.limited -= 1
            self._limited -= 1
        if entry.coalesce is not None:
            line.coalesced.discard(entry.coalesce)

    def _leave(self, line: _Line[T], entry: _Entry[T]) -> None:
        self._total -= 1
        if entry.urgent:
            line.urgent -= 1
            if not line.urgent:
                self._urgent.pop(line.key, None)

    def _drop_if_empty(self, line: _Line[T]) -> None:
        if not line.entries:
            del self._lines[line.key]
            self._unready(line)

    def _make_ready(self, line: _Line[T]) -> None:
        line.state = State.READY
        self._ready[line.key] = line
        if line.urgent:
            self._urgent[line.key] = line

    def _unready(self, line: _Line[T]) -> None:
        self._ready.pop(line.key, None)
        self._urgent.pop(line.key, None)

    def _held(self, lease: Lease[T]) -> _Line[T] | None:
        line = self._lines.get(lease.key)
        if line is None or line.state is not State.LEASED:
            return None
        return line if line.generation == lease.generation else None

    def _park(self, line: _Line[T], generation: int, deadline: float | None) -> None:
        if line.woken:
            line.woken = False
            self._make_ready(line)
            return
        line.state = State.PARKED
        line.deadline = deadline
        self._parked += 1
        if deadline is not None:
            self._sweep()
            heappush(self._deadlines, (deadline, generation, line))

    def _unpark(self, line: _Line[T]) -> None:
        self._parked -= 1
        line.deadline = None
        self._make_ready(line)

    def _end(self, line: _Line[T]) -> None:
        self._leave(line, line.entries.popleft())
        line.begun = line.woken = False
        line.generation = line.since = None
        if line.entries:
            self._make_ready(line)
        else:
            del self._lines[line.key]

    @staticmethod
    def _waits(entry: tuple[float, int, _Line[T]]) -> bool:
        """Whether this parking is still the present one: a generation is parked at most once."""
        _, generation, line = entry
        return line.state is State.PARKED and line.generation == generation

    def _sweep(self) -> None:
        """Keep the heap in proportion to what is parked, though wakes leave void entries in it."""
        if len(self._deadlines) > 2 * self._parked + STALE_ALLOWED:
            self._deadlines = [entry for entry in self._deadlines if self._waits(entry)]
            heapify(self._deadlines)


def _snapshot(line: _Line[T]) -> Snapshot[T]:
    return Snapshot(
        key=line.key,
        state=line.state,
        begun=line.begun,
        generation=line.generation,
        since=line.since,
        deadline=line.deadline,
        items=tuple(entry.item for entry in line.entries),
    )
