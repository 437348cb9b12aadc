"""The files of the simulator's world: domains, the counter of domain ids, the boot id.

A domain's file is read and written in place under flock, one open per access, so that the
daemon's threads and processes beside it exclude each other alike. Files outlive their domains
(they then hold null): ext4 takes up to a millisecond to make a file where many were just
removed. What a domain is, this module does not know.
"""

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from backends.simulator.record import Record, decode, encode
from idl.decoding import decoder
from idl.errors import DoesNotExist, HypervisorError

#: A write of more may be cut by SIGKILL between two pages.
PAGE = 4096

DOMAINS = "domains"
PLUGGED = "plugged"
LAYERS = "layers"
EVENTS = "events"
HOST = "host.json"
#: Where what a dead host had goes first; while it exists a reboot is not complete.
DEAD = ".dead"
SUFFIX = ".json"


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """`WORLD/host.json`."""

    boot_id: str
    next_domain: int


class Held:
    """A domain's file under its lock: `record` is what it holds."""

    __slots__ = ("_dir", "_fd", "_make", "_name", "_size", "record")

    def __init__(self, directory: int, name: str, *, make: bool) -> None:
        self._dir = directory
        self._name = name
        self._make = make
        self._fd: int | None = None
        self._size = 0
        self.record: Record | None = None

    def __enter__(self) -> Self:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if self._make else 0)
        try:
            self._fd = _open_locked(self._name, flags, self._dir)
        except FileNotFoundError:
            return self
        try:
            line = _content(self._fd)
            self._size = len(line)
            self.record = _decoded(self._name, line)
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def write(self, record: Record | None) -> None:
        """Make this the file's content; None where the domain is gone."""
        if self._fd is None:
            return
        line = encode(record, self._size)
        if len(line) <= PAGE:
            os.pwrite(self._fd, line, 0)
        else:
            _replace(self._name, encode(record), self._dir)
        self._size = len(line)
        self.record = record

    def unlink(self) -> None:
        """Remove the file."""
        if self._fd is not None:
            os.unlink(self._name, dir_fd=self._dir)


class World:
    """A world that exists. Raises OSError where it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._root = _directory(path)
        self._domains = _directory(path / DOMAINS)

    def close(self) -> None:
        """Let go of it; a call that comes later fails."""
        open_still, self._root, self._domains = (self._root, self._domains), -1, -1
        for fd in open_still:
            if fd != -1:
                os.close(fd)

    def hold(self, vm: str, *, make: bool = False) -> Held:
        """The file of a VM's domain, locked for the `with`; made where it is missing if
        `make`. Raises HypervisorError where it is damaged."""
        return Held(self._domains, vm + SUFFIX, make=make)

    def read(self, vm: str) -> Record | None:
        """The record of a VM's domain. Raises HypervisorError where it is damaged."""
        return self._read(vm + SUFFIX)

    def records(self) -> Iterator[Record]:
        """Every domain. Raises HypervisorError where one is damaged."""
        return (record for _, record in self.places())

    def places(self) -> Iterator[tuple[str, Record]]:
        """Every domain with the VM whose place it stands in. Raises HypervisorError where one
        is damaged."""
        for name in os.listdir(self._domains):  # noqa: PTH208  # by descriptor
            if name.endswith(SUFFIX) and not name.startswith("."):
                record = self._read(name)
                if record is not None:
                    yield name.removesuffix(SUFFIX), record

    def _read(self, name: str) -> Record | None:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._domains)
        except FileNotFoundError:
            return None
        try:
            return decode(_content(fd))
        except (ValueError, msgspec.DecodeError):
            pass  # perhaps caught in the middle of a write: look again, with the lock
        finally:
            os.close(fd)
        with Held(self._domains, name, make=False) as held:
            return held.record

    def boot_id(self) -> str:
        """Another one after each reboot of this host."""
        fd = os.open(HOST, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._root)
        try:
            return _host(_content(fd)).boot_id
        finally:
            os.close(fd)

    def allot_domain_id(self) -> str:
        """A domain id that no domain of this host has had."""
        fd = _open_locked(HOST, os.O_RDWR | os.O_CLOEXEC, self._root)
        try:
            host = _host(_content(fd))
            # In place, and never shorter: the counter only grows.
            os.pwrite(fd, _host_line(host.boot_id, host.next_domain + 1), 0)
        finally:
            os.close(fd)
        return str(host.next_domain)

    def reboot(self) -> None:
        """Every domain and everything plugged is gone, and the boot id is another one.

        Whoever has the world open goes on in the old directories, out of sight: so the
        caller must die next. Cut in the middle, `prepare` finishes it.
        """
        reboot(self.path)


def prepare(path: Path) -> World:
    """Open a world; it is made where it is missing, and a reboot cut short is finished.

    Raises OSError."""
    path.mkdir(parents=True, exist_ok=True)
    if (path / DEAD).exists():
        reboot(path)
        shutil.rmtree(path / DEAD)
    for name in (DOMAINS, PLUGGED, LAYERS, EVENTS):
        (path / name).mkdir(exist_ok=True)
    root = _directory(path)
    try:
        if not (path / HOST).exists():
            _replace(HOST, _host_line(str(uuid.uuid4()), 1), root)
    finally:
        os.close(root)
    return World(path)


def reboot(path: Path) -> None:
    """See `World.reboot`."""
    dead = path / DEAD
    dead.mkdir(exist_ok=True)
    for name in (DOMAINS, PLUGGED):
        if (path / name).exists():
            (path / name).rename(dead / name)
    root = _directory(path)
    try:
        # Last: a reader of the new boot id finds none of the old domains.
        host = _host((path / HOST).read_bytes())
        _replace(HOST, _host_line(str(uuid.uuid4()), host.next_domain), root)
    finally:
        os.close(root)


def no_domain(vm: str) -> DoesNotExist:
    """The error for a VM without a domain."""
    return DoesNotExist(kind="domain", id=vm)


def _directory(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _open_locked(name: str, flags: int, directory: int) -> int:
    while True:
        fd = os.open(name, flags, 0o640, dir_fd=directory)
        fcntl.flock(fd, fcntl.LOCK_EX)
        # Removed or replaced while we waited: what counts is the file of that name now.
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)


def _content(fd: int) -> bytes:
    found = os.pread(fd, PAGE, 0)
    while len(found) % PAGE == 0 and (more := os.pread(fd, PAGE, len(found))):
        found += more
    return found


def _replace(name: str, line: bytes, directory: int) -> None:
    partial = f".{name}.{os.getpid()}"
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640, dir_fd=directory)
    try:
        os.write(fd, line)
    finally:
        os.close(fd)
    os.rename(partial, name, src_dir_fd=directory, dst_dir_fd=directory)


def _decoded(name: str, line: bytes) -> Record | None:
    try:
        return decode(line)
    except ValueError as error:  # msgspec's are among them
        raise HypervisorError(call="reading a domain", reason=f"{name}: {error}") from error


def _host(line: bytes) -> Host:
    try:
        host: Host = decoder(Host).decode(line)
    except ValueError as error:
        raise HypervisorError(call="reading the host", reason=f"{HOST}: {error}") from error
    return host


def _host_line(boot_id: str, next_domain: int) -> bytes:
    return msgspec.json.encode(Host(boot_id=boot_id, next_domain=next_domain)) + b"\n"
