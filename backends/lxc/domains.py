"""The records of the host's containers, each a file; domain ids, and ranges of ids.

A record is read and replaced under the lock of its place, by one rename: it is whole, or not
there. All of it is gone with the host's boot, as the containers are.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from backends.lxc.places import Place
from backends.lxc.plugin import IDS
from backends.lxc.record import Record
from idl.decoding import decoder
from idl.errors import AlreadyExists, HypervisorError
from idl.ids import VmId

#: Ranges that are given away, one after another.
RANGES = 8192

#: Where the run directories of a machine say which blocks of ids they use: a link for each, to
#: the range in RUN/lxc, and void when that is no more.
MACHINE = Path("/run/xenopsd-ids")

#: Directories of `RUN/lxc` that are no instance's: an instance's name begins with no dot.
RANGE_FILES = ".ranges"
NEXT = ".next"
BOOT = ".boot"


class Domains:
    """The places of one instance in `RUN/lxc`; `machine` is where ids are claimed."""

    def __init__(self, root: Path, instance: str, machine: Path) -> None:
        self.root = root
        self.instance = instance
        self._machine = machine
        machine.mkdir(exist_ok=True, mode=0o700)
        (root / instance).mkdir(parents=True, exist_ok=True, mode=0o711)
        (root / RANGE_FILES).mkdir(exist_ok=True, mode=0o700)

    def begin(self, boot_id: str) -> None:
        """Once the host has booted anew, where the directory has outlasted that: there is no
        domain, only what has to be cleared."""
        boot = self.root / BOOT
        with self._flock(self.root):
            try:
                if str(boot.readlink()) == boot_id:
                    return
            except FileNotFoundError:
                pass
            for place in self.places():
                with suppress(FileNotFoundError):
                    place.record.rename(place.dead)
            boot.unlink(missing_ok=True)
            boot.symlink_to(boot_id)

    def place(self, vm: VmId) -> Place:
        """Where this instance has a VM's container, whether there is one or not."""
        return Place(self.root / self.instance / vm)

    def places(self) -> Iterator[Place]:
        """Every place of the host."""
        for instance in self.root.iterdir():
            if not instance.name.startswith(".") and instance.is_dir():
                yield from (Place(path) for path in instance.iterdir() if path.is_dir())

    def read(self, place: Place) -> Record | None:
        """The record of a place. Raises HypervisorError where it is damaged."""
        try:
            line = place.record.read_bytes()
        except FileNotFoundError:
            return None
        return _decoded(place.record, line)

    def read_dead(self, place: Place) -> Record | None:
        """The record of what was killed there and is not cleared. Raises HypervisorError."""
        try:
            line = place.dead.read_bytes()
        except FileNotFoundError:
            return None
        return _decoded(place.dead, line)

    @contextmanager
    def locked(self, place: Place) -> Iterator[None]:
        """No other writer in the place's directory, which is made where it is missing."""
        place.path.mkdir(parents=True, exist_ok=True, mode=0o711)
        with self._flock(place.path):
            yield

    @contextmanager
    def _flock(self, directory: Path) -> Iterator[None]:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def create(self, record: Record) -> Record:
        """Make a place have this record; where it has one of the same incarnation, that is
        returned. Raises AlreadyExists."""
        place = self.place(record.vm)
        with self.locked(place):
            found = self.read(place)
            if found is None:
                self._write(place, record)
                return record
            if found.incarnation != record.incarnation:
                raise AlreadyExists(kind="domain", id=found.id)
            return found

    def change(
        self, vm: VmId, incarnation: str, edit: Callable[[Record], Record]
    ) -> Record | None:
        """Replace the record by an edited one; None without one of this incarnation."""
        place = self.place(vm)
        if not place.record.exists():
            return None
        with self.locked(place):
            found = self.read(place)
            if found is None or found.incarnation != incarnation:
                return None
            edited = edit(found)
            if edited is not found:
                self._write(place, edited)
            return edited

    def kill(self, vm: VmId) -> Record | None:
        """From here on there is no domain, only what has to be cleared: the record of that.
        None where there is neither, or what there is is damaged: then it says nothing of what
        has to be cleared."""
        place = self.place(vm)
        with suppress(FileNotFoundError):
            place.record.rename(place.dead)
        with suppress(HypervisorError):
            return self.read_dead(place)
        return None

    def adopt(self, vm: VmId, source: Place, edit: Callable[[Record], Record]) -> Record:
        """Take the container of another place over. Raises AlreadyExists, naming the one that
        is at our place."""
        place = self.place(vm)
        found = self.read(place)
        if found is not None:
            raise AlreadyExists(kind="domain", id=found.id)
        record = self.read(source)
        assert record is not None, "found there"
        with suppress(OSError):
            place.path.rmdir()
        # One rename: at every moment it stands in one place.
        source.path.rename(place.path)
        edited = edit(record)
        self._write(place, edited)
        return edited

    def allot_domain_id(self) -> str:
        """A domain id that no container has had since the host's boot."""
        fd = os.open(self.root / NEXT, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            number = int(os.pread(fd, 32, 0) or b"1")
            os.pwrite(fd, str(number + 1).encode(), 0)
        finally:
            os.close(fd)
        return str(number)

    def allot_ids(self, mark: str, first: int) -> int:
        """The first id of a range that is nobody else's; the same one for the same mark.

        Raises HypervisorError when there is none left."""
        directory = self.root / RANGE_FILES
        with self._flock(self._machine):
            taken = {path.name: path for path in directory.iterdir()}
            for number, path in taken.items():
                if _mark(path) == mark:
                    return first + int(number) * IDS
            for n in (n for n in range(RANGES) if str(n) not in taken):
                range_, start = directory / str(n), first + n * IDS
                if self._claim(range_, {start // IDS, (start + IDS - 1) // IDS}):
                    range_.symlink_to(mark)
                    return start
        raise HypervisorError(call="create", reason="every range of ids is in use")

    def _claim(self, range_: Path, blocks: set[int]) -> bool:
        """Say that this range has these blocks of IDS ids; False where another one has some."""
        claims = [self._machine / str(block) for block in blocks]
        for claim in claims:
            if os.path.lexists(_mark(claim)):
                return False
        for claim in claims:
            claim.unlink(missing_ok=True)
            claim.symlink_to(range_.absolute())
        return True

    def ranges(self, prefix: str) -> list[Path]:
        """The ranges whose marks begin so: links, each to its mark."""
        found = (self.root / RANGE_FILES).iterdir()
        return [path for path in found if _mark(path).startswith(prefix)]

    @staticmethod
    def _write(place: Place, record: Record) -> None:
        partial = place.path / ".domain.json"
        partial.write_bytes(msgspec.json.encode(record) + b"\n")
        partial.rename(place.record)


def _mark(range_: Path) -> str:
    try:
        return str(range_.readlink())
    except FileNotFoundError:
        return ""  # given back meanwhile


def _decoded(path: Path, line: bytes) -> Record:
    try:
        record: Record = decoder(Record).decode(line)
    except ValueError as error:
        raise HypervisorError(call="reading a domain", reason=f"{path}: {error}") from error
    return record
