"""The few file operations that durable state needs, as a Protocol and on the real disk.

Everything else in the package goes through a `Disk`, so that a test can stop it at any byte.
Nothing here knows what the files mean. Every operation raises OSError as the system does.
"""

import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

CHUNK = 256 * 1024

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


class AppendFile(Protocol):
    """A file open for appending; each `write` lands at the end, in one system call."""

    def write(self, data: bytes, /) -> int: ...

    def fsync(self) -> None: ...

    def truncate(self, size: int, /) -> None: ...

    def close(self) -> None: ...


class Disk(Protocol):
    """A file system, as far as the journal and the store are concerned.

    Files are made with mode 0600 and directories with 0700.
    """

    def open_append(self, path: Path, /, *, empty: bool = False) -> AppendFile:
        """Open `path` for appending, made if it is missing; `empty` throws its content away."""
        ...

    def read(self, path: Path, /) -> bytes: ...

    def chunks(self, path: Path, /) -> Iterator[bytes]:
        """Read `path` piece by piece, for files too big to hold."""
        ...

    def exists(self, path: Path, /) -> bool: ...

    def is_directory(self, path: Path, /) -> bool: ...

    def names(self, directory: Path, /) -> list[str]:
        """The names in `directory`, sorted."""
        ...

    def mkdir(self, path: Path, /) -> None:
        """Make a directory and its parents; nothing happens when it exists."""
        ...

    def rename(self, source: Path, target: Path, /) -> None:
        """Rename a file over `target`, or a directory to the new name `target`."""
        ...

    def exchange(self, one: Path, other: Path, /) -> bool:
        """Let two files that exist swap names, at once; False where the system cannot."""
        ...

    def link(self, source: Path, target: Path, /) -> None:
        """Give the file `source` a second name, which must be new."""
        ...

    def remove(self, path: Path, /) -> None:
        """Remove a file; nothing happens when it is missing."""
        ...

    def rmtree(self, path: Path, /) -> None: ...

    def fsync_dir(self, path: Path, /) -> None:
        """Make the names in the directory `path` survive a crash of the host."""
        ...


class RealAppendFile:
    """One descriptor, opened with O_APPEND."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: bytes, /) -> int:
        return os.write(self._fd, data)

    def fsync(self) -> None:
        os.fsync(self._fd)

    def truncate(self, size: int, /) -> None:
        os.ftruncate(self._fd, size)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class RealDisk:
    """The file system of this machine."""

    def open_append(self, path: Path, /, *, empty: bool = False) -> RealAppendFile:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return RealAppendFile(os.open(path, flags | (os.O_TRUNC if empty else 0), 0o600))

    def read(self, path: Path, /) -> bytes:
        # Half the price of Path.read_bytes, and a start reads thousands.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return b"".join(iter(lambda: os.read(fd, CHUNK), b""))
        finally:
            os.close(fd)

    def chunks(self, path: Path, /) -> Iterator[bytes]:
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def exists(self, path: Path, /) -> bool:
        return path.exists()

    def is_directory(self, path: Path, /) -> bool:
        return path.is_dir()

    def names(self, directory: Path, /) -> list[str]:
        return sorted(os.listdir(directory))  # noqa: PTH208 - names, a thousand times, no Paths

    def mkdir(self, path: Path, /) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def rename(self, source: Path, target: Path, /) -> None:
        source.rename(target)

    def exchange(self, one: Path, other: Path, /) -> bool:
        if _renameat2 is None:
            return False
        names = os.fsencode(one), os.fsencode(other)
        if _renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return True
        code = ctypes.get_errno()
        if code in (errno.ENOENT, errno.EINVAL, errno.ENOSYS):
            return False
        raise OSError(code, os.strerror(code), str(other))

    def link(self, source: Path, target: Path, /) -> None:
        target.hardlink_to(source)

    def remove(self, path: Path, /) -> None:
        path.unlink(missing_ok=True)

    def rmtree(self, path: Path, /) -> None:
        shutil.rmtree(path)

    def fsync_dir(self, path: Path, /) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def temporary_of(path: Path) -> Path:
    """Where the next content of `path` is written before it takes the name.

    One fixed name a file, so that a crash leaves one leftover at most.
    """
    return path.with_name(f".{path.name}.tmp")


def is_temporary(name: str) -> bool:
    """Whether `name` is that of a leftover of a write that was cut."""
    return name.startswith(".") and name.endswith(".tmp")


def write_all(file: AppendFile, data: bytes) -> None:
    """Write the whole of `data`, going on after short writes until the system says why."""
    written = file.write(data)
    while written < len(data):
        data = data[written:]
        written = file.write(data)


def replace_file(disk: Disk, path: Path, data: bytes, *, durable: bool) -> None:
    """Make `data` the content of `path`: at every moment the old one is there, or the new one.

    With `durable` that holds over a crash of the host too, and the new one is there on return.
    Raises OSError; the temporary file is then removed, where that is still possible.
    """
    temporary = temporary_of(path)
    try:
        write_temporary(disk, temporary, data, durable=durable)
        if not durable and disk.exchange(temporary, path):
            # ext4 writes a file out at once when it is renamed over another (300 us and more),
            # which nothing here asks for; when names are swapped it does not.
            remove_leftover(disk, temporary)
            return
        # The data is on the disk before the name is: a crash between leaves the old file.
        disk.rename(temporary, path)
    except OSError:
        remove_leftover(disk, temporary)
        raise
    if durable:
        disk.fsync_dir(path.parent)


def write_temporary(disk: Disk, temporary: Path, data: bytes, *, durable: bool) -> None:
    """Write `data` into a new file; raises OSError."""
    file = disk.open_append(temporary, empty=True)
    try:
        write_all(file, data)
        if durable:
            file.fsync()
    finally:
        file.close()


def remove_leftover(disk: Disk, path: Path) -> None:
    """Remove a file that nobody needs; when even that fails, the next start tries again."""
    try:
        disk.remove(path)
    except OSError:
        pass


def name_aside(disk: Disk, path: Path) -> Path:
    """A free name beside `path` under which damaged content can be kept as evidence."""
    number = 1
    while disk.exists(aside := path.with_name(f"{path.name}.damaged-{number}")):
        number += 1
    return aside
