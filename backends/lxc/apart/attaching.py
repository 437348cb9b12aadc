"""Jobs that mount a disk into a container that runs, and take it out again.

Whatever a guest says of paths is followed with the guest's own root and rights. What it gets is
a mount that it can unmount and move, but not make writable, or have devices on.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Self

from backends.lxc.apart import mounts
from backends.lxc.apart.mounts import Mount
from backends.lxc.apart.syscalls import (
    AT_EMPTY_PATH,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    MNT_DETACH,
    MOVE_MOUNT_T_EMPTY_PATH,
    OPEN_TREE_CLONE,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    UMOUNT_NOFOLLOW,
    move_mount,
    open_tree,
    openat2,
    setns,
    umount,
    unshare,
)

_RULES = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
#: How often a guest may mount what is being unmounted.
_ROUNDS = 8


def attach_mount(*, at: str, init: int, target: str) -> None:
    """Mount what is mounted at `at` on the host also at `target` in the container whose first
    process is `init`; the directory is made there. Nothing where it is there already.

    Raises OSError."""
    with _Container.of(init) as container:
        disk = mounts.at(os.path.realpath(at))
        if disk is None:
            raise OSError(errno.ENOENT, f"nothing is mounted at {at}")
        os.chdir(at)
        container.enter_user_namespace()
        # The copies of mounts that another user namespace gets have their flags locked.
        unshare(CLONE_NEWNS)
        tree = open_tree("", OPEN_TREE_CLONE | AT_EMPTY_PATH)
        container.enter()
        place = container.directory(target)
        if not any(_same(disk, there) for there in container.mounted(container.path(place))):
            move_mount(tree, "", at=place, flags=MOVE_MOUNT_T_EMPTY_PATH)


def detach_mount(*, at: str, init: int, spare: Sequence[str], force: bool) -> None:
    """Unmount, in the container whose first process is `init`, what is mounted at `at` on the
    host, wherever its guest has moved or bound it, all but what is at the paths to `spare`
    (other disks that are the same directory). With `force` it goes when its last user does.

    Raises OSError: EBUSY where the guest uses it."""
    with _Container.of(init) as container:
        disk = mounts.at(os.path.realpath(at))
        if disk is None:
            return
        container.enter_user_namespace()
        container.enter()
        spared = set(container.paths(spare))
        flags = UMOUNT_NOFOLLOW | (MNT_DETACH if force else 0)
        for _ in range(_ROUNDS):
            found = [there for there in container.mounted() if _part(disk, there)]
            points = [there.point for there in found if there.point not in spared]
            if not points:
                return
            for point in reversed(points):
                _unmount(point, flags)
        raise OSError(errno.EBUSY, "the guest mounts it again and again")


def _unmount(point: str, flags: int) -> None:
    try:
        umount(point, flags)
    except OSError as error:
        # Gone, or moved meanwhile: then it is found again.
        if error.errno not in {errno.EINVAL, errno.ENOENT}:
            raise


def _same(disk: Mount, there: Mount) -> bool:
    return (disk.device, disk.root) == (there.device, there.root)


def _part(disk: Mount, there: Mount) -> bool:
    """Whether it is the disk, or a directory of it that the guest has bound elsewhere."""
    above = disk.root.rstrip("/")
    return disk.device == there.device and f"{there.root}/".startswith(f"{above}/")


class _Container:
    """A container's namespaces, and this process as seen from the host's /proc, which the
    container does not have."""

    def __init__(self, user: int, mount: int, root: int, proc: int) -> None:
        self.user = user
        self.mount = mount
        self.root = root
        self.proc = proc

    @classmethod
    @contextmanager
    def of(cls, init: int) -> Iterator[Self]:
        """Of the container whose first process this is, to be entered."""
        kinds = {"ns/user": os.O_RDONLY, "ns/mnt": os.O_RDONLY, "root": os.O_PATH}
        fds: list[int] = []
        try:
            for name, flags in kinds.items():
                fds.append(os.open(f"/proc/{init}/{name}", flags | os.O_CLOEXEC))
            fds.append(os.open("/proc/self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            yield cls(*fds)
        finally:
            for fd in fds:
                os.close(fd)

    def enter_user_namespace(self) -> None:
        """Nothing for a privileged container, which has the host's."""
        if not os.path.samestat(os.fstat(self.user), os.stat("ns/user", dir_fd=self.proc)):
            setns(self.user, CLONE_NEWUSER)

    def enter(self) -> None:
        """Be a process of its root user; there is no way back."""
        setns(self.mount, CLONE_NEWNS)
        os.fchdir(self.root)
        os.chroot(".")
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)

    def directory(self, path: str) -> int:
        """A directory, made where it is missing."""
        try:
            return openat2(path, os.O_PATH | os.O_DIRECTORY, _RULES, at=self.root)
        except FileNotFoundError:
            above, _, name = path.rstrip("/").rpartition("/")
            parent = self.directory(above or "/")
            try:
                os.mkdir(name, 0o755, dir_fd=parent)
            finally:
                os.close(parent)
            return self.directory(path)

    def path(self, fd: int) -> str:
        """Where an open directory is, as the container names it."""
        return os.readlink(f"fd/{fd}", dir_fd=self.proc)

    def paths(self, named: Sequence[str]) -> Iterator[str]:
        """Where directories are that are there."""
        for path in named:
            with suppress(OSError):
                fd = openat2(path, os.O_PATH, _RULES, at=self.root)
                yield self.path(fd)
                os.close(fd)

    def mounted(self, point: str | None = None) -> list[Mount]:
        """Its mounts, or those at a path."""
        fd = os.open("mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.proc)
        with os.fdopen(fd, encoding="utf-8", errors="surrogateescape") as file:
            found = [mounts.parsed(line) for line in file]
        return [mount for mount in found if point in {None, mount.point}]
