"""Layers: where a VBD's writes go when its disk is a shared base, or thrown away at each start.

`WORLD/layers/VM/NAME.json` persists. `NAME@INCARNATION.json` is thrown away with its
incarnation; a suspend renames it to `NAME@suspended.json`, and the first unpause of the
resumed domain gives it to the new incarnation. So a layer that belongs to a suspend image
never bears an incarnation, and `vm.destroy` may drop every one that does.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec

from backends import parcel
from idl.decoding import decoder
from idl.errors import StorageError
from idl.ids import DeviceId, VmId, name_of, vm_of
from idl.vbd import Disk, Local, Vbd

SUSPENDED = "suspended"
SUFFIX = ".json"

#: Formats that nobody can write: always a base.
_BASES = frozenset({"tar", "squashfs"})


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """What a layer's file holds: whose it is, and the base that it was made over."""

    vbd: DeviceId
    incarnation: str | None
    base: Disk


def wanted(vbd: Vbd) -> bool:
    """Whether a VBD's writes go to a layer."""
    if vbd.backend is None or vbd.mode == "ro":
        return False
    disk = vbd.backend
    overlay = isinstance(disk, Local) and (disk.overlay or disk.format in _BASES)
    return overlay or not vbd.persistent


def name(vbd: Vbd, incarnation: str) -> str:
    """The file of a VBD's layer in a domain of this incarnation."""
    return f"{name_of(vbd.id)}{'' if vbd.persistent else '@' + incarnation}{SUFFIX}"


class Layers:
    """The layers of a world."""

    def __init__(self, path: Path) -> None:
        self._root = path

    def make(self, vbd: Vbd, incarnation: str) -> str:
        """The layer's name; made where it is not there yet.

        Raises StorageError for a persistent one that was made over another base."""
        base = vbd.backend
        assert base is not None, "asked for only where `wanted`"
        path = self._root / vm_of(vbd.id) / name(vbd, incarnation)
        try:
            self._require_base(path, base)
        except FileNotFoundError:
            path.parent.mkdir(exist_ok=True)
            of = None if vbd.persistent else incarnation
            content = Layer(vbd=vbd.id, incarnation=of, base=base)
            # Whole or not at all: a layer cut short would be refused for ever.
            partial = path.with_name(f".{path.name}")
            partial.write_bytes(msgspec.json.encode(content) + b"\n")
            partial.replace(path)
        return path.name

    def _require_base(self, path: Path, base: Disk) -> None:
        try:
            found: Layer = decoder(Layer).decode(path.read_bytes())
        except ValueError as error:
            raise StorageError(plugin="simulator", reason=f"{path.name}: {error}") from error
        if found.base != base:
            reason = f"the layer {path.name} was made over another base"
            raise StorageError(plugin="simulator", reason=reason)

    def suspend(self, vm: VmId, layer: str) -> None:
        """Give an incarnation's layer to the VM's suspend image."""
        self._move(vm, layer, _suspended(layer))

    def resume(self, vm: VmId, layer: str) -> None:
        """Give it to the incarnation that runs on from the image."""
        self._move(vm, _suspended(layer), layer)

    def _move(self, vm: VmId, old: str, new: str) -> None:
        if old == new or "@" not in old:
            return  # persistent: it is nobody's but the VBD's
        try:
            (self._root / vm / old).replace(self._root / vm / new)
        except FileNotFoundError:
            pass  # done before

    def drop_suspended(self, vbd: Vbd) -> None:
        """Drop what a suspend image left behind, for a VBD that starts anew."""
        layer = f"{name_of(vbd.id)}@{SUSPENDED}{SUFFIX}"
        (self._root / vm_of(vbd.id) / layer).unlink(missing_ok=True)

    def of_incarnations(self, vm: VmId) -> list[str]:
        """Those of a VM that die with their incarnation."""
        try:
            found = [path.name for path in (self._root / vm).iterdir()]
        except FileNotFoundError:
            return []
        return [layer for layer in found if "@" in layer and layer != _suspended(layer)]

    def drop_incarnations(self, vm: VmId) -> None:
        """Drop every layer that dies with its incarnation."""
        for layer in self.of_incarnations(vm):
            (self._root / vm / layer).unlink(missing_ok=True)

    def drop(self, id: DeviceId) -> None:
        """Drop every layer of a VBD, and the VM's directory with the last one."""
        self._drop(vm_of(id), lambda layer: _owner(layer) == name_of(id))

    def drop_all(self, vm: VmId) -> None:
        """Drop every layer of a VM, and its directory."""
        self._drop(vm, lambda _layer: True)

    def _drop(self, vm: VmId, which: Callable[[str], bool]) -> None:
        directory = self._root / vm
        if not directory.exists():
            return
        for path in list(directory.iterdir()):
            if which(path.name):
                path.unlink(missing_ok=True)
        self.forget(vm)

    def pack(self, vm: VmId, to: Path, *, timeout: float) -> None:
        """Move the VM's directory. Raises OSError, StorageError."""
        parcel.move(self._root / vm, to, timeout=timeout)

    def unpack(self, vm: VmId, parcelled: Path, *, timeout: float) -> None:
        """Move it back to its place. Raises OSError, StorageError."""
        parcel.move(parcelled, self._root / vm, timeout=timeout)

    def forget(self, vm: VmId) -> None:
        """Remove the VM's directory, unless something is in it."""
        try:
            (self._root / vm).rmdir()
        except OSError:
            pass  # not there, or a layer in it: then it stays


def _owner(layer: str) -> str:
    return layer.removesuffix(SUFFIX).partition("@")[0]


def _suspended(layer: str) -> str:
    return f"{_owner(layer)}@{SUSPENDED}{SUFFIX}"
