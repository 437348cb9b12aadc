"""Micro-ops on the devices of simulated domains.

The ledger's entry comes before the domain's and goes after it: so whatever a domain has is in
the ledger, and one that was cut in between is found by its name when it is repeated.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from msgspec.structs import replace

from backends import positions
from backends.interface import Call, Waiting
from backends.simulator import guest, layers
from backends.simulator.ledger import Kind
from backends.simulator.machine import Machine, MicroOps, micro_op
from backends.simulator.record import Record, SimulatedPci, SimulatedVbd, SimulatedVif
from idl.errors import (
    DeviceDetachRejected,
    DeviceNotConnected,
    InvalidParameter,
    MediaNotEjectable,
)
from idl.ids import DeviceId, VmId
from idl.pci import Pci
from idl.vbd import Disk, Position, Vbd
from idl.vif import Vif
from idl.vm import Vm

#: How long a guest gets to let go of a device, in seconds.
LET_GO = 30.0

#: What of a plugged VIF can be configured.
FIELDS = frozenset({"backend", "carrier", "locking_mode", "ipv4", "ipv6", "rate"})


class _Plugged(Protocol):
    @property
    def position(self) -> Position: ...


D = TypeVar("D", bound=_Plugged)


@dataclass(frozen=True, slots=True)
class Shelf(Generic[D]):
    """Where a domain's record keeps its devices of one kind."""

    kind: Kind
    of: Callable[[Record], Mapping[DeviceId, D]]
    holding: Callable[[Record, dict[DeviceId, D]], Record]

    def put(self, record: Record, id: DeviceId, device: D) -> Record:
        """With this device, new or changed."""
        return self.holding(record, {**self.of(record), id: device})

    def without(self, record: Record, id: DeviceId) -> Record:
        """Without it."""
        rest = {other: device for other, device in self.of(record).items() if other != id}
        return self.holding(record, rest)

    def plugged(self, record: Record, id: DeviceId) -> D:
        """The device. Raises DeviceNotConnected."""
        if id not in self.of(record):
            raise DeviceNotConnected(id=id)
        return self.of(record)[id]


VBDS: Shelf[SimulatedVbd] = Shelf("vbd", lambda r: r.vbds, lambda r, held: replace(r, vbds=held))
VIFS: Shelf[SimulatedVif] = Shelf("vif", lambda r: r.vifs, lambda r, held: replace(r, vifs=held))
PCIS: Shelf[SimulatedPci] = Shelf("pci", lambda r: r.pcis, lambda r, held: replace(r, pcis=held))


def interface(instance: str, id: DeviceId, incarnation: str) -> str:
    """The name of a VIF's interface on the host: at most 15 characters, as Linux has it."""
    mark = f"{instance}\n{id}\n{incarnation}".encode()
    return f"sim{hashlib.blake2b(mark, digest_size=6).hexdigest()}"


class VbdOps(MicroOps):
    """`backends.interface.VbdCalls`."""

    @micro_op
    def plug(self, call: Call, vm: Vm, vbd: Vbd) -> None:
        def device(position: Position) -> SimulatedVbd:
            layer = None
            if layers.wanted(vbd):
                layer = self.machine.layers.make(vbd, call.incarnation)
            return SimulatedVbd(
                medium=vbd.backend,
                position=position,
                type=vbd.type,
                unpluggable=vbd.unpluggable,
                layer=layer,
            )

        _plug(self.machine, call, VBDS, vm.id, vbd.id, vbd.position, device)

    @micro_op
    def unplug(self, call: Call, vm: Vm, vbd: Vbd, *, force: bool) -> Waiting | None:
        def asked(held: SimulatedVbd) -> SimulatedVbd:
            if not held.unpluggable:
                raise DeviceDetachRejected(id=vbd.id, reason="it is configured as not unpluggable")
            return replace(held, detaching=True)

        return _unplug(self.machine, call, VBDS, vm.id, vbd.id, asked, force=force)

    @micro_op
    def insert(self, call: Call, vm: Vm, vbd: Vbd, medium: Disk) -> None:
        self._change_medium(call, vm, vbd, medium)

    @micro_op
    def eject(self, call: Call, vm: Vm, vbd: Vbd) -> None:
        self._change_medium(call, vm, vbd, None)

    def _change_medium(self, call: Call, vm: Vm, vbd: Vbd, medium: Disk | None) -> None:
        def edit(record: Record) -> Record:
            held = VBDS.plugged(record, vbd.id)
            if held.type == "disk":
                raise MediaNotEjectable(id=vbd.id)
            return VBDS.put(record, vbd.id, replace(held, medium=medium))

        self.machine.change(call, vm.id, edit)


