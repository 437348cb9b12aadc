"""What containers are started from in tests: a busybox that beats, obeys, and has a shell.

The image is the users' own (`packaging/busybox-image`), made once for each content.
"""

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

BUILDER = Path(__file__).parents[2] / "packaging" / "busybox-image"

#: A first process that hears no signal, and never ends by itself.
DEAF = ["/bin/sleep", "2147483647"]

Act = Literal["poweroff", "reboot", "crash"]


@dataclass(frozen=True)
class Images:
    """The same image in three forms, made when first asked for, and kept in a directory."""

    kept: Path

    @property
    def directory(self) -> Path:
        """Unpacked; it belongs to root."""
        return self._made("root")

    @property
    def tar(self) -> Path:
        return self._made("image.tar.gz")

    @property
    def squashfs(self) -> Path:
        return self._made("image.squashfs")

    def _made(self, name: str) -> Path:
        busybox = shutil.which("busybox")
        assert busybox, "install busybox-static"
        content = BUILDER.read_bytes() + Path(busybox).read_bytes()
        path = self.kept / f"busybox-{hashlib.sha256(content).hexdigest()[:12]}" / name
        if not path.exists():
            subprocess.run([BUILDER, path], check=True)
        return path


@dataclass(frozen=True)
class Init:
    """The first process of a running container, as the host sees it."""

    pid: int

    @property
    def root(self) -> Path:
        """The container's `/`."""
        return Path(f"/proc/{self.pid}/root")

    def beats(self) -> int:
        """How far its heart is; 0: it is not up yet, or not any more."""
        try:
            return int((self.root / "run/heartbeat").read_text() or 0)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return 0

    def obey(self, what: Act) -> None:
        """Have it stop by itself. Raises OSError where it is not up."""
        descriptor = os.open(self.root / "run/init", os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(descriptor, f"{what}\n".encode())
        finally:
            os.close(descriptor)


def init_among(pids: list[int]) -> Init | None:
    """The one that is the first in its own namespace of processes."""
    return next(iter(inits_among(pids)), None)


def inits_among(pids: list[int]) -> list[Init]:
    """All that are."""
    return [Init(pid) for pid in pids if _first(pid)]


def _first(pid: int) -> bool:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return False
    numbers = next(line.split()[1:] for line in lines if line.startswith("NSpid:"))
    return len(numbers) > 1 and numbers[-1] == "1"
