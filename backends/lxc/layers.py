"""Layers: where a VBD's writes go when its disk is a shared base, or thrown away at each start.

`STATE/lxc/layers/VM/NAME/` persists, `NAME@INCARNATION/` is thrown away with its incarnation.
A suspend renames that to `NAME@suspended/`, and before a container runs on from its image it is
given to its incarnation: a layer that belongs to an image never bears one.
Each holds `base.json` (what it was made over), `work` and, from its first mount on, `upper`.
Nothing is deleted here: what goes is buried. A layer of an incarnation is not written to the disk
in haste: whoever has it outlive the host's boot syncs it first.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec

from backends import parcel
from backends.durable import sync
from backends.lxc.sources import Identity
from idl.decoding import decoder
from idl.errors import StorageError
from idl.ids import DeviceId, VmId, name_of, vm_of
from idl.vbd import Vbd

#: Where an instance's layers are in its STATE/lxc.
LAYERS = "layers"

#: Stands for the incarnation in the name of a layer that belongs to a suspend image.
SUSPENDED = "suspended"


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """What a layer was made over: `digest` (of an archive) counts where there is one."""

    path: str
    identity: Identity
    digest: str | None = None

    def same(self, other: "Base") -> bool:
        """Whether a layer over the one fits the other."""
        if self.digest is not None or other.digest is not None:
            return self.digest == other.digest
        return self.identity.same(other.identity)


def name(vbd: Vbd, incarnation: str) -> str:
    """The directory of a VBD's layer in a domain of this incarnation."""
    return name_of(vbd.id) if vbd.persistent else f"{name_of(vbd.id)}@{incarnation}"


class Bury(Protocol):
    """Throw away entries of a directory; durably where that is `lasting`."""

    def __call__(self, directory: Path, names: Sequence[str], *, lasting: bool) -> None: ...


class Layers:
    """The layers of an instance; `bury` throws entries of a directory away."""

    def __init__(self, root: Path, bury: Bury) -> None:
        self._root = root
        self._bury = bury

    def path(self, vbd: Vbd, incarnation: str) -> Path:
        """Where a VBD's layer is, if it has one."""
        return self._root / vm_of(vbd.id) / name(vbd, incarnation)

    def make(self, vbd: Vbd, incarnation: str, base: Base) -> Path:
        """The layer; made, durably, where it is not there yet.

        Raises StorageError for one that was made over another base."""
        path = self.path(vbd, incarnation)
        try:
            _require_base(path, base)
        except FileNotFoundError:
            _create(path, base, lasting=vbd.persistent)
        return path

    def bases(self) -> Iterator[Base]:
        """What they were made over. Raises StorageError."""
        for path in self._root.glob("*/[!.]*"):
            with suppress(FileNotFoundError):  # dropped meanwhile
                yield _base(path)

    def adopt(self, vm: VmId, theirs: Path) -> None:
        """Take over the layers of a VM whose container runs on them: the directory `theirs`,
        which another instance has. Nothing where there is none (any more).

        Raises StorageError where they cannot come here as they are."""
        if not theirs.exists() or theirs == self._root / vm:
            return
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            # A rename, and no copy: the container goes on writing to them.
            theirs.rename(self._root / vm)
            sync(self._root)
            sync(theirs.parent)
        except OSError as error:
            reason = f"the layers {theirs} cannot be moved to {self._root / vm}: {error.strerror}"
            raise StorageError(plugin="lxc", reason=reason) from error

    def of_incarnations(self, vm: VmId) -> list[str]:
        """Those of a VM that die with their incarnation."""
        return [layer for layer in _names(self._root / vm) if _dies(layer)]

    def drop_incarnations(self, vm: VmId) -> None:
        """Drop every layer that dies with its incarnation. Raises OSError."""
        # One that a crash of the host brings back is dropped again.
        self._drop(vm, _dies, lasting=False)

    def drop_suspended(self, vm: VmId) -> None:
        """Drop what a suspend image has left behind, for a VM that starts anew. Raises OSError."""
        if any(_is_of(layer, SUSPENDED) for layer in _names(self._root / vm)):
            self._drop(vm, lambda layer: _is_of(layer, SUSPENDED), lasting=False)

    def suspend(self, vm: VmId, incarnation: str) -> None:
        """Give an incarnation's layers to the VM's suspend image, durably. Raises OSError."""
        self._give(vm, incarnation, SUSPENDED)

    def resume(self, vm: VmId, incarnation: str) -> None:
        """Give them to the incarnation that runs on from the image; those that it was made with
        go. Raises OSError."""
        self._give(vm, SUSPENDED, incarnation)

    def _give(self, vm: VmId, old: str, new: str) -> None:
        directory = self._root / vm
        given = [layer for layer in _names(directory) if _is_of(layer, old)]
        for layer in given:
            to = f"{layer.partition('@')[0]}@{new}"
            if (directory / to).exists():
                self._drop(vm, to.__eq__, lasting=False)
            (directory / layer).rename(directory / to)
        if given:
            sync(directory)

    def drop(self, id: DeviceId) -> None:
        """Drop every layer of a VBD. Raises OSError."""
        self._drop(vm_of(id), lambda layer: layer.partition("@")[0] == name_of(id))

    def drop_all(self, vm: VmId) -> None:
        """Drop every layer of a VM. Raises OSError."""
        self._drop(vm, lambda _layer: True)

    def _drop(self, vm: VmId, which: Callable[[str], bool], *, lasting: bool = True) -> None:
        directory = self._root / vm
        if not directory.exists():
            return
        dead = [layer for layer in _names(directory) if which(layer)]
        self._bury(directory, dead, lasting=lasting)
        self._forget(directory)

    def _forget(self, directory: Path) -> None:
        """Remove a VM's directory, unless a layer is in it."""
        for unfinished in directory.glob(".*.partial"):
            shutil.rmtree(unfinished)
        try:
            directory.rmdir()
        except OSError:
            pass  # not there, or a layer in it: then it stays

    def pack(self, vm: VmId, to: Path, *, timeout: float) -> None:
        """Move every layer of a VM. Raises OSError, StorageError."""
        parcel.move(self._root / vm, to, timeout=timeout)

    def unpack(self, vm: VmId, parcelled: Path, *, timeout: float) -> None:
        """Move them back to their place. Raises OSError, StorageError."""
        parcel.move(parcelled, self._root / vm, timeout=timeout)


