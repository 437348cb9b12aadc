"""What a follower of updates knows: the objects it was told of, and their records.

Pure: a client does the asking. An update says "look at this object again"; after a restart of
the daemon, or after too long an absence, it answers a resync, in which an object that is not
named is gone. Whoever follows through here is told of that as of any other removal.
"""

from collections.abc import Iterable
from typing import Any, TypeAlias

from idl.calls import Call, PciStat, VbdStat, VifStat, VmStat
from idl.pci import PciRecord
from idl.update import ObjectType, Update, UpdateBatch
from idl.vbd import VbdRecord
from idl.vif import VifRecord
from idl.vm import VmRecord

Name: TypeAlias = tuple[ObjectType, str]

#: So many ended tasks does the daemon keep; that an older one is dropped is never announced.
TASKS = 10_000


class Told:
    """The objects that a follower was told of and that were not told removed since."""

    def __init__(self, names: Iterable[Name] = ()) -> None:
        self._names = dict.fromkeys(names)
        self._tasks: dict[Name, None] = {}

    def take(self, batch: UpdateBatch) -> list[Update]:
        """What to tell of a batch: after a resync also everything that is gone, and first."""
        named = {(update.type, update.id) for update in batch.updates}
        known = [*self._names, *self._tasks] if batch.resync else []
        gone = [Update(type=t, id=id, removed=True) for t, id in known if (t, id) not in named]
        updates = [*gone, *batch.updates]
        for update in updates:
            self._note(update)
        return updates

    def _note(self, update: Update) -> None:
        name: Name = (update.type, update.id)
        names = self._tasks if update.type == "task" else self._names
        names.pop(name, None)
        if not update.removed:
            names[name] = None
        if len(self._tasks) > TASKS:
            del self._tasks[next(iter(self._tasks))]


class View:
    """Every VM, VBD, VIF and PCI device as last looked at; `client.updates.follow(view=…)` keeps
    it true, over restarts of the daemon too.

    One follower writes it, any thread may read it. `token` is how far it is true; to follow
    again with the same view goes on from there.
    """

    def __init__(self) -> None:
        self.token: str | None = None
        self._records: dict[ObjectType, dict[str, Any]] = {
            "vm": {},
            "vbd": {},
            "vif": {},
            "pci": {},
        }

    @property
    def vms(self) -> dict[str, VmRecord]:
        """The VMs by id; a copy, to iterate over while the view goes on."""
        return self._records["vm"].copy()

    @property
    def vbds(self) -> dict[str, VbdRecord]:
        """The VBDs by id; a copy."""
        return self._records["vbd"].copy()

    @property
    def vifs(self) -> dict[str, VifRecord]:
        """The VIFs by id; a copy."""
        return self._records["vif"].copy()

    @property
    def pcis(self) -> dict[str, PciRecord]:
        """The PCI devices by id; a copy."""
        return self._records["pci"].copy()

    def names(self) -> list[Name]:
        """Every object that it has a record of."""
        return [(type, id) for type, records in self._records.items() for id in records]

    def put(self, update: Update, record: object | None) -> Update:
        """Note what an object was found to be, None for gone; the update as it is told."""
        records = self._records.get(update.type)
        if records is None:
            return update
        if record is None:
            records.pop(update.id, None)
            return Update(type=update.type, id=update.id, removed=True)
        records[update.id] = record
        return update


def look(update: Update) -> Call[Any] | None:
    """The call that answers an object's record; None for what no view keeps, or is gone."""
    if update.removed:
        return None
    match update.type:
        case "vm":
            return VmStat(id=update.id)
        case "vbd":
            return VbdStat(id=update.id)
        case "vif":
            return VifStat(id=update.id)
        case "pci":
            return PciStat(id=update.id)
        case "task" | "host":
            return None
