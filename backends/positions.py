"""Positions of devices in a domain."""

from collections.abc import Mapping

from idl.errors import AlreadyExists
from idl.ids import DeviceId
from idl.vbd import Position


def free(taken: Mapping[Position, DeviceId], wanted: Position | None, *, kind: str) -> Position:
    """Where a new device goes: where it wants to, or on the first free one.

    Raises AlreadyExists, naming what is there."""
    if wanted is None:
        return next(n for n in range(len(taken) + 1) if n not in taken)
    if wanted in taken:
        raise AlreadyExists(kind=kind, id=taken[wanted])
    return wanted
