"""What all sides stand on: an image, a bridge, and programs that are waited for.

Everything made here goes when it is left, by its own name; nothing of others is touched.
"""

import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backends import registry
from backends.interface import Unavailable as NotHere
from backends.lxc.cgroup import Cgroups
from bench.peers import Unavailable
from bench.server import ROOT

#: How long anything may take here, in seconds.
DEADLINE = 60.0
_BUILDER = ROOT / "packaging" / "busybox-image"
#: A control group that liblxc makes when it first ends a container, and leaves for ever.
_PIVOT = "lxc.pivot"


@dataclass(frozen=True)
class Ground:
    """A directory that every user may pass through, an image in it, the name of a bridge."""

    directory: Path
    bridge: str

    @property
    def image(self) -> Path:
        """A root file system, which nobody's container writes to."""
        return self.directory / "image"


@contextmanager
def ground(directory: Path) -> Iterator[Ground]:
    """For this while. Raises Unavailable, with the reason, where containers cannot be run."""
    answer = registry.probe().get("lxc", NotHere("the backend lxc is not installed"))
    if isinstance(answer, NotHere):
        raise Unavailable(answer.reason)
    if not shutil.which("lxc-start"):
        raise Unavailable("lxc-start is not installed")
    directory.mkdir(parents=True)
    # Containers have users of their own, who come by on the way to their files.
    for passed in (directory, directory.parent):
        passed.chmod(0o711)
    for passed in directory.parents:
        if not passed.stat().st_mode & 0o001:
            raise Unavailable(f"{passed} is closed to the users of containers")
    found = Ground(directory, f"xb{os.getpid()}")
    try:
        with _pivot_removed(), _bridge(found.bridge):
            run([str(_BUILDER), str(found.image)])
            yield found
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _bridge(name: str) -> Iterator[None]:
    run(["ip", "link", "add", name, "type", "bridge"])
    try:
        run(["ip", "link", "set", name, "up"])
        yield
    finally:
        run(["ip", "link", "delete", name])


@contextmanager
def _pivot_removed() -> Iterator[None]:
    group = Cgroups.found().group(_PIVOT)
    there = group.exists
    try:
        yield
    finally:
        if not there:
            group.remove(time.monotonic() + 1.0)


def run(command: Sequence[str], environ: Mapping[str, str] | None = None) -> str:
    """What a program prints; RuntimeError with its last words where it fails."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=None if environ is None else {**os.environ, **environ},
        timeout=DEADLINE,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])}: {done.stderr.strip()[-500:]}")
    return done.stdout


def await_up(pid: int) -> None:
    """Wait until a container's first process obeys; TimeoutError where it does not."""
    beats = Path(f"/proc/{pid}/root/run/heartbeat")
    until = time.monotonic() + DEADLINE
    while not (beats.exists() and beats.read_text()):
        if time.monotonic() > until:
            raise TimeoutError(f"the container of process {pid} does not come up")
        select.select([], [], [], 0.005)


def unmount_below(directory: Path) -> None:
    """Everything, the innermost first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    points = [Path(line.split()[1].replace("\\040", " ")) for line in lines]
    for point in reversed([p for p in points if p.is_relative_to(directory)]):
        run(["umount", "--lazy", str(point)])
