"""What clients name: opened beneath the configured roots, never by a link that leads out; and
mounted in containers where no link leads."""

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import msgspec

from backends.lxc.apart.syscalls import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    openat2,
)
from idl.errors import InvalidParameter, StorageError

#: Its links are the host's own, and lead to the devices beside it.
_DEVICES = Path("/dev")
_SECTOR = 512

Kind = Literal["directory", "file", "device"]


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Which file it is, and as it was when: sizes in bytes, times in ns since the epoch.

    Numbers of devices last for one boot alone."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    boot: str

    def same(self, other: "Identity") -> bool:
        """Whether both are of the same unchanged file."""
        if self.boot != other.boot:
            return self._lasting() == other._lasting()  # noqa: SLF001  # of the same class
        return self == other

    def _lasting(self) -> tuple[int, int, int]:
        return self.inode, self.size, self.mtime_ns


@dataclass(frozen=True, slots=True)
class Source:
    """What was named, open: `fd` (O_PATH) is closed by who opened it."""

    path: str
    fd: int
    kind: Kind
    identity: Identity


@contextmanager
def opened(path: str, roots: Sequence[Path]) -> Iterator[Source]:
    """The directory, file or block device that a client names, until the end of the `with`.

    Raises InvalidParameter where it is not beneath the roots, StorageError where it is not."""
    fd = _open(path, roots)
    try:
        found = os.fstat(fd)
        yield Source(path, fd, _kind(path, found.st_mode), identity(found))
    finally:
        os.close(fd)


def require_no_links(disks: Mapping[str, Path]) -> None:
    """That a container which is to start has made no link on the way to where its disks belong:
    liblxc makes missing directories, and would follow it from the host's own root. `disks` has
    for each target where the disk is mounted on the host. Raises StorageError."""
    at = {PurePosixPath("/", target.lstrip("/")): disk for target, disk in disks.items()}
    for path in at:
        # The innermost of the disks that it is within; none for the root.
        below = next((above for above in path.parents if above in at), None)
        if below is not None:
            _require_no_link(at[below], str(path.relative_to(below)), str(path))


def _require_no_link(disk: Path, rest: str, target: str) -> None:
    top = os.open(disk, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(openat2(rest, os.O_PATH, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS, at=top))
    except OSError as error:
        if error.errno == errno.ELOOP:
            reason = f"the container has a symbolic link on the way to {target}"
            raise StorageError(plugin="lxc", reason=f"{reason}, where a disk belongs") from error
    finally:
        os.close(top)


def _open(path: str, roots: Sequence[Path]) -> int:
    if not path.startswith("/") or ".." in Path(path).parts:
        raise _refusal(path, "has to be absolute, without ..")
    above = [root for root in roots if Path(path).is_relative_to(root)]
    if not above:
        raise _refusal(path, f"is not beneath what paths.disks allows: {_named(roots)}")
    for root in above:
        with suppress(_LedOut):
            return _beneath(root, path)
    raise _refusal(path, f"leads out of what paths.disks allows by a link: {_named(roots)}")


class _LedOut(Exception):
    """Of the root, by a link."""


def _beneath(root: Path, path: str) -> int:
    start = _DEVICES if root.is_relative_to(_DEVICES) else root
    try:
        top = os.open(start, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            rest = str(Path(path).relative_to(start))
            fd = openat2(rest, os.O_PATH, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS, at=top)
        finally:
            os.close(top)
    except OSError as error:
        if error.errno in {errno.EXDEV, errno.ELOOP}:
            raise _LedOut from error
        reason = f"{path}: {os.strerror(error.errno or 0)}"
        raise StorageError(plugin="lxc", reason=reason) from error
    if start is _DEVICES and not stat.S_ISBLK(os.fstat(fd).st_mode):
        os.close(fd)
        raise StorageError(plugin="lxc", reason=f"{path} is no block device")
    return fd


def _named(roots: Sequence[Path]) -> str:
    return ", ".join(map(str, roots)) or "nothing"


def _refusal(path: str, reason: str) -> InvalidParameter:
    return InvalidParameter(name="backend.path", reason=f"{path} {reason}")


def _kind(path: str, mode: int) -> Kind:
    if stat.S_ISDIR(mode):
        return "directory"
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISBLK(mode):
        return "device"
    reason = f"{path} is neither a directory nor a file nor a block device"
    raise StorageError(plugin="lxc", reason=reason)


def identity(found: os.stat_result) -> Identity:
    """Which file, directory or block device it is that was looked at."""
    if stat.S_ISBLK(found.st_mode):
        # Its node is made anew at each boot, and tells nothing of what is on it.
        device, inode, size, mtime = found.st_rdev, 0, _device_size(found.st_rdev), 0
    else:
        device, inode, size, mtime = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
    return Identity(device=device, inode=inode, size=size, mtime_ns=mtime, boot=_boot())


def _device_size(device: int) -> int:
    size = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/size")
    return int(size.read_text()) * _SECTOR


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
