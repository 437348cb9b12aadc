"""The host's memory: reserved before a domain is made, squeezed out of others where it must.

Reservations are derived, never stored: from the domains that were found and the creations under
way. `squeeze` and `stretch` are pure; `Memory` adds the one lock.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from idl.errors import NotEnoughMemory


@dataclass(frozen=True, slots=True)
class Balloon:
    """What a running VM has and the range it may be moved in, in bytes."""

    target: int
    minimum: int
    maximum: int


def squeeze(shortage: int, balloons: Mapping[str, Balloon]) -> dict[str, int] | None:
    """New targets that free `shortage` bytes, each VM giving in proportion to what it can.

    None when all of them together cannot.
    """
    room = {vm: b.target - b.minimum for vm, b in balloons.items() if b.target > b.minimum}
    total = sum(room.values())
    if total < shortage:
        return None
    targets: dict[str, int] = {}
    left = shortage
    for vm, most in sorted(room.items()):
        if left <= 0:
            break
        share = min(most, left, -(-shortage * most // total))
        targets[vm] = balloons[vm].target - share
        left -= share
    return targets


def stretch(free: int, balloons: Mapping[str, Balloon]) -> dict[str, int]:
    """New targets that give `free` bytes back to VMs below their maximum, in proportion."""
    wish = {vm: b.maximum - b.target for vm, b in balloons.items() if b.target < b.maximum}
    total = sum(wish.values())
    given = min(free, total)
    if given <= 0:
        return {}
    return {
        vm: balloons[vm].target + share
        for vm, most in sorted(wish.items())
        if (share := most * given // total) > 0
    }


class Memory:
    """What is reserved of the host's memory, by VM."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._usable = 0
        self._reserved: dict[str, int] = {}
        self._sum = 0

    def set_total(self, total: int, *, host_reserve: int, overcommit: float) -> None:
        """How much there is: the host's, less what it keeps, times the overcommitment."""
        self._usable = max(0, int((total - host_reserve) * overcommit))

    def reserve(self, vm: str, minimum: int, maximum: int) -> int | None:
        """Reserve as much as there is of the range; None where even the minimum does not fit.

        Of a VM that has a reservation it says how much that is.
        """
        with self._lock:
            if vm in self._reserved:
                return self._reserved[vm]
            free = self._usable - self._sum
            if free < minimum:
                return None
            granted = min(free, maximum)
            self._set(vm, granted)
            return granted

    def grow(self, vm: str, amount: int) -> None:
        """Reserve more for a VM that has a reservation, before its balloon is let out.

        Nothing where it has as much. Raises NotEnoughMemory.
        """
        with self._lock:
            more = amount - self._reserved.get(vm, 0)
            free = max(0, self._usable - self._sum)
            if more > free:
                raise NotEnoughMemory(needed=more, free=free)
            if more > 0:
                self._set(vm, amount)

    def set(self, vm: str, amount: int) -> None:
        """What a VM was found to have, or was ballooned to."""
        with self._lock:
            self._set(vm, amount)

    def follow(self, vm: str, was: int, now: int) -> None:
        """What a VM was found to have has become another amount by itself.

        Nothing where it is not `was` that is reserved: then somebody sets its balloon.
        """
        with self._lock:
            if self._reserved.get(vm) == was:
                self._set(vm, now)

    def release(self, vm: str) -> None:
        """Its domain is gone."""
        with self._lock:
            self._sum -= self._reserved.pop(vm, 0)

    @property
    def free(self) -> int:
        """Bytes that can be reserved."""
        return max(0, self._usable - self._sum)

    def _set(self, vm: str, amount: int) -> None:
        self._sum += amount - self._reserved.get(vm, 0)
        self._reserved[vm] = amount
