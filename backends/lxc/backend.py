"""The backend, opened: what is loaded only where containers run.

The daemon itself never loads liblxc, mounts, or enters a namespace: `backends.lxc.apart` does.
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from backends.interface import Backend, Settings
from backends.lxc.cgroup import Cgroups
from backends.lxc.config import Host
from backends.lxc.domains import MACHINE, Domains
from backends.lxc.ending import Watch
from backends.lxc.host import HostOps, boot_id
from backends.lxc.machine import Machine
from backends.lxc.network import Network
from backends.lxc.places import Names
from backends.lxc.spawner import Spawner
from backends.lxc.storage import Storage
from backends.lxc.suspend import Suspension
from backends.lxc.vbd import VbdOps
from backends.lxc.vif import PciOps, VifOps
from backends.lxc.vm import VmOps
from idl.errors import HypervisorError, Unimplemented
from idl.ids import VmId

FEATURES = frozenset(
    {
        "guest:container",
        "vbd_hotplug",
        "vbd_force_unplug",
        "vif_hotplug",
        "vcpu_hotplug",
        "balloon",
        "console",
    }
)

#: Seconds within which what a former daemon left running is gone.
CLEAR = 20.0


class Lxc:
    """`backends.interface.Backend`."""

    name = "lxc"

    def __init__(self, machine: Machine, version: str, lacking: Mapping[str, str]) -> None:
        self._machine = machine
        self.features = FEATURES if "suspend" in lacking else FEATURES | {"suspend"}
        self.lacking = lacking
        self.host = HostOps(machine, version, lacking)
        self.vm = VmOps(machine, Suspension(machine, lacking.get("suspend")))
        self.vbd = VbdOps(machine)
        self.vif = VifOps(machine)
        self.pci = PciOps(machine)

    def watch(self, needs_attention: Callable[[VmId], None]) -> None:
        """Tell of containers that end."""
        machine = self._machine
        machine.tell = needs_attention
        for place in machine.domains.places():
            record = None
            with suppress(HypervisorError):  # damaged: `HostOps.domains` tells of it
                record = machine.domains.read(place)
            if record is not None and record.instance == machine.instance and record.started:
                machine.watch.add(record.vm, place)

    def interrupt(self, vm: VmId) -> None:
        """Kill the processes that are at something for this VM."""
        self._machine.spawner.interrupt(vm)

    def kill(self, vm: VmId) -> None:
        """The domain is no more; then its processes are not."""
        machine = self._machine
        try:
            record = machine.domains.kill(vm)
            if record is not None:
                machine.spawner.interrupt(vm)
                machine.strike(vm, record, time.monotonic() + 5.0)
        except OSError as error:
            raise HypervisorError(call="kill", reason=str(error)) from error
        machine.tell(vm)

    def debug(self, cmd: str, args: Sequence[str]) -> None:
        raise Unimplemented(what=f"trigger {cmd}", backend="lxc")

    def close(self) -> None:
        """Containers and their keepers live on."""
        machine = self._machine
        # The instance's own group, if no container is in it: nobody starts one now.
        machine.cgroups.group(machine.names.group()).remove(time.monotonic())
        machine.watch.close()
        machine.spawner.close()


def opened(settings: Settings, *, bridges: Sequence[str], first_id: int, pids: int) -> Backend:
    """The host's containers, for an instance. Raises HypervisorError, DeadlineExceeded."""
    spawner = Spawner(settings.run_dir / "lxc" / f".{settings.instance}.jobs")
    try:
        return _opened(settings, spawner, bridges, first_id, pids)
    except OSError as error:
        spawner.close()
        raise HypervisorError(call="open", reason=str(error)) from error
    except BaseException:
        spawner.close()
        raise


def _opened(
    settings: Settings, spawner: Spawner, bridges: Sequence[str], first_id: int, pids: int
) -> Backend:
    run, state = settings.run_dir / "lxc", settings.state_dir / "lxc"
    domains = Domains(run, settings.instance, MACHINE)
    storage = Storage(run=run, state=state, roots=settings.disks, spawner=spawner)
    domains.begin(boot_id())
    deadline = time.monotonic() + CLEAR
    spawner.open(CLEAR)
    storage.open(deadline)
    version = spawner.run("liblxc_version", owner="", deadline=deadline)
    machine = Machine(
        instance=settings.instance,
        names=Names(run, settings.instance),
        domains=domains,
        spawner=spawner,
        cgroups=Cgroups.found(),
        storage=storage,
        network=Network(bridges),
        host=Host(apparmor=_apparmor()),
        first_id=first_id,
        pids=pids,
        online=sorted(os.sched_getaffinity(0)),
        watch=Watch(lambda vm: machine.tell(vm)),  # noqa: PLW0108  # it is set later
    )
    return Lxc(machine, version, _lacking(machine, deadline))


def _lacking(machine: Machine, deadline: float) -> dict[str, str]:
    """What some hosts can do and this one cannot, and why."""
    if machine.cgroups.version != "v2":
        return {"suspend": "control groups are not of version 2 alone"}
    if machine.host.apparmor:
        return {"suspend": "AppArmor confines the containers"}
    reason = machine.spawner.run("criu_unable", owner="", deadline=deadline)["reason"]
    return {} if reason is None else {"suspend": reason}


def _apparmor() -> bool:
    """Whether the kernel has it on, and the tool that loads profiles is there."""
    enabled = Path("/sys/module/apparmor/parameters/enabled")
    with suppress(OSError):
        return enabled.read_text().strip() == "Y" and shutil.which("apparmor_parser") is not None
    return False
