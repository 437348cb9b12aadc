"""Metadata on the disk: one directory a VM, one readable file a record.

A record that cannot be read is reported and left where it is; it is never taken for missing, and
the other VMs load. Generic over kinds of records: what a VM is, is not known here.

Different VMs may be written by different threads; one VM only by one at a time.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from msgspec import Struct

from journal.disk import Disk, is_temporary, name_aside, replace_file
from journal.documents import DocumentDamaged, Kind, decode_document, encode_document
from journal.errors import StoreUnwritable, reason_of

T = TypeVar("T", bound=Struct)

_VM: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_REMOVED: Final = ".removed-"


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that cannot be read as a record, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class LoadedVm:
    """The readable records of a VM by kind, and its damaged files.

    A kind that is in neither has no record.
    """

    records: dict[str, Struct]
    damaged: tuple[Damage, ...]


class SingleRecord(Generic[T]):
    """One record in the file `path`; the only place where record files are read and written."""

    def __init__(self, disk: Disk, path: Path, kind: Kind[T]) -> None:
        self._disk = disk
        self._kind = kind
        self.path = path

    def read(self) -> T | Damage | None:
        """The record, what is wrong with it, or None if there is none. Never raises."""
        try:
            return decode_document(self._disk.read(self.path), self._kind)
        except FileNotFoundError:
            return None
        except OSError as error:
            return Damage(self.path, reason_of(error))
        except DocumentDamaged as error:
            return Damage(self.path, str(error))

    def write(self, record: T, *, durable: bool, repair: bool = False) -> None:
        """Replace the record, at once and wholly; see Store.write. Raises StoreUnwritable."""
        data = encode_document(record, self._kind.version)
        try:
            if repair and isinstance(self.read(), Damage):
                # A second name, not another one: at no moment does the record look missing.
                self._disk.link(self.path, name_aside(self._disk, self.path))
            replace_file(self._disk, self.path, data, durable=durable)
        except OSError as error:
            raise StoreUnwritable(self.path, reason_of(error)) from error

    def delete(self, *, durable: bool) -> None:
        """Remove the file, if there is one. Raises StoreUnwritable."""
        try:
            self._disk.remove(self.path)
            # Even if it was not there: perhaps it went without being made durable.
            if durable and self._disk.exists(self.path.parent):
                self._disk.fsync_dir(self.path.parent)
        except OSError as error:
            raise StoreUnwritable(self.path, reason_of(error)) from error


class Store:
    """The directory `root`, with the file `root/VM/KIND.json` for each kind in `kinds`."""

    def __init__(self, disk: Disk, root: Path, kinds: Mapping[str, Kind[Any]]) -> None:
        self._disk = disk
        self._root = root
        self._kinds = dict(kinds)
        # VMs whose directory is there, and those whose directory survives a crash of the host.
        self._present: set[str] = set()
        self._rooted: set[str] = set()
        # Files that must not be overwritten unless told to repair them.
        self._damaged: set[Path] = set()

    def load(self) -> dict[str, LoadedVm]:
        """All VMs that have a record, readable or not; by id.

        Clears what a crash left behind: temporary files, and directories on their way out.
        Raises StoreUnwritable when `root` itself cannot be made or listed.
        """
        try:
            self._disk.mkdir(self._root)
            names = self._disk.names(self._root)
        except OSError as error:
            raise StoreUnwritable(self._root, reason_of(error)) from error
        self._present.clear()
        self._rooted.clear()
        self._damaged.clear()
        self._bury([self._root / name for name in names if name.startswith(_REMOVED)])
        loaded: dict[str, LoadedVm] = {}
        for name in names:
            if _VM.fullmatch(name):
                found = self._load_vm(name)
                if found.records or found.damaged:
                    loaded[name] = found
        return loaded

    def write(
        self, vm: str, kind: str, record: Struct, *, durable: bool, repair: bool = False
    ) -> None:
        """Write one record: whatever happens, the old one is there or the new one.

        With `durable` it survives a crash of the host; without, that may leave the old one, the
        new one, or on some file systems damage. A file that was damaged when loaded is only
        replaced with `repair`, and is kept then as `KIND.json.damaged-N`.
        Raises StoreUnwritable; the old record stands then, unless the very last step failed (the
        fsync of the directory), when either may.
        """
        single = self._single(vm, kind)
        if single.path in self._damaged and not repair:
            raise StoreUnwritable(single.path, "it is damaged, and this is no repair")
        self._make_directory(vm, durable=durable)
        single.write(record, durable=durable, repair=repair)
        self._damaged.discard(single.path)

    def delete(self, vm: str, kind: str, *, durable: bool = True) -> None:
        """Remove one record, if there is one. Raises StoreUnwritable."""
        single = self._single(vm, kind)
        single.delete(durable=durable)
        self._damaged.discard(single.path)

    def remove(self, vm: str) -> None:
        """Remove everything of a VM, durably and all at once. Raises StoreUnwritable.

        Nothing happens to a VM that has no directory.
        """
        directory = self._directory(vm)
        try:
            if not self._disk.exists(directory):
                return
            tombstone = self._entomb(directory)
        except OSError as error:
            raise StoreUnwritable(directory, reason_of(error)) from error
        self._present.discard(vm)
        self._rooted.discard(vm)
        for kind in self._kinds:
            self._damaged.discard(directory / f"{kind}.json")
        self._clear(tombstone)

    def _directory(self, vm: str) -> Path:
        if not _VM.fullmatch(vm):
            raise ValueError(f"not the id of a VM: {vm!r}")
        return self._root / vm

    def _single(self, vm: str, kind: str) -> SingleRecord[Any]:
        path = self._directory(vm) / f"{kind}.json"
        return SingleRecord(self._disk, path, self._kinds[kind])

    def _make_directory(self, vm: str, *, durable: bool) -> None:
        directory = self._directory(vm)
        try:
            if vm not in self._present:
                self._disk.mkdir(directory)
                self._present.add(vm)
            if durable and vm not in self._rooted:
                # Every name on the way, or a crash of the host forgets what is below it.
                self._disk.fsync_dir(self._root.parent)
                self._disk.fsync_dir(self._root)
                self._rooted.add(vm)
        except OSError as error:
            raise StoreUnwritable(directory, reason_of(error)) from error

    def _entomb(self, directory: Path) -> Path:
        """Take a directory out of sight in one step: a crash leaves it whole, or a tombstone."""
        number = 1
        while self._disk.exists(tombstone := self._tombstone(directory, number)):
            number += 1
        self._disk.rename(directory, tombstone)
        try:
            self._disk.fsync_dir(self._root)
        except OSError:
            # The caller will say that the VM is still there.
            self._disk.rename(tombstone, directory)
            raise
        return tombstone

    def _tombstone(self, directory: Path, number: int) -> Path:
        return self._root / f"{_REMOVED}{directory.name}-{number}"

    def _load_vm(self, vm: str) -> LoadedVm:
        directory = self._directory(vm)
        try:
            names = self._disk.names(directory)
        except NotADirectoryError:
            return LoadedVm({}, ())
        except OSError as error:
            return LoadedVm({}, (Damage(directory, reason_of(error)),))
        for name in filter(is_temporary, names):
            self._clear(directory / name)
        return self._load_records(vm, set(names))

    def _load_records(self, vm: str, names: set[str]) -> LoadedVm:
        records: dict[str, Struct] = {}
        damaged: list[Damage] = []
        for kind in self._kinds:
            if f"{kind}.json" not in names:
                continue
            found = self._single(vm, kind).read()
            if isinstance(found, Damage):
                damaged.append(found)
                self._damaged.add(found.path)
            elif found is not None:
                records[kind] = found
        return LoadedVm(records, tuple(damaged))

    def _bury(self, tombstones: list[Path]) -> None:
        """Finish removals that a crash has cut."""
        if not tombstones:
            return
        try:
            # Perhaps the crash came before the renaming was durable. Deleting first could bring
            # half a VM back.
            self._disk.fsync_dir(self._root)
        except OSError:
            return
        for tombstone in tombstones:
            self._clear(tombstone)

    def _clear(self, path: Path) -> None:
        """Remove a leftover; when even that fails, the next start tries again."""
        try:
            if self._disk.is_directory(path):
                self._disk.rmtree(path)
            else:
                self._disk.remove(path)
        except OSError:
            pass
