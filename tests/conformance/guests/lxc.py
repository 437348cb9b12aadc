"""Guests for LXC: busybox from a shared image, which beats and obeys."""

import shutil
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import Literal

from rigs.container import Images, Init, init_among

from backends.interface import Backend, Domain, Settings
from backends.lxc.cgroup import Cgroups
from backends.lxc.places import Names
from backends.lxc.plugin import Options
from idl.pci import Pci
from idl.vbd import Disk, Local, Mount, Vbd
from idl.vif import Bridge, Vif
from idl.vm import Container, Guest, Hvm, Pv, Pvh, Vm
from xenopsd.configure import derived_mac

GUESTS: dict[str, Guest] = {
    "hvm": Hvm(),
    "pv": Pv(kernel="/boot/vmlinuz"),
    "pvh": Pvh(kernel="/boot/vmlinuz"),
    "container": Container(),
}


class Guests:
    """What the suite needs to know of a backend beside its interface."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._images = Images(directory.parent)
        # The path of a socket is at most 107 bytes long, and those of tests are long.
        self._run = Path(tempfile.mkdtemp(prefix="xenopsd-"))
        # The root of a container passes through it.
        self._run.chmod(0o755)
        self._bridge: str | None = None

    def close(self) -> None:
        """Remove what a test that failed left, and what was made for it."""
        for domain in self._run.glob("lxc/*/*/"):
            names = Names(self._run / "lxc", domain.parent.name)
            group = Cgroups.found().group(names.group(domain.name))
            group.kill(time.monotonic() + 30)
            group.remove(time.monotonic() + 30)
        for point in _mounted(self._run):
            subprocess.run(["umount", "--lazy", point], check=True)
        # Only now: what is beneath a mount is not what is in the directory.
        shutil.rmtree(self._run)
        if self._bridge is not None:
            subprocess.run(["ip", "link", "delete", self._bridge], check=True)

    def settings(self, instance: str) -> Settings:
        """For an instance of the one host that the suite runs on."""
        return Settings(
            instance=instance,
            state_dir=self._directory / instance,
            run_dir=self._run,
            options=Options(),
            disks=[self._directory, self._images.kept],
        )

    def guest_type(self) -> str:
        """The one that most tests use."""
        return "container"

    def vm(self, id: str, guest: str) -> Vm:
        """A VM with two vCPUs at most, whose guest boots and obeys."""
        return Vm(id=id, guest=GUESTS[guest], vcpu_max=2, memory_static_max=2**28)

    def boot(self, vm: Vm) -> list[Vbd]:
        """The VBDs without which it does not boot."""
        image = Local(path=str(self._images.directory), format="directory", overlay=True)
        return [Vbd(id=f"{vm.id}/root", position=0, backend=image, persistent=False)]

    def disk(self, vm: Vm, name: str, position: int) -> Vbd:
        """A disk of its own."""
        path = self._made(f"disks/{vm.id}-{name}")
        return _vbd(vm, name, position, Local(path=str(path), format="directory"))

    def volatile(self, vm: Vm, name: str, position: int) -> Vbd:
        """A disk that is thrown away at each start."""
        return _vbd(vm, name, position, self._base(), persistent=False)

    def layered(self, vm: Vm, name: str, position: int) -> Vbd:
        """A disk over a shared base, whose writes persist."""
        return _vbd(vm, name, position, self._base())

    def drive(self, vm: Vm, name: str, position: int) -> Vbd:
        """A CD drive with a medium in it."""
        return Vbd(
            id=f"{vm.id}/{name}",
            position=position,
            type="cdrom",
            mode="ro",
            mount=Mount(path=f"/mnt/{name}"),
            backend=self.medium("one"),
        )

    def medium(self, name: str) -> Disk:
        """A CD: a squashfs, since not every kernel knows ISO 9660."""
        path = self._directory / f"{name}.squashfs"
        if not path.exists():
            content = self._made(f"media/{name}")
            (content / "label").write_text(name)
            subprocess.run(["mksquashfs", content, path, "-quiet", "-no-progress"], check=True)
        return Local(path=str(path), format="raw")

    def vif(self, vm: Vm, name: str, position: int) -> Vif:
        """An interface on a bridge that exists."""
        if self._bridge is None:
            self._bridge = f"xc{uuid.uuid4().hex[:10]}"
            command = ["ip", "link", "add", self._bridge, "type", "bridge"]
            subprocess.run(command, check=True)
            subprocess.run(["ip", "link", "set", self._bridge, "up"], check=True)
        bridge = Bridge(name=self._bridge)
        mac = derived_mac(vm.id, position)
        return Vif(id=f"{vm.id}/{name}", position=position, mac=mac, backend=bridge)

    def pci(self, vm: Vm, name: str) -> Pci:
        """A device of the host that may be given away."""
        return Pci(id=f"{vm.id}/{name}", address="0000:00:1f.6")

    def up(self, backend: Backend, vm: Vm) -> bool:
        """Whether the guest has booted so far that it lets go of devices."""
        domain = backend.host.domain(vm.id)
        init = None if domain is None else _init(self._run, domain)
        return init is not None and init.beats() > 0

    def act(
        self, backend: Backend, vm: Vm, reason: Literal["poweroff", "reboot", "crash"]
    ) -> None:
        """Let the guest stop by itself."""
        domain = backend.host.domain(vm.id)
        init = None if domain is None else _init(self._run, domain)
        assert init is not None, "it does not run"
        init.obey(reason)

    def _made(self, name: str) -> Path:
        """A directory of this test."""
        path = self._directory / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _base(self) -> Local:
        path = self._made("base")
        (path / "file").write_text("of the base")
        return Local(path=str(path), format="directory", overlay=True)


def _vbd(vm: Vm, name: str, position: int, disk: Disk, *, persistent: bool = True) -> Vbd:
    return Vbd(
        id=f"{vm.id}/{name}",
        position=position,
        mount=Mount(path=f"/mnt/{name}"),
        backend=disk,
        persistent=persistent,
    )


def _init(run: Path, domain: Domain) -> Init | None:
    """The first process of a container, found by its control group."""
    assert domain.instance and domain.vm and domain.incarnation
    path = Names(run / "lxc", domain.instance).group(domain.vm, domain.incarnation)
    return init_among(Cgroups.found().group(f"{path}/c").pids())


def _mounted(directory: Path) -> list[str]:
    """Mount points beneath a directory, the topmost last."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines]
    return sorted((p for p in points if p.startswith(f"{directory}/")), reverse=True)
