"""UPDATES: "look at this object again", never what to do."""

from typing import Literal, TypeAlias

from idl.wire import Fact

ObjectType: TypeAlias = Literal["vm", "vbd", "vif", "pci", "task", "host"]
#: The one object of type host.
HOST_ID = "host"


class Update(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """An object to look at; `removed` where it is gone."""

    type: ObjectType
    id: str
    removed: bool = False


class Barrier(Fact, frozen=True, kw_only=True):
    """A barrier that was injected, with the updates of its VM that were pending then."""

    id: int
    updates: list[Update]


class UpdateBatch(Fact, frozen=True, kw_only=True):
    """What UPDATES.get answers. With `resync`, drop what is not named."""

    updates: list[Update]
    barriers: list[Barrier]
    next: str
    resync: bool
