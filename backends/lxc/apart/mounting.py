"""Jobs that mount what a disk is, and let it go.

Everything is put together where nobody sees it, as detached mounts, and appears at its place by
one call: there is either all of it or nothing, wherever a crash falls. What it is made of (the
id-mapped base and layer, a loop device) is held by the mount itself and goes with it.
"""

import errno
import fcntl
import os
import select
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from backends.lxc.apart import looping
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
    is_mount,
    mount,
    mount_setattr,
    move_mount,
    open_tree,
    setns,
    superblock,
    umount,
    unshare,
)

#: How an overlay is made: directories of the base can be renamed, and a layer fits a copy of its
#: base.
_OVERLAY = {
    "lowerdir": "base",
    "upperdir": "layer/upper",
    "workdir": "layer/work",
    "redirect_dir": "on",
    "index": "off",
    "metacopy": "off",
}

#: How often it is looked whether a layer is free, and milliseconds between: one that was let go
#: a moment ago is still being taken down.
_LOOKS = 100
_BETWEEN = 20

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def own_mounts(*, directory: str) -> None:
    """Make a directory, and a mount point of it that shares no mount with other namespaces."""
    os.makedirs(directory, mode=0o711, exist_ok=True)
    with _directory(directory) as fd:
        # Another instance may be at it.
        fcntl.flock(fd, fcntl.LOCK_EX)
        if not is_mount(directory):
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
    lasting: bool,
    running: bool,
    attributes: int,
    user_namespace: str | None,
    first_id: int,
    fds: list[int],
) -> dict[str, str | None]:
    """Mount at `at`, made here, what the descriptor given is: a directory, or with `image` a
    file or device with a file system (of `kind`, None: of whatever it has). Ids from 0 are what
    `user_namespace` maps them to, `first_id` and on. With `layer`, a directory with `work`,
    writes go there, and outlive a crash of the host if that is `lasting`; else `attributes` say
    whether there are any. `source` is the name that the mount is listed with. Answers the loop
    device. Nothing where something is mounted already. `running`: the container may still use a
    mount of the layer that was taken from it by force.

    Raises OSError, EBUSY where it does.
    """
    os.makedirs(at, mode=0o711, exist_ok=True)
    if is_mount(at):
        # It appeared as a whole, so it is all there.
        return {"loop": looping.device_below(at)}
    read_only = layer is not None or bool(attributes & MOUNT_ATTR_RDONLY)
    base = _file_system(fds[0], kind, read_only=read_only) if image else _copy(fds[0])
    with _namespace(user_namespace) as users:
        tree = base
        if layer is None:
            _map_own(base, users, lenient=image and read_only)
        else:
            _make_upper(base, layer, lasting=lasting)
            flags = () if lasting else ("volatile",)
            options = {"source": source, **_OVERLAY}
            tree = _overlaid(base, layer, users, first_id, flags, options, at=at, alone=running)
        _set(tree, attributes)
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
    base: int,
    layer: str,
    users: int | None,
    first_id: int,
    flags: tuple[str, ...],
    options: Mapping[str, str],
    *,
    at: str,
    alone: bool,
) -> int:
    """A detached overlay of a base and a layer. It is put together in a mount namespace of this
    process's own, since the kernel takes only mounts that are somewhere."""
    upper = open_tree(layer, OPEN_TREE_CLONE)
    host = _mount_namespace()
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
    if alone:
        _await_alone()
    overlay = superblock("overlay", *flags, **options)
    # Held until this process ends: its last user has to wait for the namespace to be taken down.
    _mount_namespace()
    setns(host, CLONE_NEWNS)
    return overlay


def _await_alone() -> None:
    """Wait until no overlay has the layer: what two of them write destroys it, and the kernel
    only warns of that. Raises OSError, EBUSY."""
    poll = select.poll()
    for _ in range(_LOOKS):
        if not _taken():
            return
        poll.poll(_BETWEEN)
    raise OSError(errno.EBUSY, "its guest still uses what was unplugged by force; end that first")


def _taken() -> bool:
    """Whether an overlay has the layer: asked for by a mount that comes to nothing, since its
    work is in another file system. One with an index has to have its layer to itself."""
    try:
        os.close(superblock("overlay", **{**_OVERLAY, "workdir": ".", "index": "on"}))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


def _mount_namespace() -> int:
    return os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def _make_upper(base: int, layer: str, *, lasting: bool) -> None:
    """The directory for what is written, with the owner, mode and attributes of the base's root,
    which it hides; before the base is id-mapped. Whole or not at all."""
    # Says that the host may have crashed meanwhile: then the layer would not be here.
    shutil.rmtree(f"{layer}/work/work/incompat", ignore_errors=True)
    upper, partial = f"{layer}/upper", f"{layer}/upper.partial"
    if os.path.isdir(upper):
        return
    with suppress(FileNotFoundError):
        os.rmdir(partial)
    os.mkdir(partial)
    _take_after(partial, f"/proc/self/fd/{base}")
    if lasting:
        _sync(partial)
    os.rename(partial, upper)
    if lasting:
        _sync(layer)


def _take_after(directory: str, root: str) -> None:
    found = os.stat(root)
    os.chown(directory, found.st_uid, found.st_gid)
    os.chmod(directory, stat.S_IMODE(found.st_mode))
    for name in _attributes(root):
        os.setxattr(directory, name, os.getxattr(root, name))


def _sync(directory: str) -> None:
    with _directory(directory) as fd:
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
