"""What changed since a token: the newest change of every object, in order, and barriers.

Every change takes the next number. An object is kept once, at its latest number, so what is
remembered is bounded by the objects that exist, plus the newest removals. A token names the
number up to which its owner has been told; answering it costs as much as there is to tell, and
nothing for what its owner knows already.

This module thinks: it takes no lock, waits for nobody and reads no clock. `xenopsd.updates`
does. It never says what changed, only that an object is to be looked at again.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from idl.errors import TooManyRequests
from idl.ids import vm_of
from idl.update import Barrier, ObjectType, Update, UpdateBatch

Key: TypeAlias = tuple[ObjectType, str]

DIGITS = 19  # of a number in a token: more than will ever be counted to


class Whole(Enum):
    """Positions that are answered with everything that exists.

    `BEGINNING` knows nothing yet. `LOST` may believe in what is gone, so it is always answered,
    at once and with a resync.
    """

    BEGINNING = "beginning"
    LOST = "lost"


#: How far a client has been told: up to a number, or not in any way that can be continued.
Position: TypeAlias = int | Whole


@dataclass(frozen=True, slots=True)
class _Barrier:
    """`versions` are those of the VM and its devices when `number` was taken, in order."""

    id: int
    number: int
    versions: tuple[tuple[int, Key], ...]


class UpdateLog:
    """The changes of one life of the daemon, whose `epoch` no other life has.

    `tombstones` removals are remembered; who has not heard of an older one gets a resync.
    """

    def __init__(self, epoch: str, *, tombstones: int = 10_000, barriers: int = 10_000) -> None:
        self._epoch = epoch
        self._limit = tombstones
        self._barrier_limit = barriers
        self._number = 0
        self._forgotten = 0  # the highest number of a removal that is remembered no more
        # All three are in the order of their numbers.
        self._live: OrderedDict[Key, int] = OrderedDict()
        self._removed: OrderedDict[Key, int] = OrderedDict()
        self._barriers: OrderedDict[int, _Barrier] = OrderedDict()
        # A VM and its devices, those removed included, as far as they are remembered.
        self._members: dict[str, set[Key]] = {}

    # What happens

    def touch(self, type: ObjectType, id: str) -> None:
        """The object changed, or appeared, or came back."""
        key = (type, id)
        if key not in self._live:
            self._removed.pop(key, None)
            self._remember(key)
        self._live[key] = self._next()
        self._live.move_to_end(key)

    def remove(self, type: ObjectType, id: str) -> None:
        """The object is gone; that is announced, even where nobody ever heard of it."""
        key = (type, id)
        if self._live.pop(key, None) is None:
            self._remember(key)
        self._removed[key] = self._next()
        self._removed.move_to_end(key)
        if len(self._removed) > self._limit:
            oldest, self._forgotten = self._removed.popitem(last=False)
            self._drop(oldest)

    def forget(self, type: ObjectType, id: str) -> None:
        """The object ages out, unannounced; who has heard of it may go on believing in it."""
        key = (type, id)
        if self._live.pop(key, None) is not None:
            self._drop(key)

    def refresh(self, vm: str) -> None:
        """The VM and its devices are to be looked at again, in the order of their changes."""
        present = sorted((self._live[key], key) for key in self._of(vm) if key in self._live)
        for _, key in present:
            self.touch(*key)

    # Barriers

    def inject_barrier(self, id: int, vm: str) -> None:
        """Mark this point of the log, with what `vm` and its devices are pending at it.

        Replaces an earlier barrier of that id. Raises TooManyRequests.
        """
        if id not in self._barriers and len(self._barriers) >= self._barrier_limit:
            raise TooManyRequests(limit=self._barrier_limit, queued=len(self._barriers))
        versions = sorted((self._version(key), key) for key in self._of(vm))
        self._barriers.pop(id, None)
        self._barriers[id] = _Barrier(id, self._next(), tuple(versions))

    def remove_barrier(self, id: int) -> None:
        """Raises KeyError where there is no such barrier."""
        del self._barriers[id]

    # What is told

    @property
    def number(self) -> int:
        """How many changes and barriers there have been; it only grows."""
        return self._number

    @property
    def last(self) -> str:
        """The token of now."""
        return self.token(self._number)

    def token(self, number: int) -> str:
        """The token of who has been told everything up to `number`."""
        return f"{self._epoch}.{number}"

    def parse(self, since: str | None) -> Position:
        """Where a client stands: `LOST` for every token that this log has not handed out."""
        if since is None:
            return Whole.BEGINNING
        digits = since.rpartition(".")[2]
        if not (digits.isascii() and digits.isdigit() and len(digits) <= DIGITS):
            return Whole.LOST
        number = int(digits)
        return number if number <= self._number and since == self.token(number) else Whole.LOST

    def get(self, since: str | None) -> UpdateBatch | None:
        """What there is to tell to the owner of a token; None while there is nothing."""
        return self.answer(self.parse(since))

    def answer(self, position: Position) -> UpdateBatch | None:
        """As `get`, for a position."""
        if isinstance(position, int) and position < self._forgotten:
            position = Whole.LOST
        if isinstance(position, int):
            updates, told = self._changed_since(position), position
        else:
            updates, told = [_update(key) for key in self._live], 0
        barriers = [self._barrier(one, told) for one in self._barriers_since(told)]
        if not updates and not barriers and position is not Whole.LOST:
            return None
        resync = position is Whole.LOST
        # Nothing up to now has been left out, so `next` need not be the last number told.
        return UpdateBatch(updates=updates, barriers=barriers, next=self.last, resync=resync)

    def stats(self) -> dict[str, int]:
        """How much is remembered, for diagnostics."""
        return {
            "objects": len(self._live),
            "tombstones": len(self._removed),
            "barriers": len(self._barriers),
            "number": self._number,
        }

    # Inside

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _version(self, key: Key) -> int:
        found = self._live.get(key)
        return self._removed[key] if found is None else found

    def _of(self, vm: str) -> set[Key]:
        return self._members.get(vm, set())

    def _remember(self, key: Key) -> None:
        vm = _vm(key)
        if vm is not None:
            self._members.setdefault(vm, set()).add(key)

    def _drop(self, key: Key) -> None:
        vm = _vm(key)
        if vm is not None:
            self._members[vm].discard(key)
            if not self._members[vm]:
                del self._members[vm]

    def _changed_since(self, number: int) -> list[Update]:
        changes = [(version, key, False) for version, key in _newer(self._live, number)]
        changes += [(version, key, True) for version, key in _newer(self._removed, number)]
        changes.sort()
        return [_update(key, removed=gone) for _, key, gone in changes]

    def _barriers_since(self, number: int) -> list[_Barrier]:
        found = []
        for barrier in reversed(self._barriers.values()):
            if barrier.number <= number:
                break
            found.append(barrier)
        found.reverse()
        return found

    def _barrier(self, barrier: _Barrier, told: int) -> Barrier:
        # `removed` is what holds now: whoever is told everything that exists hears nowhere else
        # of a removal after the injection.
        pending = [
            _update(key, removed=key not in self._live)
            for version, key in barrier.versions
            if version > told
        ]
        return Barrier(id=barrier.id, updates=pending)


def _newer(versions: OrderedDict[Key, int], number: int) -> Iterator[tuple[int, Key]]:
    for key, version in reversed(versions.items()):
        if version <= number:
            return
        yield version, key


def _update(key: Key, *, removed: bool = False) -> Update:
    return Update(type=key[0], id=key[1], removed=removed)


def _vm(key: Key) -> str | None:
    """The VM whose barriers an object belongs to; tasks and the host belong to none."""
    match key[0]:
        case "vm":
            return key[1]
        case "vbd" | "vif" | "pci":
            return vm_of(key[1])
        case "task" | "host":
            return None
