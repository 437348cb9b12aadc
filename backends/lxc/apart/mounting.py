"""Jobs that mount what a disk is, and let it go.

Everything is put together where nobody sees it, as detached mounts, and appears at its place by
one call: there is either all of it or nothing, wherever a crash falls. What it is made of (the
id-mapped base and layer, a loop device) is held by the mount itself and goes with it.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from backends.lxc.apart import looping, mounts
from backends.lxc.apart.syscalls import (
    AT_EMPTY_PATH,
    CLONE_NEWNS,
    MNT_DETACH,
    MOUNT_ATTR_ATIME,
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    OPEN_TREE_CLONE,
    UMOUNT_NOFOLLOW,
    file_system_ids,
    mount,
    mount_setattr,
    move_mount,
    open_tree,
    setns,
    superblock,
    umount,
    unshare,
)

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def own_mounts(*, directory: str) -> None:
    """Make a directory, and a mount point of it that shares no mount with other namespaces."""
    os.makedirs(directory, mode=0o711, exist_ok=True)
    with _directory(directory) as fd:
        # Another instance may be at it.
        fcntl.flock(fd, fcntl.LOCK_EX)
        if not mounts.at(os.path.realpath(directory)):
            mount(directory, directory, flags=MS_BIND)
        # A bind mount is shared as its parent is, so a crash between the two is mended here.
        mount("none", directory, flags=MS_PRIVATE)


def mount_disk(
    *,
    at: str,
    source: str,
    image: bool,
    kind: str | None,
    layer: str | None,
    attributes: int,
    user_namespace: str | None,
    first_id: int,
    fds: list[int],
) -> dict[str, str | None]:
    """Mount at `at`, made here, what the descriptor given is: a directory, or with `image` a
    file or device with a file system (of `kind`, None: of whatever it has). Ids from 0 are what
    `user_namespace` maps them to, `first_id` and on. With `layer`, a directory with `work`,
    writes go there; else `attributes` say whether there are any. `source` is the name that the
    mount is listed with. Answers the loop device. Nothing where something is mounted already.

    Raises OSError.
    """
    os.makedirs(at, mode=0o711, exist_ok=True)
    if mounts.at(os.path.realpath(at)):
        # It appeared as a whole, so it is all there.
        return {"loop": looping.device_below(at)}
    read_only = layer is not None or bool(attributes & MOUNT_ATTR_RDONLY)
    base = _file_system(fds[0], kind, read_only=read_only) if image else _copy(fds[0])
    with _namespace(user_namespace) as users:
        tree = base if layer is None else _overlaid(at, source, base, layer, users, first_id)
        _set(tree, attributes)
        if layer is None:
            _map_own(tree, users, lenient=image and read_only)
        move_mount(tree, at)
    return {"loop": looping.device_below(at)}


def release_mounts(*, at: str) -> None:
    """Unmount whatever is mounted at `at`, and remove that; nothing where there is nothing."""
    while True:
        try:
            umount(at, UMOUNT_NOFOLLOW)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno == errno.EINVAL:  # no mount point (any more)
                break
            if error.errno != errno.EBUSY:
                raise
            # Somebody on the host looks into it: it goes with the last who does.
            umount(at, UMOUNT_NOFOLLOW | MNT_DETACH)
    with suppress(FileNotFoundError):
        os.rmdir(at)


def _copy(directory: int) -> int:
    """A detached mount of a directory, without what is mounted below."""
    return open_tree("", OPEN_TREE_CLONE | AT_EMPTY_PATH, at=directory)


def _file_system(fd: int, kind: str | None, *, read_only: bool) -> int:
    """A detached mount of an image's file system; the kernel makes it the same one for all who
    mount that device."""
    flags = ("ro",) if read_only else ()
    with looping.device(fd, writable=not read_only) as (image, node):
        found = looping.recognised(image)
        if kind not in {None, found}:
            raise OSError(errno.EINVAL, f"holds {found}, not {kind}")
        return superblock(found, *flags, source=node)


def _set(tree: int, attributes: int) -> None:
    clear = MOUNT_ATTR_ATIME if attributes & MOUNT_ATTR_NOATIME else 0
    if attributes:
        mount_setattr(tree, set=attributes, clear=clear)


def _map_own(tree: int, users: int | None, *, lenient: bool) -> None:
    """As `_map`. With `lenient`, what cannot be mapped is nobody's: files that others may read
    can be read. So are media whose file systems know no owners."""
    try:
        _map(tree, users)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP or not lenient:
            raise
        mount_setattr(tree, set=MOUNT_ATTR_NOSUID)


def _map(tree: int, users: int | None) -> None:
    if users is None:
        return
    try:
        mount_setattr(tree, set=MOUNT_ATTR_IDMAP, user_namespace=users)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        what = "this kernel cannot map the ids of its file system: only privileged VMs can use it"
        raise OSError(errno.EOPNOTSUPP, what) from error


def _overlaid(
    at: str, source: str, base: int, layer: str, users: int | None, first_id: int
) -> int:
    """A detached overlay of a base and a layer. It is put together in a mount namespace of this
    process's own, since the kernel takes only mounts that are somewhere."""
    _make_upper(base, layer)
    upper = open_tree(layer, OPEN_TREE_CLONE)
    host = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    unshare(CLONE_NEWNS)
    # Seen by nobody else: no mount below the run directory is shared (`own_mounts`).
    mount("layers", at, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=700")
    os.chdir(at)
    for name, tree in (("base", base), ("layer", upper)):
        os.mkdir(name)
        _map(tree, users)
        move_mount(tree, name)
    if users is not None:
        # What the overlay itself makes in the layer has to have ids that are mapped there.
        file_system_ids(first_id)
    overlay = superblock(
        "overlay",
        source=source,
        lowerdir="base",
        upperdir="layer/upper",
        workdir="layer/work",
        redirect_dir="on",
        index="off",
        metacopy="off",
    )
    setns(host, CLONE_NEWNS)
    return overlay


def _make_upper(base: int, layer: str) -> None:
    """The directory for what is written, with the owner, mode and attributes of the base's root,
    which it hides; before the base is id-mapped. Whole or not at all."""
    upper, partial = f"{layer}/upper", f"{layer}/upper.partial"
    if os.path.isdir(upper):
        return
    with suppress(FileNotFoundError):
        os.rmdir(partial)
    os.mkdir(partial)
    root = f"/proc/self/fd/{base}"
    found = os.stat(root)
    os.chown(partial, found.st_uid, found.st_gid)
    os.chmod(partial, stat.S_IMODE(found.st_mode))
    for name in _attributes(root):
        os.setxattr(partial, name, os.getxattr(root, name))
    with _directory(partial) as fd:
        os.fsync(fd)
    os.rename(partial, upper)
    with _directory(layer) as fd:
        os.fsync(fd)


def _attributes(path: str) -> list[str]:
    """The extended attributes to be taken over."""
    try:
        found = os.listxattr(path)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:  # a file system without any
            raise
        return []
    return [name for name in found if not name.startswith("trusted.overlay.")]


@contextmanager
def _namespace(path: str | None) -> Iterator[int | None]:
    if path is None:
        yield None
        return
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _directory(path: str) -> Iterator[int]:
    fd = os.open(path, _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)
