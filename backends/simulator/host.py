"""The simulated machine, observed."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from backends.interface import Domain
from backends.simulator.machine import Machine
from backends.simulator.record import Record, observed, vcpu_seconds
from backends.simulator.world import no_domain
from idl.errors import HypervisorError
from idl.host import HostStat, Hypervisor
from idl.ids import VmId
from idl.vm import VmMetrics

GUESTS = ("hvm", "pv", "pvh", "container")

#: Bytes a second that every simulated device moves.
THROUGHPUT = 4096


class HostOps:
    """`backends.interface.HostCalls`."""

    def __init__(self, machine: Machine, memory_total: int) -> None:
        self._machine = machine
        self._memory_total = memory_total

    def boot_id(self) -> str:
        try:
            return self._machine.world.boot_id()
        except OSError as error:
            raise HypervisorError(call="boot_id", reason=str(error)) from error

    def stat(self) -> HostStat:
        return HostStat(
            cpu_count=os.cpu_count() or 1,
            memory_total=self._memory_total,
            memory_free=0,
            hypervisor=Hypervisor(name="simulator", version=_version(), capabilities=list(GUESTS)),
            kernel=platform.release(),
            hostname=platform.node(),
            facts={"world": str(self._machine.world.path)},
        )

    def console_data(self) -> str:
        world = self._machine.world
        lines = [f"simulator {_version()}, world {world.path}, boot {self.boot_id()}"]
        lines += [f"domain {found.id} {found.name}" for found in self.domains()]
        return "\n".join(lines) + "\n"

    def domains(self) -> list[Domain]:
        now = self._machine.now()
        try:
            return [observed(record, now) for record in self._machine.world.records()]
        except OSError as error:
            raise HypervisorError(call="domains", reason=str(error)) from error

    def domain(self, vm: VmId) -> Domain | None:
        record = self._record(vm)
        return None if record is None else observed(record, self._machine.now())

    def leftovers(self, vm: VmId) -> list[str]:
        record = self._record(vm)
        living = None if record is None else f"@{record.incarnation}"
        machine = self._machine
        try:
            found = machine.ledger.of(vm) + machine.layers.of_incarnations(vm)
        except OSError as error:
            raise HypervisorError(call="leftovers", reason=str(error)) from error
        return sorted(name for name in found if living is None or living not in name)

    def metrics(self, vm: VmId) -> VmMetrics:
        """Counters of a running VM. Raises DoesNotExist without a domain."""
        record = self._record(vm)
        if record is None:
            raise no_domain(vm)
        seconds = vcpu_seconds(record, self._machine.now())
        moved = int(seconds * THROUGHPUT)
        return VmMetrics(
            id=vm,
            cpu_seconds=seconds,
            memory=record.memory_actual,
            disks={id: {"read_bytes": moved, "write_bytes": moved} for id in record.vbds},
            networks={id: {"rx_bytes": moved, "tx_bytes": moved} for id in record.vifs},
        )

    def _record(self, vm: VmId) -> Record | None:
        try:
            return self._machine.domain(vm)
        except OSError as error:
            raise HypervisorError(call="domain", reason=str(error)) from error


def _version() -> str:
    try:
        return version("xenopsd")
    except PackageNotFoundError:
        return "unknown"
