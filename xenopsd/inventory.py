"""What the daemon knows of each VM: the one place that reads are answered from.

An entry's facts are immutable values that are replaced whole, by whoever holds the VM's lease;
the event loop reads them without a lock and caches the JSON until `version` moves.
"""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING

import msgspec
from msgspec import Raw

from backends.interface import Domain
from idl.errors import DoesNotExist, MetadataCorrupt
from idl.ids import DeviceId, vm_of
from idl.metadata import Metadata
from idl.pci import Pci, PciRecord, PciState
from idl.update import ObjectType
from idl.vbd import Vbd, VbdRecord, VbdState
from idl.vif import Vif, VifRecord, VifState
from idl.vm import Attention, PowerState, RunningOperation, VmRecord, VmState
from journal.intents import VmJournal
from journal.store import Damage
from xenopsd.record import VmExtra, pending, power_state

if TYPE_CHECKING:
    from xenopsd.execution import Execution


#: No version is ever given twice, whichever threads change an entry at once.
_versions = count(1)


class Entry:
    """One VM. `operations` are those accepted and not ended, in order."""

    __slots__ = (
        "_cached",
        "_cached_version",
        "active",
        "attention",
        "contested",
        "damaged",
        "domain",
        "extra",
        "id",
        "journal",
        "meta",
        "observed_at",
        "operations",
        "rebooting",
        "recorded",
        "running",
        "stuck",
        "unseen",
        "version",
    )

    def __init__(self, id: str, journal: VmJournal) -> None:
        self.id = id
        self.journal = journal
        self.meta: Metadata | None = None
        self.extra = VmExtra()
        #: `extra` as it stands in the store; None before the first.
        self.recorded: VmExtra | None = None
        self.domain: Domain | None = None
        self.observed_at: float | None = None
        self.attention: Attention | None = None
        #: Why it cannot be claimed: then nothing of it is touched.
        self.contested: str | None = None
        #: A written-off call is still out: only reads and a hard shutdown are admitted.
        self.stuck = False
        #: It could not be observed, and has `attention` for that alone.
        self.unseen = False
        self.damaged: tuple[Damage, ...] = ()
        self.operations: list[Execution] = []
        self.running: RunningOperation | None = None
        #: Devices that a micro-op is plugging or unplugging now.
        self.active: frozenset[DeviceId] = frozenset()
        #: Between the teardown and the start of a reboot the VM counts as running.
        self.rebooting = False
        self.version = 0
        self._cached = Raw(b"")
        self._cached_version = -1

    def changed(self) -> None:
        """What was cached of it is no longer true."""
        self.version = next(_versions)

    def metadata(self) -> Metadata:
        """The configuration. Raises MetadataCorrupt, DoesNotExist."""
        if self.damaged:
            raise MetadataCorrupt(path=str(self.damaged[0].path))
        if self.meta is None:
            raise DoesNotExist(kind="VM", id=self.id)
        return self.meta

    @property
    def power_state(self) -> PowerState:
        """As clients see it."""
        if self.rebooting:
            return PowerState.RUNNING
        if self.observed_at is None:
            return self.extra.power_state
        return power_state(self.domain, self.extra)

    def state(self) -> VmState:
        """What VM.stat answers as state."""
        domain, extra = self.domain, self.extra
        common = VmState(
            power_state=self.power_state,
            observed_at=self.observed_at or extra.observed_at,
            last_start_time=extra.last_start_time,
            reason=extra.reason,
            attention=self.attention,
            operation=self.running,
            queue_depth=len(self.operations),
        )
        if domain is None:
            return common
        return msgspec.structs.replace(
            common,
            domain_ids=[domain.id],
            incarnation=domain.incarnation,
            consoles=domain.consoles,
            memory_target=domain.memory_target,
            memory_actual=domain.memory_actual,
            memory_limit=domain.memory_limit,
            vcpu_target=domain.vcpus,
            guest_agent=domain.guest_agent,
            pv_drivers_detected=domain.pv_drivers_detected,
            uncooperative_balloon=domain.uncooperative_balloon,
        )

    def record(self) -> VmRecord:
        """What VM.stat answers; of a damaged record its files and why."""
        if self.meta is None:
            return VmRecord(id=self.id, config=None, state=self.state())
        live = pending(self.meta, self.extra)
        return VmRecord(id=self.id, config=self.meta.vm, state=self.state(), pending=live)

    def encoded(self) -> Raw:
        """`record` as JSON, cached."""
        version = self.version
        if version != self._cached_version:
            self._cached = Raw(msgspec.json.encode(self.record()))
            self._cached_version = version
        return self._cached

    def vbd(self, vbd: Vbd) -> VbdRecord:
        """What VBD.stat answers."""
        plugged = self.domain.vbds.get(vbd.id) if self.domain else None
        return VbdRecord(
            id=vbd.id,
            config=vbd,
            state=VbdState(
                active=plugged is not None or vbd.id in self.active,
                plugged=plugged is not None,
                detaching=plugged.detaching if plugged else False,
                backend_present=plugged.medium if plugged else vbd.backend,
            ),
        )

    def vif(self, vif: Vif) -> VifRecord:
        """What VIF.stat answers."""
        plugged = self.domain.vifs.get(vif.id) if self.domain else None
        return VifRecord(
            id=vif.id,
            config=vif,
            state=VifState(
                active=plugged is not None or vif.id in self.active,
                plugged=plugged is not None,
                device=plugged.device if plugged else None,
                media_present=plugged.media_present if plugged else False,
            ),
        )

    def pci(self, pci: Pci) -> PciRecord:
        """What PCI.stat answers."""
        plugged = self.domain is not None and pci.id in self.domain.pcis
        return PciRecord(id=pci.id, config=pci, state=PciState(plugged=plugged))

    def objects(self) -> list[tuple[ObjectType, str]]:
        """(type, id) of the VM and its devices, as updates name them."""
        meta = self.meta
        if meta is None:
            return [("vm", self.id)]
        return [
            ("vm", self.id),
            *(("vbd", v.id) for v in meta.vbds),
            *(("vif", v.id) for v in meta.vifs),
            *(("pci", p.id) for p in meta.pcis),
        ]


class Inventory:
    """Every VM that has a record, readable or not."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def get(self, id: str) -> Entry | None:
        """The VM's entry."""
        return self._entries.get(id)

    def require(self, id: str) -> Entry:
        """The VM's entry. Raises DoesNotExist."""
        entry = self._entries.get(id)
        if entry is None:
            raise DoesNotExist(kind="VM", id=id)
        return entry

    def device_owner(self, kind: str, id: DeviceId) -> Entry:
        """The entry of the VM that has this device. Raises DoesNotExist, MetadataCorrupt."""
        entry = self._entries.get(vm_of(id))
        if entry is None:
            raise DoesNotExist(kind=kind, id=id)
        meta = entry.metadata()
        devices: dict[str, Sequence[Vbd | Vif | Pci]] = {
            "VBD": meta.vbds,
            "VIF": meta.vifs,
            "PCI": meta.pcis,
        }
        if not any(device.id == id for device in devices[kind]):
            raise DoesNotExist(kind=kind, id=id)
        return entry

    def put(self, entry: Entry) -> None:
        """A VM has a record now."""
        self._entries[entry.id] = entry

    def drop(self, id: str) -> None:
        """A VM has none any more."""
        self._entries.pop(id, None)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)
