"""A storage on a directory, and what a container's root would see of the disks it mounts."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from backends.lxc.apart import mounts, syscalls
from backends.lxc.spawner import Spawner
from backends.lxc.storage import Storage
from idl.vbd import Local, Vbd

LIMIT = 30.0
FIRST = 1_000_000
MOUNTS = "/proc/self/mountinfo"
MS_SHARED = 1 << 20
BUSYBOX = "/bin/busybox"


@dataclass
class Attempt:
    """A call that nobody cancels."""

    incarnation: str = "i1"
    micro_op: str = "vbd.plug"
    deadline: float = field(default_factory=lambda: time.monotonic() + LIMIT)

    def checkpoint(self):
        pass

    def pause(self, seconds):
        threading.Event().wait(seconds)

    def progress(self, fraction):
        pass


@dataclass
class Disks:
    """A storage on a directory, the id map of a domain, and what is tried on them."""

    path: Path
    spawner: Spawner
    storage: Storage
    users: Path

    @property
    def images(self) -> Path:
        return self.path / "images"

    @property
    def state(self) -> Path:
        return self.path / "state"

    def at(self, vbd: Vbd) -> Path:
        return self.path / "run" / "disks" / vbd.id.partition("/")[2]

    def prepare(self, vbd: Vbd, incarnation="i1", privileged=False, running=False):
        users = None if privileged else self.users
        return self.storage.prepare(
            Attempt(incarnation),
            vbd,
            at=self.at(vbd),
            user_namespace=users,
            first_id=0 if privileged else FIRST,
            running=running,
        )

    def release(self, vbd: Vbd):
        self.storage.release(Attempt(), "vm1", self.at(vbd))

    def inside(self, vbd: Vbd, script: str, user=0) -> str:
        """What a shell says that has the disk as its root, as a user of the container."""
        done = subprocess.run(
            [
                *("nsenter", f"--user={self.users}", f"--root={self.at(vbd)}", "--wd=/"),
                *("-S", str(user), "-G", str(user), "/bin/busybox", "sh", "-ec", script),
            ],
            check=False,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def wait(self, seconds: float) -> None:
        threading.Event().wait(seconds)

    def mounted(self) -> list[str]:
        points = [mount.point for mount in mounts.listed()]
        return sorted(point for point in points if point.startswith(f"{self.path}/run/disks"))


def clear(path: Path):
    for mount in reversed(mounts.listed()):
        if f"{mount.point}/".startswith(f"{path}/"):
            with suppress(OSError):
                syscalls.umount(mount.point, syscalls.MNT_DETACH)


#: Becomes a container's first process: in namespaces of its own, with a disk as its root.
INIT = """
import os, sys
sys.path.append(sys.argv[1])
from backends.lxc.apart.syscalls import *
os.chdir(sys.argv[2])
if sys.argv[3]:
    setns(os.open(sys.argv[3], os.O_RDONLY | os.O_CLOEXEC), CLONE_NEWUSER)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
unshare(CLONE_NEWNS)
mount("none", "/", flags=MS_REC | MS_PRIVATE)
tree = open_tree("", OPEN_TREE_CLONE | AT_EMPTY_PATH)
move_mount(tree, ".")
os.fchdir(tree)
os.execv("/bin/busybox", ["sh", "-c", '''
    /bin/busybox pivot_root . . && /bin/busybox umount -l . && cd / && exec /bin/sh 2>&1
'''])
"""
ROOT = Path(__file__).parents[2]


def _until(lines: IO[str]) -> Iterator[str]:
    for line in lines:
        if line == "END\n":
            return
        yield line
    raise AssertionError("it has ended")


class Guest:
    """A shell as the first process of something like a container."""

    def __init__(self, at: Path, user_namespace: Path | None) -> None:
        words = [sys.executable, "-I", "-S", "-c", INIT, ROOT, at, user_namespace or ""]
        self.process = subprocess.Popen(
            [str(word) for word in words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": "/bin"},
        )
        self.pid = self.process.pid
        assert self.run("echo up") == "up"

    def run(self, command: str) -> str:
        """What a command says."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{command}\necho; echo END\n")
        self.process.stdin.flush()
        said = list(_until(self.process.stdout))
        return "".join(said).strip()

    def end(self) -> None:
        self.process.kill()
        with self.process:
            pass


@contextmanager
def mapped() -> Iterator[Path]:
    """A user namespace whose ids are those from FIRST on."""
    words = ["unshare", "--user", "sh", "-c", "echo; exec cat"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"\n"
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{process.pid}/{name}").write_text(f"0 {FIRST} 65536\n")
        yield Path(f"/proc/{process.pid}/ns/user")


@contextmanager
def disks(path: Path) -> Iterator[Disks]:
    """All of it, below a directory; nothing is mounted there afterwards."""
    for directory in ("images", "state", "run"):
        (path / directory).mkdir()
    # As below systemd, where everything is shared with other namespaces.
    syscalls.mount(str(path), str(path), flags=syscalls.MS_BIND)
    for kind in (syscalls.MS_PRIVATE, MS_SHARED):  # in a peer group of its own
        syscalls.mount("none", str(path), flags=kind)
    spawner = Spawner(path / "run" / "jobs")
    spawner.open(LIMIT)
    storage = Storage(
        run=path / "run", state=path / "state", roots=[path / "images"], spawner=spawner
    )
    try:
        storage.open(time.monotonic() + LIMIT)
        with mapped() as users:
            yield Disks(path, spawner, storage, users)
    finally:
        storage.close()
        spawner.close()
        clear(path)


def small(root: Path) -> None:
    """Make a small root file system."""
    for directory in ("bin", "etc", "home/user", "tmp"):
        (root / directory).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin")
    for applet in (
        "cat",
        "chown",
        "ls",
        "mkdir",
        "mount",
        "mv",
        "rm",
        "sh",
        "sleep",
        "stat",
        "umount",
    ):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc" / "issue").write_text("base")
    os.chown(root / "home" / "user", 1000, 1000)
    root.chmod(0o751)


def directory(path: Path, **fields) -> Vbd:
    overlay = fields.pop("overlay", False)
    backend = Local(path=str(path), format="directory", overlay=overlay)
    return Vbd(**{"id": "vm1/root", "backend": backend, **fields})