def _names(directory: Path) -> list[str]:
    """The layers in a VM's directory; one half made is none."""
    try:
        found = [path.name for path in directory.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(layer for layer in found if not layer.startswith("."))


def _is_of(layer: str, incarnation: str) -> bool:
    return layer.partition("@")[2] == incarnation


def _dies(layer: str) -> bool:
    """Whether it dies with its incarnation."""
    return "@" in layer and not _is_of(layer, SUSPENDED)


def _base(path: Path) -> Base:
    """What a layer was made over. Raises FileNotFoundError, StorageError."""
    file = path / "base.json"
    try:
        found: Base = decoder(Base).decode(file.read_bytes())
    except ValueError as error:
        raise StorageError(plugin="lxc", reason=f"{file}: {error}") from error
    return found


def _require_base(path: Path, base: Base) -> None:
    found = _base(path)
    if not found.same(base):
        was = f"the layer {path} was made over {found.path} as it was"
        now = f"{base.path} is no longer that"
        way = "put it back, or remove the VBD's layer with the VBD"
        raise StorageError(plugin="lxc", reason=f"{was}; {now}: {way}")


def _create(path: Path, base: Base, *, lasting: bool) -> None:
    """A layer, whole or not at all; a lasting one is on the disk before anything is written to
    it. One of an incarnation ends with the host's boot anyway."""
    partial = path.with_name(f".{path.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    (partial / "work").mkdir(parents=True)
    # The guest's root would otherwise be anybody's on the host to reach.
    partial.chmod(0o700)
    with (partial / "base.json").open("wb") as file:
        file.write(msgspec.json.encode(base) + b"\n")
        file.flush()
        if lasting:
            os.fsync(file.fileno())
    if lasting:
        sync(partial)
    partial.rename(path)
    if lasting:
        sync(path.parent)
        sync(path.parent.parent)
