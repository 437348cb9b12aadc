"""The simulated machine that every micro-op works on, and the frame around each of them."""

from collections.abc import Callable
from dataclasses import dataclass

from backends.frame import Frame
from backends.interface import Call
from backends.simulator.faults import Faults
from backends.simulator.layers import Layers
from backends.simulator.ledger import Ledger
from backends.simulator.record import Record
from backends.simulator.world import World, no_domain
from idl.ids import VmId

Edit = Callable[[Record], Record]


@dataclass(slots=True)
class Machine:
    """The world as one instance sees it; `tell` says that a VM needs attention."""

    instance: str
    world: World
    ledger: Ledger
    layers: Layers
    faults: Faults
    now: Callable[[], float]
    tell: Callable[[VmId], None]

    def bears_our_mark(self, record: Record | None, vm: VmId) -> bool:
        """Whether it is this VM's domain: others are never touched."""
        return record is not None and record.instance == self.instance and record.vm == vm

    def domain(self, vm: VmId) -> Record | None:
        """The VM's domain. Raises HypervisorError where that cannot be told."""
        record = self.world.read(vm)
        return record if self.bears_our_mark(record, vm) else None

    def change_any(self, vm: VmId, edit: Edit) -> Record | None:
        """Read, edit and write the VM's domain under its lock, whichever its incarnation;
        None without one."""
        with self.world.hold(vm) as held:
            record = held.record
            if record is None or not self.bears_our_mark(record, vm):
                return None
            edited = edit(record)
            if edited is not record:
                held.write(edited)
            return edited

    def change_if_any(self, call: Call, vm: VmId, edit: Edit) -> Record | None:
        """Only a domain of the call's incarnation: a late call does nothing to its successor."""

        def own(record: Record) -> Record:
            return edit(record) if record.incarnation == call.incarnation else record

        found = self.change_any(vm, own)
        return found if found is not None and found.incarnation == call.incarnation else None

    def change(self, call: Call, vm: VmId, edit: Edit) -> Record:
        """The same; raises DoesNotExist without such a domain."""
        found = self.change_if_any(call, vm, edit)
        if found is None:
            raise no_domain(vm)
        return found

    def drop(self, vm: VmId) -> bool:
        """Make the VM's domain go, and nothing else; whether there was one."""
        with self.world.hold(vm) as held:
            if not self.bears_our_mark(held.record, vm):
                return False
            held.write(None)
            return True


class MicroOps:
    """Base of what carries micro-ops out."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine


def _meet_faults(ops: MicroOps, call: Call) -> None:
    ops.machine.faults.meet(call)


#: A micro-op meets its faults first.
micro_op = Frame(_meet_faults)
