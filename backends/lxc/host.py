"""The machine and its containers, observed."""

import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path

from backends.interface import Domain
from backends.lxc.clearing import Clearing
from backends.lxc.machine import Machine
from backends.lxc.places import Place
from backends.lxc.record import Life, Record, observed
from idl.errors import DoesNotExist, HypervisorError, Unimplemented
from idl.host import HostStat, Hypervisor
from idl.ids import VmId
from idl.vm import VmMetrics

#: Seconds that looking at leftovers may take.
LOOK = 10.0

#: How liblxc names the socket of each container that runs.
_COMMAND = "/command"


class HostOps:
    """`backends.interface.HostCalls`."""

    def __init__(self, machine: Machine, version: str, lacking: Mapping[str, str]) -> None:
        self._machine = machine
        self._version = version
        self._lacking = lacking
        self._clearing = Clearing(machine)

    def boot_id(self) -> str:
        return boot_id()

    def stat(self) -> HostStat:
        machine = self._machine
        hypervisor = Hypervisor(name="lxc", version=self._version, capabilities=["container"])
        return HostStat(
            cpu_count=os.cpu_count() or 1,
            memory_total=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            memory_free=0,
            hypervisor=hypervisor,
            kernel=platform.release(),
            hostname=platform.node(),
            facts={
                "cgroups": machine.cgroups.version,
                "apparmor": machine.host.apparmor,
                "lacking_controllers": sorted(machine.cgroups.controllers.lacking),
                **self._lacking,
            },
        )

    def console_data(self) -> str:
        raise Unimplemented(what="the hypervisor's log", backend="lxc")

    def domains(self) -> list[Domain]:
        try:
            seen = [self._seen(place) for place in self._machine.domains.places()]
        except OSError as error:
            raise HypervisorError(call="domains", reason=str(error)) from error
        return [*(domain for domain in seen if domain is not None), *self._others()]

    def _others(self) -> list[Domain]:
        """Containers that liblxc runs for somebody else."""
        ours = f"{self._machine.domains.root}/"
        return [
            Domain(id=path, name=Path(path).name, built=True, paused=False)
            for path in running_containers(Path("/proc/net/unix").read_text())
            if not path.startswith(ours)
        ]

    def domain(self, vm: VmId) -> Domain | None:
        return self._seen(self._machine.domains.place(vm))

    def _seen(self, place: Place) -> Domain | None:
        """What a place tells. One whose record is damaged is a domain that nobody knows of: in
        doubt, until it is shut down."""
        domains = self._machine.domains
        try:
            record = domains.read(place) or domains.read_dead(place)
        except HypervisorError:
            vm, instance = place.path.name, place.path.parent.name
            return Domain(id=str(place.path), name=vm, vm=vm, instance=instance, built=True)
        if record is None or not self._is_there(record):
            return None
        return self._observed(record)

    def _is_there(self, record: Record) -> bool:
        """Also one that was killed is, while a process of it lives."""
        if self._machine.place(record).record.exists():
            return True
        return self._machine.group(record).populated()

    def _observed(self, record: Record) -> Domain:
        return observed(record, self._life(record))

    def _life(self, record: Record) -> Life:
        try:
            return self._machine.life(record)
        except OSError as error:
            raise HypervisorError(call="domain", reason=str(error)) from error

    def leftovers(self, vm: VmId) -> list[str]:
        try:
            record = self._machine.record(vm)
            return self._clearing.leftovers(vm, record, time.monotonic() + LOOK)
        except OSError as error:
            raise HypervisorError(call="leftovers", reason=str(error)) from error

    def metrics(self, vm: VmId) -> VmMetrics:
        """Counters of a running VM. Raises DoesNotExist without a domain."""
        machine = self._machine
        record = machine.record(vm)
        if record is None:
            raise DoesNotExist(kind="domain", id=vm)
        life = self._life(record)
        deadline = time.monotonic() + LOOK
        return VmMetrics(
            id=vm,
            cpu_seconds=life.cpu_seconds,
            memory=life.memory_used,
            disks=self._disks(record),
            networks={
                id: machine.network.counters(vif.device, deadline=deadline)
                for id, vif in record.vifs.items()
                if vif.device is not None
            },
        )

    def _disks(self, record: Record) -> dict[str, dict[str, int]]:
        """What went to the device that each VBD's writes end on: two on one device show the
        same figures."""
        counters = self._machine.group(record).disk_counters()
        found: dict[str, dict[str, int]] = {}
        for id, vbd in record.vbds.items():
            moved = counters.get(vbd.device or "")
            found[id] = {
                "read_bytes": moved.read_bytes if moved else 0,
                "write_bytes": moved.write_bytes if moved else 0,
            }
        return found


def boot_id() -> str:
    """Another one after each start of the host."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def running_containers(sockets: str) -> list[str]:
    """The path of each container whose monitor listens, from /proc/net/unix."""
    names = {line.rpartition(" @")[2] for line in sockets.splitlines() if " @/" in line}
    return sorted(name.removesuffix(_COMMAND) for name in names if name.endswith(_COMMAND))
