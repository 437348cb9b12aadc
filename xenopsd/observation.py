"""Looking at VMs, and taking in what was seen: the running record, updates, attention."""

from typing import Any

import structlog
from msgspec.structs import replace

from backends.interface import Domain
from idl.errors import XenopsError
from idl.vm import Attention
from journal.errors import StoreUnwritable
from xenopsd.context import Context
from xenopsd.inventory import Entry
from xenopsd.record import concluded

log = structlog.get_logger(__name__)


class Observation:
    """Used by whoever holds the lease of the VM that is looked at."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def look(self, entry: Entry) -> bool:
        """Observe the VM; False, and attention, when the backend cannot tell."""
        try:
            domain = self.context.performer.backend.host.domain(entry.id)
        except XenopsError as error:
            if entry.attention is None:
                entry.unseen = True
                self.doubt(entry, f"it cannot be observed: {error}")
            return False
        self.observed(entry, domain)
        return True

    def observed(self, entry: Entry, domain: Domain | None) -> None:
        """Take an observation in, and announce what changed."""
        before, entry.domain = entry.domain, domain
        entry.observed_at = self.context.wall()
        if entry.unseen:
            entry.unseen, entry.attention = False, None
        entry.changed()
        if before == domain or (before and domain and _alike(before, domain)):
            return
        if before and domain:
            self.context.memory.follow(entry.id, before.memory_held, domain.memory_held)
        self.context.updates.touch("vm", entry.id)
        old = before or Domain(id="", name="")
        new = domain or Domain(id="", name="")
        for id in old.vbds.keys() ^ new.vbds.keys() | _differing(old.vbds, new.vbds):
            self.context.updates.touch("vbd", id)
        for id in old.vifs.keys() ^ new.vifs.keys() | _differing(old.vifs, new.vifs):
            self.context.updates.touch("vif", id)
        for id in set(old.pcis) ^ set(new.pcis):
            self.context.updates.touch("pci", id)

    def settle(self, entry: Entry, reason: str | None) -> None:
        """Look at the VM, and record it as it is."""
        before = entry.recorded
        entry.rebooting = False
        entry.stuck = False
        entry.attention = None
        if not self.look(entry):
            return
        after = concluded(entry.extra, entry.domain, reason=reason, now=self.context.wall())
        entry.extra = after
        if before is None or after != replace(before, observed_at=after.observed_at):
            self.save(entry)

    def explain(self, entry: Entry, reason: str) -> None:
        """Record why a VM is where it is."""
        entry.extra = replace(entry.extra, reason=reason)
        self.save(entry)

    def save(self, entry: Entry) -> None:
        """Write the running record. That it cannot be written is reported, and no more: the
        world is what recovery believes, and the next operation tries again."""
        entry.changed()
        durable = entry.extra.image is not None
        try:
            self.context.store.write(entry.id, "extra", entry.extra, durable=durable)
        except StoreUnwritable:
            log.exception("running_record_unwritable", vm=entry.id)
        else:
            entry.recorded = entry.extra

    def doubt(self, entry: Entry, reason: str) -> None:
        """Say that a VM needs an administrator."""
        if entry.attention is None or entry.attention.reason != reason:
            entry.attention = Attention(reason=reason, since=self.context.wall())
            log.error("attention", vm=entry.id, reason=reason)
        entry.changed()
        self.context.updates.touch("vm", entry.id)

    def touch(self, entry: Entry) -> None:
        """Announce a VM that still has its record."""
        entry.changed()
        if self.context.inventory.get(entry.id) is entry:
            self.context.updates.touch("vm", entry.id)


def _alike(before: Domain, after: Domain) -> bool:
    """Whether nothing but the time has gone on."""
    return replace(before, vcpu_seconds=after.vcpu_seconds) == after


def _differing(old: dict[str, Any], new: dict[str, Any]) -> set[str]:
    return {id for id in old.keys() & new.keys() if old[id] != new[id]}
