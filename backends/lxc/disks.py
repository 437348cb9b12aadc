"""How a container's VBD is mounted, by its configuration alone: nothing is opened here."""

from dataclasses import dataclass
from typing import Literal

from backends.lxc.apart.syscalls import (
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
)
from idl.errors import InvalidParameter, Unimplemented
from idl.vbd import Local, Vbd

#: What a client may ask for, and what it is of the mount.
OPTIONS = {
    "ro": MOUNT_ATTR_RDONLY,
    "noexec": MOUNT_ATTR_NOEXEC,
    "nosuid": MOUNT_ATTR_NOSUID,
    "nodev": MOUNT_ATTR_NODEV,
    "noatime": MOUNT_ATTR_NOATIME,
    "nodiratime": MOUNT_ATTR_NODIRATIME,
    "nosymfollow": MOUNT_ATTR_NOSYMFOLLOW,
}
#: The client vouches for a file system that a guest may have written raw.
TRUSTED = "trusted"

Format = Literal["raw", "directory", "tar", "squashfs"]

#: Formats that nobody can write: always a base.
_BASES = frozenset({"tar", "squashfs"})


@dataclass(frozen=True, slots=True)
class Disk:
    """What to mount: `layered` when writes go to a layer, else `attributes` (those of
    mount_setattr(2)) say whether there are any."""

    path: str
    format: Format
    layered: bool
    attributes: int


def disk(vbd: Vbd, *, privileged: bool) -> Disk:
    """A VBD's disk as it is to be mounted. Raises InvalidParameter, Unimplemented."""
    backend = vbd.backend
    if backend is None:
        raise InvalidParameter(name="backend", reason=f"{vbd.id} is an empty drive")
    if not isinstance(backend, Local):
        raise Unimplemented(what="disks of storage plugins", backend="lxc")
    format = _format(vbd.id, backend)
    _require_place(vbd)
    attributes = _attributes(vbd, privileged=privileged)
    _require_trust(vbd, format)
    read_only = bool(attributes & MOUNT_ATTR_RDONLY)
    wanted = backend.overlay or format in _BASES or not vbd.persistent
    return Disk(backend.path, format, wanted and not read_only, attributes)


def _format(id: str, backend: Local) -> Format:
    if backend.format == "qcow2":
        reason = f"{id} is qcow2, which no container can mount; raw and squashfs can be"
        raise InvalidParameter(name="backend.format", reason=reason)
    return backend.format


def _attributes(vbd: Vbd, *, privileged: bool) -> int:
    options = vbd.mount.options if vbd.mount else []
    unknown = [option for option in options if option not in OPTIONS and option != TRUSTED]
    if unknown:
        raise _refusal(f"{unknown[0]} is none of {', '.join([*OPTIONS, TRUSTED])}")
    attributes = 0 if privileged else MOUNT_ATTR_NODEV
    if vbd.mode == "ro" or vbd.type == "cdrom":
        attributes |= MOUNT_ATTR_RDONLY
    for option in options:
        attributes |= OPTIONS.get(option, 0)
    return attributes


def _require_place(vbd: Vbd) -> None:
    """Liblxc would make a directory where such a path leads on the host."""
    path = vbd.mount.path if vbd.mount is not None else "/"
    if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
        reason = f"{path!r} has to be absolute, without .."
        raise InvalidParameter(name="mount.path", reason=reason)


def _require_trust(vbd: Vbd, format: Format) -> None:
    """A file system is read by the host's kernel, which one that was made for it can break."""
    trusted = vbd.mount is not None and TRUSTED in vbd.mount.options
    if format == "raw" and vbd.type != "cdrom" and not trusted:
        raise _refusal(
            f"the host mounts the file system of {vbd.id}, which a guest may have written: "
            f'add "{TRUSTED}" where none has; a directory is of the format "directory"'
        )


def _refusal(reason: str) -> InvalidParameter:
    return InvalidParameter(name="mount.options", reason=reason)
