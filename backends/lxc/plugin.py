"""Containers through liblxc: the default on a Linux host where the daemon runs as root.

The daemon itself never loads liblxc, mounts, or enters a namespace: `backends.lxc.apart` does.
"""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec

from backends.interface import Available, Backend, Settings, Unavailable
from backends.lxc.cgroup import Cgroups
from backends.lxc.config import Host
from backends.lxc.domains import IDS, Domains
from backends.lxc.ending import Watch
from backends.lxc.host import HostOps, boot_id
from backends.lxc.machine import Machine
from backends.lxc.network import Network
from backends.lxc.places import Names
from backends.lxc.spawner import Spawner
from backends.lxc.storage import Storage
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


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section of the configuration. All of it counts when the backend is opened."""

    bridges: Annotated[
        tuple[str, ...],
        msgspec.Meta(
            description="bridges that the daemon makes when a VIF wants them",
            extra={"live": False},
        ),
    ] = ()
    first_id: Annotated[
        int,
        msgspec.Meta(
            ge=IDS,
            le=2**31,
            description="user id of the host where the containers' ranges of 65,536 ids begin",
            extra={"live": False},
        ),
    ] = 1_879_048_192
    pids: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=2**22,
            description="tasks that a container may have",
            extra={"live": False},
        ),
    ] = 4096


class Lxc:
    """`backends.interface.Backend`."""

    name = "lxc"
    features = FEATURES

    def __init__(self, machine: Machine, version: str) -> None:
        self._machine = machine
        self.host = HostOps(machine, version)
        self.vm = VmOps(machine)
        self.vbd = VbdOps(machine)
        self.vif = VifOps(machine)
        self.pci = PciOps(machine)

    def watch(self, needs_attention: Callable[[VmId], None]) -> None:
        """Tell of containers that end."""
        machine = self._machine
        machine.tell = needs_attention
        for place in machine.domains.places():
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


class Plugin:
    """`backends.interface.Plugin`."""

    options = Options

    def probe(self) -> Available | Unavailable:
        """Root, liblxc, and control groups that limit."""
        if os.geteuid() != 0:
            return Unavailable("the daemon does not run as root")
        if not _installed("liblxc.so.1"):
            return Unavailable("liblxc is not installed (Debian's package lxc)")
        if shutil.which("nft") is None:
            return Unavailable("nft is not installed (Debian's package nftables)")
        try:
            lacking = Cgroups.found().controllers.lacking
        except OSError as error:
            return Unavailable(f"control groups: {error}")
        if lacking:
            return Unavailable(f"control groups lack {', '.join(sorted(lacking))}")
        return Available(rank=10)

    def open(self, settings: Settings) -> Backend:
        """Open the host's containers. Raises HypervisorError, DeadlineExceeded."""
        try:
            return self._open(settings)
        except OSError as error:
            raise HypervisorError(call="open", reason=str(error)) from error

    def _open(self, settings: Settings) -> Backend:
        options: Options = settings.options
        run, state = settings.run_dir / "lxc", settings.state_dir / "lxc"
        domains = Domains(run, settings.instance)
        spawner = Spawner(run / f".{settings.instance}.jobs")
        storage = Storage(run=run, state=state, roots=settings.disks, spawner=spawner)
        domains.begin(boot_id())
        deadline = time.monotonic() + CLEAR
        spawner.open(CLEAR)
        storage.open(deadline)
        machine = Machine(
            instance=settings.instance,
            names=Names(run, settings.instance),
            domains=domains,
            spawner=spawner,
            cgroups=Cgroups.found(),
            storage=storage,
            network=Network(options.bridges),
            host=Host(apparmor=_apparmor()),
            first_id=options.first_id,
            pids=options.pids,
            online=sorted(os.sched_getaffinity(0)),
            watch=Watch(lambda vm: machine.tell(vm)),  # noqa: PLW0108  # it is set later
        )
        return Lxc(machine, spawner.run("liblxc_version", owner="", deadline=deadline))


def _installed(library: str) -> bool:
    """Whether a library is where the loader looks; it is not loaded."""
    places = [Path(base) for base in ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib64")]
    places += Path("/usr/lib").glob("*-linux-gnu*")
    return any((place / library).exists() for place in places)


def _apparmor() -> bool:
    """Whether the kernel has it on, and the tool that loads profiles is there."""
    enabled = Path("/sys/module/apparmor/parameters/enabled")
    with suppress(OSError):
        return enabled.read_text().strip() == "Y" and shutil.which("apparmor_parser") is not None
    return False
