"""UPDATES: "look at this object again", never what to do."""

from typing import Literal, TypeAlias

from idl.wire import Fact

ObjectType: TypeAlias = Literal["vm", "vbd", "vif", "pci", "task", "host"]
#: The one object of type host.
HOST_ID = "host"


class Update(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """An object to look at; `removed` where it is gone."""

    #: what kind of object
    type: ObjectType
    #: which one
    id: str
    #: it is gone
    removed: bool = False


class Barrier(Fact, frozen=True, kw_only=True):
    """A barrier that was injected, with the updates of its VM that were pending then."""

    #: the number that the client chose
    id: int
    #: of its VM and devices, pending when it was injected
    updates: list[Update]


class UpdateBatch(Fact, frozen=True, kw_only=True):
    """What UPDATES.get answers. With `resync`, drop what is not named."""

    #: objects to look at again
    updates: list[Update]
    #: those passed, in order of injection
    barriers: list[Barrier]
    #: token for the next call
    next: str
    #: everything that exists is named: drop what is not
    resync: bool