class VifOps(MicroOps):
    """`backends.interface.VifCalls`."""

    @micro_op
    def plug(self, call: Call, vm: Vm, vif: Vif) -> None:
        def device(position: Position) -> SimulatedVif:
            name = interface(self.machine.instance, vif.id, call.incarnation)
            return SimulatedVif(
                device=name, media_present=vif.carrier, config=vif, position=position
            )

        _plug(self.machine, call, VIFS, vm.id, vif.id, vif.position, device)

    @micro_op
    def unplug(self, call: Call, vm: Vm, vif: Vif, *, force: bool) -> Waiting | None:
        return _unplug(self.machine, call, VIFS, vm.id, vif.id, lambda held: held, force=force)

    @micro_op
    def configure(self, call: Call, vm: Vm, vif: Vif, field: str) -> None:
        if field not in FIELDS:
            reason = f"{field} is none of {', '.join(sorted(FIELDS))}"
            raise InvalidParameter(name="field", reason=reason)

        def edit(record: Record) -> Record:
            held = VIFS.plugged(record, vif.id)
            config = replace(held.config, **{field: getattr(vif, field)})
            held = replace(held, config=config, media_present=config.carrier)
            return VIFS.put(record, vif.id, held)

        self.machine.change(call, vm.id, edit)


class PciOps(MicroOps):
    """`backends.interface.PciCalls`."""

    @micro_op
    def plug(self, call: Call, vm: Vm, pci: Pci) -> None:
        def device(position: Position) -> SimulatedPci:
            return SimulatedPci(address=pci.address, position=position)

        _plug(self.machine, call, PCIS, vm.id, pci.id, pci.position, device)

    @micro_op
    def unplug(self, call: Call, vm: Vm, pci: Pci, *, force: bool) -> Waiting | None:
        return _unplug(self.machine, call, PCIS, vm.id, pci.id, lambda held: held, force=force)


def _plug(
    machine: Machine,
    call: Call,
    shelf: Shelf[D],
    vm: VmId,
    id: DeviceId,
    wanted: Position | None,
    device: Callable[[Position], D],
) -> None:
    def edit(record: Record) -> Record:
        guest.require_live(record, vm)
        if id in shelf.of(record):
            machine.ledger.enter(shelf.kind, id, call.incarnation)
            return record
        taken = {held.position: other for other, held in shelf.of(record).items()}
        position = positions.free(taken, wanted, kind=shelf.kind)
        machine.ledger.enter(shelf.kind, id, call.incarnation)
        return shelf.put(record, id, device(position))

    machine.change(call, vm, edit)


def _unplug(
    machine: Machine,
    call: Call,
    shelf: Shelf[D],
    vm: VmId,
    id: DeviceId,
    asked: Callable[[D], D],
    *,
    force: bool,
) -> Waiting | None:
    def edit(record: Record) -> Record:
        held = shelf.of(record).get(id)
        if held is None:
            return record
        # A guest that runs no more holds nothing.
        if force or record.stopped is not None:
            return shelf.without(record, id)
        if record.paused:
            raise DeviceDetachRejected(id=id, reason="it is paused or not up yet")
        asked_to_go = shelf.put(record, id, asked(held))
        return asked_to_go if record.hold_devices else shelf.without(record, id)

    found = machine.change_if_any(call, vm, edit)
    if found is not None and id in shelf.of(found):
        return Waiting(what=f"the guest to let go of {id}", timeout=LET_GO)
    machine.ledger.leave(shelf.kind, id, call.incarnation)
    return None
