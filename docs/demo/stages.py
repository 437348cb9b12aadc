"""Where the demo is played: on containers where those can run, else on the simulator."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from backends import registry
from backends.interface import Available
from idl.vbd import Local, Mount, Vbd
from idl.vif import Bridge, Vif
from idl.vm import Container, Vm

MIB = 1 << 20
BUILDER = Path(__file__).parents[2] / "packaging" / "busybox-image"


class Stage(Protocol):
    """A backend, configured; `state` and `run` are the daemon's directories, `slow` says that
    its micro-ops have to be slowed down for somebody to see them."""

    backend: str
    state: Path
    run: Path
    slow: bool

    def arguments(self) -> list[str]:
        """What xenopsd is told beside its directories."""

    def devices(self, vm: str, disks: int) -> tuple[list[Vbd], Vif]:
        """Disks and an interface for a VM."""

    def vms(self) -> Sequence[Vm]:
        """Three of them: `web`, `db`, `ct`."""

    def domains(self) -> list[str]:
        """The VMs that have a domain, as the backend's own files have it."""

    def strike(self) -> None:
        """Remove everything; no VM is left by then."""


class Simulated:
    """The simulator: it opens no disk."""

    backend = "simulator"
    slow = True

    def __init__(self, directory: Path) -> None:
        self._directory = self.run = directory
        self.state = directory / "state"

    def arguments(self) -> list[str]:
        return []

    def devices(self, vm: str, disks: int) -> tuple[list[Vbd], Vif]:
        paths = [f"/images/{vm}-{number}.raw" for number in range(disks)]
        vbds = [Vbd(id=f"{vm}/disk{n}", backend=Local(path=path)) for n, path in enumerate(paths)]
        return vbds, Vif(id=f"{vm}/net0", backend=Bridge(name="br0"))

    def vms(self) -> Sequence[Vm]:
        return (
            Vm(id="web", vcpu_max=2, memory_static_max=512 * MIB),
            Vm(id="db", memory_static_max=1024 * MIB),
            Vm(id="ct", guest=Container(), memory_static_max=256 * MIB),
        )

    def domains(self) -> list[str]:
        files = (self.state / "simulator/domains").glob("*.json")
        return sorted(f.stem for f in files if json.loads(f.read_text() or "{}").get("domain"))

    def strike(self) -> None:
        shutil.rmtree(self._directory)


class Contained:
    """Real containers of a small image, on a bridge of their own."""

    backend = "lxc"
    slow = False

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.state = directory / "state"
        # Containers have users of their own, who may not come by in a directory of root's.
        self.run = Path(tempfile.mkdtemp(prefix="xenopsd-demo-", dir="/run"))
        self.run.chmod(0o711)
        self._bridge = f"xd{os.getpid()}"
        self._image = directory / "images" / "busybox"

    def arguments(self) -> list[str]:
        if not self._image.exists():
            (self._directory / "images" / "data").mkdir(parents=True)
            subprocess.run([BUILDER, self._image], check=True)  # noqa: S603  # our own script
        config = self._directory / "config.toml"
        disks = json.dumps(str(self._directory / "images"))
        config.write_text(f'[paths]\ndisks = [{disks}]\n[lxc]\nbridges = ["{self._bridge}"]\n')
        return ["--config", str(config)]

    def devices(self, vm: str, disks: int) -> tuple[list[Vbd], Vif]:
        root = Local(path=str(self._image), format="directory", overlay=True)
        data = Local(path=str(self._image.with_name("data")), format="directory")
        vbds = [Vbd(id=f"{vm}/root", position=0, backend=root)]
        if disks > 1:
            vbds.append(Vbd(id=f"{vm}/data", backend=data, mount=Mount(path="/srv")))
        return vbds, Vif(id=f"{vm}/net0", backend=Bridge(name=self._bridge))

    def vms(self) -> Sequence[Vm]:
        return [
            Vm(id=id, guest=Container(), memory_static_max=64 * MIB) for id in ("web", "db", "ct")
        ]

    def domains(self) -> list[str]:
        return sorted(path.parent.name for path in self.run.glob("lxc/*/*/domain.json"))

    def strike(self) -> None:
        subprocess.run(["umount", "--lazy", self.run / "lxc"], check=False, stderr=-3)  # noqa: S603, S607
        if Path(f"/sys/class/net/{self._bridge}").exists():
            subprocess.run(["ip", "link", "delete", self._bridge], check=True)  # noqa: S603, S607
        shutil.rmtree(self.run)
        shutil.rmtree(self._directory)


def chosen(backend: str | None, directory: Path) -> tuple[Stage, str]:
    """The stage for this backend, or for the best of the machine; and why, where that is not what
    one expects. Raises LookupError for a backend that has none."""
    name = backend or os.environ.get("XENOPSD_BACKEND")
    if name == "simulator":
        return Simulated(directory), ""
    answer = registry.probe().get("lxc")
    if name not in (None, "lxc"):
        raise LookupError(f"the demo plays on lxc and on the simulator, not on {name}")
    if isinstance(answer, Available) and shutil.which("busybox"):
        return Contained(directory), ""
    reason = getattr(
        answer, "reason", "busybox is not installed (Debian's package busybox-static)"
    )
    return Simulated(directory), f"No containers here: {reason}."
