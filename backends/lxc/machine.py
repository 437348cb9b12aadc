"""The host as one instance sees it, and the frame around each micro-op."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from backends.frame import Frame
from backends.interface import Call, Waiting
from backends.lxc import limits
from backends.lxc.apart import locks
from backends.lxc.cgroup import Cgroups, Group
from backends.lxc.config import Host
from backends.lxc.domains import Domains
from backends.lxc.ending import Watch
from backends.lxc.limits import Limits
from backends.lxc.network import Network
from backends.lxc.places import Names, Place
from backends.lxc.record import NOT_STARTED, Life, Record, stopped
from backends.lxc.spawner import Spawner
from backends.lxc.storage import Storage
from idl.errors import BadPowerState, DoesNotExist, HypervisorError
from idl.ids import VmId


@dataclass(slots=True)
class Machine:
    """What micro-ops work on. `first_id` is where ranges of ids begin, `pids` how many tasks a
    container may have; `tell` says that a VM needs attention."""

    instance: str
    names: Names
    domains: Domains
    spawner: Spawner
    cgroups: Cgroups
    storage: Storage
    network: Network
    host: Host
    first_id: int
    pids: int
    online: list[int]
    watch: Watch
    tell: Callable[[VmId], None] = lambda vm: None  # noqa: ARG005  # nobody watches yet

    def record(self, vm: VmId) -> Record | None:
        """Of the VM's domain. Raises HypervisorError where it is damaged."""
        return self.domains.read(self.domains.place(vm))

    def record_for(self, call: Call, vm: VmId) -> Record | None:
        """Only of a domain of the call's incarnation: a late call does nothing to its
        successor."""
        found = self.record(vm)
        return found if found is not None and found.incarnation == call.incarnation else None

    def require(self, call: Call, vm: VmId) -> Record:
        """The same. Raises DoesNotExist without such a domain."""
        found = self.record_for(call, vm)
        if found is None:
            raise DoesNotExist(kind="domain", id=vm)
        return found

    def require_live(self, call: Call, vm: VmId) -> tuple[Record, Life]:
        """The same. Raises BadPowerState for one that runs no more."""
        found = self.require(call, vm)
        life = self.life(found)
        if stopped(found, life) is not None:
            raise BadPowerState(id=vm, actual="halted", expected=["running", "paused"])
        return found, life

    def change(self, call: Call, vm: VmId, edit: Callable[[Record], Record]) -> Record:
        """Replace the record. Raises DoesNotExist."""
        found = self.domains.change(vm, call.incarnation, edit)
        if found is None:
            raise DoesNotExist(kind="domain", id=vm)
        return found

    def place(self, record: Record) -> Place:
        """Where a container is, whichever instance's."""
        return Place(self.domains.root / record.instance / record.vm)

    def group(self, record: Record) -> Group:
        """What the container's processes are in."""
        return self.cgroups.group(f"{record.group}/c")

    def life(self, record: Record) -> Life:
        """What is seen of a container. Raises OSError."""
        if not record.started:
            return NOT_STARTED
        place, group = self.place(record), self.group(record)
        # Before the groups: what has ended by then is not alive after it.
        kept, status = locks.held(str(place.keeper)), read_status(place)
        served = locks.held(str(place.console_server))
        populated = group.populated()
        return Life(
            populated=populated,
            kept=kept,
            frozen=populated and group.frozen(),
            status=status,
            cpu_seconds=group.cpu_seconds(),
            memory_used=group.memory_used(),
            console=str(place.console) if served and populated else None,
        )

    def init(self, record: Record) -> int:
        """The pid of a running container's first process. Raises HypervisorError."""
        with suppress(OSError, ValueError):
            pid = int(self.place(record).init.read_text())
            # The number may be another's by now.
            if pid in self.group(record).pids():
                return pid
        raise HypervisorError(call="init", reason=f"{record.vm} has no first process any more")

    def first_id_for(self, mark: str) -> int:
        """Of the range of ids that what bears this mark has. Raises HypervisorError."""
        return self.domains.allot_ids(mark, self.first_id)

    def limits(self, record: Record) -> Limits:
        """What a container may use."""
        return Limits(
            memory=record.memory_target,
            cpus=self.cpus(record, record.vcpus),
            pids=self.pids,
            weight=record.scheduler.weight,
            cap=record.scheduler.cap,
            devices=frozenset({"fuse", "tun"} if record.nesting else ()),
        )

    def cpus(self, record: Record, vcpus: int) -> frozenset[int]:
        """Which CPUs stand for so many vCPUs."""
        return limits.cpus_for(
            vcpus, record.scheduler.affinity, self.online, spread=int(record.id)
        )

    def strike(self, vm: VmId, record: Record | None, deadline: float) -> bool:
        """Kill every process of a VM's containers, and the keeper; whether none lives then."""
        paths = {self.names.group(vm)}
        if record is not None and not record.group.startswith(f"{self.names.group(vm)}/"):
            paths.add(record.group)  # an adopted one's is its former owner's
        place = self.domains.place(vm)
        for holder in (place.keeper, place.dumper):
            locks.kill(str(holder))
        dead = [self.cgroups.group(path).kill(deadline) for path in paths]
        if not all(dead):
            return False
        held = (place.keeper, place.dumper, place.console_server)
        return all(_unlocked(path, deadline) for path in held)


def _unlocked(path: Path, deadline: float) -> bool:
    """Kill who holds a lock, and wait until nobody does."""
    waiting = threading.Event()
    while locks.held(str(path)):
        locks.kill(str(path))
        if time.monotonic() > deadline:
            return False
        waiting.wait(0.002)
    return True


class Status(msgspec.Struct, frozen=True):
    """What the keeper writes."""

    code: int


def read_status(place: Place) -> int | None:
    """How init ended, as a return code or minus a signal, once its keeper has seen that."""
    try:
        return msgspec.json.decode(place.status.read_bytes(), type=Status).code
    except (FileNotFoundError, msgspec.DecodeError):
        return None


class MicroOps:
    """Base of what carries micro-ops out."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine


def _not_cancelled(_ops: MicroOps, call: Call) -> None:
    call.checkpoint()


#: One that was cancelled before it began has no effect.
micro_op = Frame(_not_cancelled)


def processes_end(timeout: float = 60.0) -> Waiting:
    """What is waited for where a process cannot die yet."""
    return Waiting("its processes to end", timeout=timeout, recheck=0.5)
