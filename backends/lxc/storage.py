"""What the VBDs of containers are on this host: sources, layers, and where both are mounted."""

import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from backends.interface import Call, Waiting
from backends.lxc import disks, sources
from backends.lxc.apart import mounts
from backends.lxc.disks import Disk, Format
from backends.lxc.images import Images
from backends.lxc.layers import LAYERS, SUSPENDED, Base, Layers
from backends.lxc.sources import Kind, Source
from backends.lxc.spawner import Spawner
from backends.lxc.tombstones import Tombstones
from idl.errors import DeviceDetachRejected, InvalidParameter, StorageError
from idl.ids import DeviceId, VmId, vm_of
from idl.vbd import Vbd

#: Seconds that unpacking an image may take, and between two looks at that.
UNPACKING = 3600.0
RECHECK = 0.2

#: The first kernel that maps the ids of a squashfs.
_SQUASHFS_MAPPED = (6, 2)

#: What may be at a path that is said to be of a format.
_KINDS: dict[Format, frozenset[Kind]] = {
    "directory": frozenset({"directory"}),
    "raw": frozenset({"file", "device"}),
    "squashfs": frozenset({"file", "device"}),
    "tar": frozenset({"file"}),
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A VBD is mounted: its layer, and its loop device where it has one of its own."""

    layer: Path | None
    loop: str | None


@dataclass(frozen=True, slots=True)
class _Base:
    """What is mounted, below a layer or alone: an open directory or image."""

    fd: int
    image: bool
    facts: Base


class Storage:
    """The storage of an instance: `run` is RUN/lxc, `state` STATE/lxc, `roots` what clients
    may name paths beneath. Where the kernel does not map the ids of a squashfs (`maps_squashfs`,
    None: as its version says), that is unpacked for those who need it."""

    def __init__(
        self,
        *,
        run: Path,
        state: Path,
        roots: Sequence[Path],
        spawner: Spawner,
        maps_squashfs: bool | None = None,
    ) -> None:
        self.state = state
        self._run = run
        self._roots = tuple(roots)
        self._spawner = spawner
        self._maps_squashfs = (
            maps_ids(os.uname().release) if maps_squashfs is None else maps_squashfs
        )
        self._images = Images(state / "images", spawner)
        self._tombstones = Tombstones(state / "tombstones", spawner)
        self.layers = Layers(state / LAYERS, self._tombstones.bury)

    def checkpoints(self, vm: VmId) -> Path:
        """Where a container's memory is while it is being saved or brought back."""
        return self.state / "checkpoints" / vm

    def open(self, deadline: float) -> None:
        """Make what is needed, once the spawner is open, and remove what a former daemon could
        not. Raises StorageError, DeadlineExceeded."""
        self._job("own_mounts", str(self._run), "storage", deadline, directory=str(self._run))
        self._drop_images()
        self._tombstones.clear()

    def _drop_images(self) -> None:
        """Throw away unpacked images that nobody has any more."""
        roots = [mount.root for mount in mounts.listed()]
        try:
            unused = self._images.unused(list(self.layers.bases()), roots)
        except StorageError:
            return  # whose base a layer has cannot be told: its next use tells of that
        if unused:
            self._tombstones.bury(self.state / "images", unused, lasting=False)

    def close(self) -> None:
        """Leave everything as it is."""
        self._tombstones.close()
        self._images.close()

    def prepare(
        self,
        call: Call,
        vbd: Vbd,
        *,
        at: Path,
        user_namespace: Path | None,
        first_id: int,
        suspended: bool = False,
        running: bool = False,
    ) -> Waiting | Prepared:
        """Mount a VBD at a directory, made here, for the id map of a pinned user namespace
        that starts at `first_id` (None: privileged, no map); with `suspended` on the layer that
        goes with the VM's image. Done already, it stays as it is. A layer that a container which
        is `running` still uses, after an unplug by force, is refused.

        Raises InvalidParameter, Unimplemented, StorageError."""
        disk = disks.disk(vbd, privileged=user_namespace is None)
        with sources.opened(disk.path, self._roots) as source, ExitStack() as stack:
            _require_kind(disk, source)
            base = self._base(disk, source, stack, privileged=user_namespace is None)
            if base is None:
                return Waiting(f"the image {disk.path} to be unpacked", UNPACKING, RECHECK)
            of = SUSPENDED if suspended else call.incarnation
            layer = self.layers.make(vbd, of, base.facts) if disk.layered else None
            answer = self._job(
                "mount_disk",
                vbd.id,
                vm_of(vbd.id),
                call.deadline,
                at=str(at),
                # What the container sees in its list of mounts: no path of the host.
                source=vbd.id,
                image=base.image,
                kind="squashfs" if disk.format == "squashfs" else None,
                layer=None if layer is None else str(layer),
                lasting=vbd.persistent,
                running=running,
                attributes=disk.attributes,
                user_namespace=None if user_namespace is None else str(user_namespace),
                first_id=first_id,
                fds=(base.fd,),
            )
        return Prepared(layer=layer, loop=answer["loop"])

    def _base(
        self, disk: Disk, source: Source, stack: ExitStack, *, privileged: bool
    ) -> "_Base | None":
        """What to mount; None while it is being unpacked."""
        squashfs = disk.format == "squashfs"
        facts = Base(path=source.path, identity=source.identity)
        if disk.format != "tar" and (not squashfs or privileged or self._maps_squashfs):
            return _Base(source.fd, source.kind != "directory", facts)
        image = self._images.unpacked(source, squashfs=squashfs, devices=privileged)
        if image is None:
            return None
        fd = os.open(image.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        # A squashfs may be mounted itself one day, by a newer kernel: then nothing has a digest.
        digest = None if squashfs else image.digest
        return _Base(fd, image=False, facts=msgspec.structs.replace(facts, digest=digest))

    def release(self, call: Call, vm: str, at: Path) -> None:
        """Unmount everything at a directory and remove that; nothing where there is nothing.
        Layers stay. Raises StorageError."""
        self._job("release_mounts", str(at), vm, call.deadline, at=str(at))

    def attach(self, call: Call, vm: str, *, at: Path, init: int, target: str) -> None:
        """Mount what is mounted at `at` also in the container that runs with this first
        process; nothing where it is there. Raises StorageError."""
        facts = {"at": str(at), "init": init, "target": target}
        self._job("attach_mount", f"{vm}: {target}", vm, call.deadline, **facts)

    def detach(
        self,
        call: Call,
        id: DeviceId,
        *,
        at: Path,
        init: int,
        force: bool,
        spare: Sequence[str] = (),
    ) -> None:
        """Unmount it there, wherever its guest has it; nothing where it is not. What is at the
        targets to `spare` stays, where other VBDs are the same directory.

        Raises DeviceDetachRejected where it is in use, unless by `force`; StorageError."""
        facts = {"at": str(at), "init": init, "spare": list(spare), "force": force}
        try:
            self._job("detach_mount", id, vm_of(id), call.deadline, **facts)
        except StorageError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno == errno.EBUSY:
                raise DeviceDetachRejected(id=id, reason="its guest is using it") from error
            raise

    def _job(self, job: str, what: str, owner: str, deadline: float, **arguments: Any) -> Any:
        try:
            return self._spawner.run(job, owner=owner, deadline=deadline, **arguments)
        except OSError as error:
            reason = f"{what}: {error.strerror or error}"
            raise StorageError(plugin="lxc", reason=reason) from error


def maps_ids(release: str) -> bool:
    """Whether a kernel of this release maps the ids of a squashfs."""
    major, minor, *_ = release.split(".")
    return (int(major), int(minor.partition("-")[0])) >= _SQUASHFS_MAPPED


def _require_kind(disk: Disk, source: Source) -> None:
    if source.kind not in _KINDS[disk.format]:
        reason = f"{disk.path} is a {source.kind}, which is never {disk.format}"
        raise InvalidParameter(name="backend.format", reason=reason)
