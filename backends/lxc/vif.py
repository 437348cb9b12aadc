"""Micro-ops on the interfaces of containers; and on PCI devices, which they cannot have."""

from msgspec.structs import replace

from backends import positions
from backends.interface import Call, Waiting
from backends.lxc.machine import Machine, MicroOps, micro_op
from backends.lxc.network import Port
from backends.lxc.record import ContainerVif, Record, stopped
from idl.errors import DeviceDetachRejected, DeviceNotConnected, InvalidParameter, Unimplemented
from idl.ids import DeviceId, name_of
from idl.pci import Pci
from idl.vif import Vif
from idl.vm import Vm

#: What of a plugged VIF can be configured.
FIELDS = frozenset({"backend", "carrier", "locking_mode", "ipv4", "ipv6", "rate"})


class VifOps(MicroOps):
    """`backends.interface.VifCalls`."""

    @micro_op
    def plug(self, call: Call, vm: Vm, vif: Vif) -> None:
        record, _ = self.machine.require_live(call, vm.id)
        there = record.vifs.get(vif.id)
        if there is None:
            taken = {held.position: id for id, held in record.vifs.items()}
            position = positions.free(taken, vif.position, kind="vif")
            device = self.machine.names.interface(vif.id, record.incarnation)
            there = ContainerVif(
                device=device,
                media_present=vif.carrier,
                # With its place, which tells its default route from those of the others.
                config=replace(vif, position=position),
                position=position,
                inside=f"eth{position}",
            )
        where = port(self.machine, record, vif.id, there)
        # Before its start nobody is there to answer: a peer with a connection to what an image
        # brings back would be told that it is gone.
        carrier = there.config.carrier and record.started and not record.restored
        wanted = replace(there.config, carrier=carrier)
        self.machine.network.plug(wanted, where, deadline=call.deadline)
        self._put(call, vm, vif.id, there)

    @micro_op
    def unplug(self, call: Call, vm: Vm, vif: Vif, *, force: bool) -> Waiting | None:
        record = self.machine.record_for(call, vm.id)
        if record is None:
            return None
        held = record.vifs.get(vif.id)
        if held is not None and not force:
            life = self.machine.life(record)
            if stopped(record, life) is None and (not life.populated or life.frozen):
                raise DeviceDetachRejected(id=vif.id, reason="it is paused or not up yet")
        device = self.machine.names.interface(vif.id, record.incarnation)
        if held is not None and held.device is not None:
            device = held.device
        self.machine.network.unplug(device, _alias(record, vif.id), deadline=call.deadline)
        if held is not None:
            self._put(call, vm, vif.id, None)
        return None

    @micro_op
    def configure(self, call: Call, vm: Vm, vif: Vif, field: str) -> None:
        if field not in FIELDS:
            reason = f"{field} is none of {', '.join(sorted(FIELDS))}"
            raise InvalidParameter(name="field", reason=reason)
        record = self.machine.require(call, vm.id)
        held = record.vifs.get(vif.id)
        if held is None:
            raise DeviceNotConnected(id=vif.id)
        wanted = replace(held.config, **{field: getattr(vif, field)})
        self.machine.network.configure(
            wanted,
            field,
            port(self.machine, record, vif.id, held),
            before=held.config,
            deadline=call.deadline,
        )
        self._put(call, vm, vif.id, replace(held, config=wanted, media_present=wanted.carrier))

    def _put(self, call: Call, vm: Vm, id: DeviceId, held: ContainerVif | None) -> None:
        def edit(record: Record) -> Record:
            if record.vifs.get(id) == held:
                return record
            others = {other: vif for other, vif in record.vifs.items() if other != id}
            return replace(record, vifs=others if held is None else {**others, id: held})

        self.machine.change(call, vm.id, edit)


def port(machine: Machine, record: Record, id: DeviceId, held: ContainerVif) -> Port:
    """Where a plugged VIF is connected."""
    assert held.device is not None, "given when it was plugged"
    return Port(
        device=held.device,
        alias=_alias(record, id),
        inside=held.inside,
        netns=machine.place(record).network_namespace,
    )


def _alias(record: Record, id: DeviceId) -> str:
    return f"{record.marked}{record.incarnation} {name_of(id)}"


def cable(machine: Machine, record: Record, *, deadline: float, put_in: bool) -> None:
    """Put the cables of all of a container's VIFs in, those that are to be, or take them out."""
    for id, held in record.vifs.items():
        wanted = replace(held.config, carrier=put_in and held.config.carrier)
        where = port(machine, record, id, held)
        machine.network.configure(wanted, "carrier", where, before=wanted, deadline=deadline)


class PciOps(MicroOps):
    """`backends.interface.PciCalls`."""

    @micro_op
    def plug(self, call: Call, vm: Vm, pci: Pci) -> None:
        raise Unimplemented(what="PCI devices of containers", backend="lxc")

    @micro_op
    def unplug(self, call: Call, vm: Vm, pci: Pci, *, force: bool) -> Waiting | None:
        """There is none."""
        return None
