"""LXD, as a private instance: its directory is the measurement's, its pool of the driver `dir`.

No LXD of the machine is asked or disturbed. It is started only where it is installed, and ended
with everything that it made.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from bench.containers.ground import DEADLINE, run, unmount_below
from bench.peers import Unavailable
from bench.pinning import ALL
from bench.server import Process

_IMAGE = "busybox"
_METADATA = "architecture: x86_64\ncreation_date: 1700000000\nproperties:\n  os: busybox\n"


class Lxd:
    """`bench.containers.Side`, through LXD's client `lxc`."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "unix.socket"
        # The client's own configuration too stays here.
        self.environ = {"LXD_DIR": str(directory), "HOME": str(directory)}

    def start(self, id: str) -> None:
        self.run("lxc", "start", id)

    def kill(self, id: str) -> None:
        self.run("lxc", "stop", "--force", id)

    def shut_down(self, id: str) -> None:
        self.run("lxc", "stop", "--timeout", f"{DEADLINE:.0f}", id)

    def start_all(self, ids: Sequence[str]) -> None:
        self.run("lxc", "start", *ids)

    def kill_all(self, ids: Sequence[str]) -> None:
        self.run("lxc", "stop", "--force", *ids)

    def pid(self, id: str) -> int:
        state: dict[str, Any] = msgspec.json.decode(
            self.run("lxc", "query", f"/1.0/instances/{id}/state")
        )
        return int(state["pid"])

    def run(self, *command: str) -> str:
        """What one of its programs prints. Raises RuntimeError."""
        return run(command, self.environ)


@contextmanager
def lxd(
    directory: Path, image: Path, bridge: str, ids: Sequence[str], cpus: frozenset[int] = ALL
) -> Iterator[Lxd]:
    """An LXD with instances that can be started, for this while. Raises Unavailable."""
    if os.geteuid() != 0:
        raise Unavailable("LXD needs root")
    if not (shutil.which("lxd") and shutil.which("lxc")):
        raise Unavailable("LXD is not installed")
    directory.mkdir(parents=True, mode=0o711)
    side = Lxd(directory)
    log = directory.with_name(f"{directory.name}.log")
    server = Process(["lxd", "--group", "root"], log, side.environ, cpus)
    try:
        side.run("lxd", "waitready", "--timeout", f"{DEADLINE:.0f}")
        _prepare(side, directory, image, bridge)
        for id in ids:
            side.run("lxc", "init", "--quiet", _IMAGE, id)
        yield side
    finally:
        _end(side, server)
        unmount_below(directory)
        shutil.rmtree(directory, ignore_errors=True)
        log.unlink()


def _prepare(side: Lxd, directory: Path, image: Path, bridge: str) -> None:
    root = {"type": "disk", "path": "/", "pool": "default"}
    nic = {"type": "nic", "nictype": "bridged", "parent": bridge, "name": "eth0"}
    seed = {
        "storage_pools": [{"name": "default", "driver": "dir"}],
        "profiles": [{"name": "default", "devices": {"root": root, "eth0": nic}}],
    }
    subprocess.run(
        ["lxd", "init", "--preseed"],
        input=msgspec.json.encode(seed),  # which is YAML
        env={**os.environ, **side.environ},
        stdout=subprocess.DEVNULL,
        timeout=DEADLINE,
        check=True,
    )
    (directory / "metadata.yaml").write_text(_METADATA)
    packed = directory / "image.tar"
    moved = f"--transform=s,^{image.name},rootfs,"
    where = ["-C", str(directory), "metadata.yaml", "-C", str(image.parent), image.name]
    run(["tar", "-cf", str(packed), moved, *where])
    side.run("lxc", "image", "import", "--quiet", str(packed), "--alias", _IMAGE)


def _end(side: Lxd, server: Process) -> None:
    """Its containers, then itself."""
    try:
        if server.alive:
            with suppress(RuntimeError, subprocess.TimeoutExpired):  # none of them runs
                side.run("lxc", "stop", "--all", "--force")
            with suppress(RuntimeError, subprocess.TimeoutExpired):
                side.run("lxd", "shutdown", "--timeout", f"{DEADLINE:.0f}")
    finally:
        server.kill()
