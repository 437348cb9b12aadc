"""The beginning of every operation: from a request and the VM as it is now to a plan.

Runs on the worker that leases the VM, so nothing about the VM changes meanwhile. What is a
single durable record (adding, setting, importing) is written here; all else becomes micro-ops.
"""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from msgspec.structs import replace

from backends import parcel
from backends.interface import Domain
from idl import calls
from idl.errors import (
    AlreadyExists,
    DoesNotExist,
    HypervisorError,
    InvalidParameter,
    MetadataCorrupt,
    OwnedByAnother,
    StorageError,
    Unimplemented,
    XenopsError,
)
from idl.metadata import Metadata
from idl.vm import PowerState
from journal.intents import VmJournal
from xenopsd import configure, hooks, microop
from xenopsd.ballooning import Ballooning
from xenopsd.claims import Claims, Holder
from xenopsd.execution import Balance, Check, Execution, Recover
from xenopsd.executor import Executor
from xenopsd.inventory import Entry
from xenopsd.microop import Hook, MicroOp
from xenopsd.neighbour import Neighbourhood
from xenopsd.perform import Performer
from xenopsd.plan import adoption, guest, handover, planner, recovery
from xenopsd.plan.plan import Plan, Segment, Snapshot
from xenopsd.record import VmExtra
from xenopsd.repairs import Repairs

log = structlog.get_logger(__name__)



@dataclass(frozen=True, slots=True)
class Places:
    """Where things of the daemon's own lie."""

    images: Path
    cores: Path
    #: Layers of VMs that other instances have handed over.
    incoming: Path
    run: Path
    hooks: Path | None = None


@dataclass(slots=True)
class Operations:
    """Begins operations. `journal` opens the journal of a VM that gets a record."""

    executor: Executor
    claims: Claims
    ballooning: Ballooning
    places: Places
    journal: Callable[[str], VmJournal]
    #: Looks at the host again: what is foreign has changed.
    take_stock: Callable[[], None] = lambda: None
    repairs: Repairs = field(init=False)
    neighbours: Neighbourhood = field(init=False)

    def __post_init__(self) -> None:
        self.neighbours = Neighbourhood(self.places.run)
        self.repairs = Repairs(self.executor, self._snapshot, self._unpacked)

    def begin(self, execution: Execution, entry: Entry | None) -> Plan | None:
        """What is to be carried out; None where it has been, or there is nothing to do.

        Raises XenopsError, JournalUnwritable, StoreUnwritable: then nothing was touched.
        """
        request = execution.request
        if isinstance(request, Balance):
            self.ballooning.balance(request, execution)
            return None
        if isinstance(request, calls.VmAdd):
            execution.result = self._add(request, entry)
            return self._received(execution.vm)
        if isinstance(request, calls.VmImportMetadata):
            execution.result = self._import(request, entry)
            return self._received(execution.vm)
        if isinstance(request, Check):
            return self._check(entry)
        if entry is None:
            raise DoesNotExist(kind="VM", id=execution.vm)
        if isinstance(request, Recover):
            return self.repairs.begin(execution, entry)
        if isinstance(request, calls.VmForget):
            return self._forget(entry)
        self._admit(request, entry)
        if isinstance(request, calls.Queued):
            changed = self._configure(request, execution, entry)
            return None if changed is None else self._unpacked(entry, changed)
        return self._unpacked(entry, self._operate(request, entry))

    def _received(self, id: str) -> Plan | None:
        """For a VM that has got a record: its parcel is opened, and what a domain has left that
        was lost before its VM was forgotten is cleared."""
        entry = self.executor.context.inventory.require(id)
        known = entry.domain is not None or entry.extra.incarnation is not None
        if known or not self._performer.backend.host.leftovers(id):
            return self._unpacked(entry, None)
        return self._unpacked(entry, recovery.cleared(self._snapshot(entry)))

    def _unpacked(self, entry: Entry, plan: Plan | None) -> Plan | None:
        """Where the VM's layers have not left the parcel that they came in: that first."""
        path = self.places.incoming / entry.id
        if entry.domain is not None or not parcel.waits(path):
            return plan
        return handover.unpacked(plan or Plan(), str(path))

    def _operate(self, request: Any, entry: Entry) -> Plan:
        if isinstance(request, calls.VmAdopt):
            return self._adopt(request, entry)
        assert isinstance(request, calls.Operation)
        snapshot = self._snapshot(entry)
        if snapshot.lost:
            # Should it be refused, what its domain has left behind is cleared all the same.
            self.executor.check(entry.id)
        return planner.plan(request, snapshot)

    # Records

    def _add(self, call: calls.VmAdd, entry: Entry | None) -> str:
        vm = configure.checked(call.vm)
        self._performer.backend.vm.accepts(vm)
        if entry is not None and not call.replace:
            raise AlreadyExists(kind="VM", id=vm.id)
        if entry is None:
            self._create_record(Metadata(vm=vm), offered=False)
        elif entry.damaged or entry.meta is None:
            self._repair_record(entry, Metadata(vm=vm))
        else:
            self._write(entry, replace(entry.metadata(), vm=vm))
        return vm.id

    def _import(self, call: calls.VmImportMetadata, entry: Entry | None) -> str:
        meta = configure.imported(call.metadata)
        self._performer.backend.vm.accepts(meta.vm)
        if entry is None:
            self._create_record(meta, offered=True)
        elif entry.damaged or entry.meta is None:
            self._repair_record(entry, meta)
        else:
            configure.keeps_plugged(meta, _plugged(entry))
            self._write(entry, meta)
        return meta.vm.id

    def _create_record(self, meta: Metadata, *, offered: bool) -> None:
        id = meta.vm.id
        context = self.executor.context
        with self.claims.taking(id, offered=offered):
            context.store.write(id, "config", meta, durable=True)
        entry = Entry(id, self.journal(id))
        entry.meta = meta
        context.inventory.put(entry)
        self.executor.observation.look(entry)
        if entry.domain is not None:
            context.memory.set(id, entry.domain.memory_held)
            self.take_stock()
            if reason := adoption.unrecorded(meta, entry.domain):
                self.executor.observation.doubt(entry, f"{reason}, then VM.adopt")
        self._announce(entry)
        self._catch_up(entry)

    def _repair_record(self, entry: Entry, meta: Metadata) -> None:
        """A damaged record is replaced; the files that were damaged stay beside it."""
        store = self.executor.context.store
        store.write(entry.id, "config", meta, durable=True, repair=True)
        if any(damage.path.name == "extra.json" for damage in entry.damaged):
            store.write(entry.id, "extra", VmExtra(), durable=True, repair=True)
        damaged = any(damage.path.name == "journal" for damage in entry.damaged)
        if damaged or entry.journal.intent is not None:
            # What was open was about the record that is replaced.
            entry.journal.set_aside()
        entry.damaged = ()
        entry.attention = None
        entry.meta = meta
        self.executor.observation.look(entry)
        self._announce(entry)
        self._catch_up(entry)

    def _catch_up(self, entry: Entry) -> None:
        """What its guest did while there was no record, no event told of."""
        if entry.domain is not None and entry.domain.stopped is not None:
            self.executor.check(entry.id)

    def _write(self, entry: Entry, meta: Metadata) -> None:
        self.executor.context.store.write(entry.id, "config", meta, durable=True)
        entry.meta = meta
        extra = configure.live(entry.extra, meta.vm)
        if extra != entry.extra:
            entry.extra = extra
            self.executor.observation.save(entry)
        self._announce(entry)

    def _announce(self, entry: Entry) -> None:
        entry.changed()
        for kind, id in entry.objects():
            self.executor.context.updates.touch(kind, id)

    def _configure(  # noqa: PLR0911  # one arm a call
        self, call: calls.Queued[Any], execution: Execution, entry: Entry
    ) -> Plan | None:
        meta = entry.metadata()
        plugged = _plugged(entry)
        match call:
            case calls.VmSet():
                vm = configure.changed(meta.vm, call.changes)
                self._performer.backend.vm.accepts(vm)
                self._write(entry, replace(meta, vm=vm))
                execution.result = vm
                return None
            case calls.VmRemove():
                return self._remove(call, entry)
            case calls.VmRelease():
                return self._release(call, entry)
            case calls.VbdAdd():
                self._write(entry, configure.with_vbd(meta, call.vbd))
                execution.result = call.vbd.id
                return None
            case calls.VifAdd():
                self._write(entry, configure.with_vif(meta, call.vif))
                execution.result = call.vif.id
                return None
            case calls.PciAdd():
                self._needs_pci()
                self._write(entry, configure.with_pci(meta, call.pci))
                execution.result = call.pci.id
                return None
            case calls.VbdRemove():
                configure.removable(call.id, "VBD", meta.vbds, plugged)
                layer: list[MicroOp] = [microop.VmRemoveLayers(vbds=[call.id])]
                return _finishing([*layer, microop.VmRemoveDevice(id=call.id)])
            case calls.VifRemove():
                configure.removable(call.id, "VIF", meta.vifs, plugged)
                return _finishing([microop.VmRemoveDevice(id=call.id)])
            case calls.PciRemove():
                configure.removable(call.id, "PCI", meta.pcis, plugged)
                return _finishing([microop.VmRemoveDevice(id=call.id)])
            case _:
                raise Unimplemented(what=call.method, backend=self._performer.backend.name)

    def _needs_pci(self) -> None:
        backend = self._performer.backend
        if "pci" not in backend.features:
            raise Unimplemented(what="pci", backend=backend.name)

    def _remove(self, call: calls.VmRemove, entry: Entry) -> Plan:
        snapshot = self._snapshot(entry)
        snapshot.require(PowerState.HALTED, PowerState.SUSPENDED)
        steps: list[MicroOp] = [microop.VmDropImage(image=path) for path in _images(snapshot)]
        steps += [microop.VmDestroy()]
        # Also of VBDs that were imported over or forgotten: after this nobody would know of them.
        steps += [microop.VmRemoveLayers(vbds=[] if call.keep_layers else None)]
        return _finishing([*steps, microop.VmRemoveRecord()])

    def _release(self, call: calls.VmRelease, entry: Entry) -> Plan:
        backend = self._performer.backend.name
        if call.instance == self.claims.me.instance:
            raise InvalidParameter(name="instance", reason=f"VM {entry.id} is there already")
        other = self.neighbours.find(call.instance)
        if other.instance != call.instance:
            reason = f"the instance that answers there is {other.instance}"
            raise InvalidParameter(name="instance", reason=reason)
        if other.backend != backend:
            reason = f"it runs {other.backend}, which cannot read the layers of {backend}"
            raise InvalidParameter(name="instance", reason=reason)
        self.claims.confirm(entry.id)
        if Holder(instance=other.instance, state_dir=other.state_dir).has_recorded(entry.id):
            # Perhaps it is only about to let go of what came from there.
            reason = f"it has a record of VM {entry.id} still; try again when that is gone"
            raise InvalidParameter(name="instance", reason=reason)
        return handover.released(
            self._snapshot(entry), instance=other.instance, state_dir=other.state_dir
        )

    def hand_over(self, meta: Metadata, op: microop.VmHandOver) -> None:
        """Have another instance record the VM. Raises what it answers, MigrationFailed."""
        vm = meta.vm.id
        to = Holder(instance=op.instance, state_dir=op.state_dir)
        if self.claims.gone(vm, to):
            # Before this was cut; only that it was is to be said.
            self.claims.settle(vm, to)
            return
        self.claims.offer(vm, to)
        try:
            self.neighbours.entrust(op.instance, meta)
        except XenopsError:
            # It may have it all the same, its answer lost.
            if not self.claims.settle(vm, to):
                raise
        else:
            self.claims.settle(vm, to, told=True)

    def _forget(self, entry: Entry) -> Plan | None:
        if entry.meta is not None and not entry.damaged:
            return _finishing([microop.VmRemoveRecord()])
        # A record that cannot be read cannot be planned for: it goes as it is.
        self.executor.context.store.remove(entry.id)
        self.forgotten(entry)
        return None

    def forgotten(self, entry: Entry) -> None:
        """The VM's record is gone: so is everything that was known by it."""
        context = self.executor.context
        objects = entry.objects()
        entry.journal.close()
        context.inventory.drop(entry.id)
        self.claims.give(entry.id)
        if entry.domain is None:
            context.memory.release(entry.id)
        else:
            # It runs on, as a stranger that still has its memory.
            self.take_stock()
        for kind, id in objects:
            context.updates.remove(kind, id)

    # Operations

    def _admit(self, request: Any, entry: Entry) -> None:
        if entry.damaged:
            raise MetadataCorrupt(path=str(entry.damaged[0].path))
        settles = isinstance(request, calls.VmDestroy | calls.VmAdopt) or (
            isinstance(request, calls.VmShutdown) and request.timeout is None
        )
        records = isinstance(request, calls.Queued) and not isinstance(
            request, calls.VmRemove | calls.VmRelease
        )
        if entry.attention is not None and not settles and not records:
            raise HypervisorError(
                call=request.method,
                reason=f"VM {entry.id} needs attention ({entry.attention.reason}); "
                "settle it with VM.shutdown (hard), VM.destroy, VM.adopt or VM.forget",
            )

    def _adopt(self, call: calls.VmAdopt, entry: Entry) -> Plan:
        domain = self._foreign(call.domain, entry)
        snapshot = self._snapshot(entry)
        return adoption.adopted(snapshot, domain, doubted=entry.attention is not None)

    def _foreign(self, id: str, entry: Entry) -> Domain:
        """A domain that nobody else has. Raises DoesNotExist, OwnedByAnother, InvalidParameter."""
        domains = self._performer.backend.host.domains()
        domain = next((found for found in domains if found.id == id), None)
        if domain is None:
            raise DoesNotExist(kind="domain", id=id)
        if domain.instance not in (None, self._performer.instance):
            raise OwnedByAnother(id=id, instance=domain.instance)
        if domain.vm in (None, entry.id):
            return domain
        known = self.executor.context.inventory.get(domain.vm) is not None
        reason = f"domain {id} is that of VM {domain.vm}"
        if not known:
            reason += ", which was forgotten: add a VM of that id and have it adopt the domain"
        raise InvalidParameter(name="domain", reason=reason)

    def _snapshot(self, entry: Entry) -> Snapshot:
        """The VM as it is now: looked at afresh."""
        backend = self._performer.backend
        domain = backend.host.domain(entry.id)
        self.executor.observation.observed(entry, domain)
        return Snapshot(
            meta=entry.metadata(),
            extra=entry.extra,
            domain=domain,
            fresh=str(uuid.uuid4()),
            image=str(self.places.images / f"{entry.id}.image"),
            core=str(self.places.cores / f"{entry.id}.core"),
            backend=backend.name,
            features=backend.features,
            lacking=backend.lacking,
            hooks=self._hooks(),
            limits=self.executor.context.limits,
            now=time.time(),
        )

    def _hooks(self) -> dict[Hook, tuple[str, ...]]:
        if self.places.hooks is None:
            return {}
        found = {
            hook: tuple(str(script) for script in hooks.scripts(self.places.hooks, hook))
            for hook in hooks.HOOKS
        }
        return {hook: paths for hook, paths in found.items() if paths}

    def _check(self, entry: Entry | None) -> Plan | None:
        if entry is None or entry.meta is None or entry.damaged:
            return None
        if entry.contested is not None:
            self._claim_at_last(entry)
        snapshot = self._snapshot(entry)
        if entry.attention is not None:
            return None
        if snapshot.lost:
            log.warning("domain_lost", vm=entry.id)
            return replace(recovery.cleared(snapshot), reason="lost")
        return guest.check(snapshot)

    def _claim_at_last(self, entry: Entry) -> None:
        """Whoever else had claimed it may have let it go."""
        try:
            self.claims.confirm(entry.id)
        except (OwnedByAnother, StorageError):
            return
        entry.contested = None
        self.executor.observation.settle(entry, None)

    @property
    def _performer(self) -> Performer:
        return self.executor.context.performer


def _plugged(entry: Entry) -> set[str]:
    """Devices in the VM's domain, or in the image that it is suspended in."""
    domain, image = entry.domain, entry.extra.image
    plugged = set() if image is None or image.spent else set(image.plugged)
    return plugged if domain is None else {*plugged, *domain.vbds, *domain.vifs, *domain.pcis}


def _images(snapshot: Snapshot) -> list[str]:
    """Its suspend image; and one that lies in its place since it was forgotten suspended."""
    recorded = [snapshot.extra.image.path] if snapshot.extra.image else []
    if snapshot.image in recorded or not Path(snapshot.image).exists():
        return recorded
    return [*recorded, snapshot.image]


def _finishing(steps: list[MicroOp]) -> Plan:
    return Plan(segments=[Segment(finish=True, steps=steps)])
