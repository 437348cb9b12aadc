"""System calls that the standard library lacks. Each raises OSError, naming the call."""

import ctypes
import os
import signal
import struct
from contextlib import suppress

AT_FDCWD = -100
AT_RECURSIVE = 0x8000
AT_EMPTY_PATH = 0x1000

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 4
MOVE_MOUNT_T_EMPTY_PATH = 0x40

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
#: The bits of all that can be chosen about times of access.
MOUNT_ATTR_ATIME = 0x70
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_NOSYMFOLLOW = 0x00200000
MOUNT_ATTR_IDMAP = 0x00100000

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6

PR_SET_PDEATHSIG = 1

#: Numbers of system calls since the kernel gives all architectures the same.
_OPEN_TREE = 428
_MOVE_MOUNT = 429
_FSOPEN = 430
_FSCONFIG = 431
_FSMOUNT = 432
_OPENAT2 = 437
_MOUNT_SETATTR = 442

#: This one is older than that.
_RT_SIGACTION = {"x86_64": 13, "aarch64": 134}

#: `_LINUX_CAPABILITY_VERSION_3`.
_CAPABILITIES = 0x20080522

AT_NO_AUTOMOUNT = 0x800
AT_STATX_DONT_SYNC = 0x4000
STATX_ATTR_MOUNT_ROOT = 0x2000

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(what: str, result: int) -> int:
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{what}: {os.strerror(errno)}")
    return result


def _syscall(what: str, number: int, *arguments: object) -> int:
    whole = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _checked(what, _libc.syscall(ctypes.c_long(number), *whole))


def mount(
    source: str, target: str, kind: str | None = None, flags: int = 0, options: str = ""
) -> None:
    """As mount does."""
    result = _libc.mount(
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    _checked(f"mount {source} on {target}", result)


def umount(target: str, flags: int = 0) -> None:
    """As umount2 does."""
    _checked(f"umount {target}", _libc.umount2(target.encode(), flags))


def open_tree(path: str, flags: int, *, at: int = AT_FDCWD) -> int:
    """As open_tree does: a descriptor of the mount, or with OPEN_TREE_CLONE of a copy."""
    flags |= OPEN_TREE_CLOEXEC
    return _syscall(f"open_tree {path}", _OPEN_TREE, at, os.fsencode(path), flags)


def move_mount(tree: int, target: str, *, at: int = AT_FDCWD, flags: int = 0) -> None:
    """As move_mount does of what `tree` is to a path."""
    _syscall(
        f"move_mount to {target}",
        _MOVE_MOUNT,
        tree,
        b"",
        at,
        os.fsencode(target),
        MOVE_MOUNT_F_EMPTY_PATH | flags,
    )


def mount_setattr(
    tree: int, *, set: int = 0, clear: int = 0, user_namespace: int = 0, recursive: bool = False
) -> None:
    """As mount_setattr does of what `tree` is; `user_namespace` is a descriptor, for
    MOUNT_ATTR_IDMAP."""
    attr = struct.pack("QQQQ", set, clear, 0, user_namespace)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _syscall("mount_setattr", _MOUNT_SETATTR, tree, b"", flags, attr, len(attr))


def superblock(kind: str, *flags: str, **options: str) -> int:
    """A detached mount of a file system of this kind, by fsopen(2), fsconfig(2), fsmount(2).

    Raises OSError, with what the kernel says of the reason."""
    context = _syscall(f"fsopen {kind}", _FSOPEN, kind.encode(), FSOPEN_CLOEXEC)
    try:
        for flag in flags:
            _fsconfig(context, FSCONFIG_SET_FLAG, flag.encode(), None)
        for name, value in options.items():
            _fsconfig(context, FSCONFIG_SET_STRING, name.encode(), os.fsencode(value))
        _fsconfig(context, FSCONFIG_CMD_CREATE, None, None)
        return _syscall(f"fsmount {kind}", _FSMOUNT, context, FSMOUNT_CLOEXEC, 0)
    except OSError as error:
        raise OSError(error.errno, f"mount of {kind}: {_reason(context, error)}") from error
    finally:
        os.close(context)


def _fsconfig(context: int, command: int, name: bytes | None, value: bytes | None) -> None:
    _syscall("fsconfig", _FSCONFIG, context, command, name, value, 0)


def _reason(context: int, error: OSError) -> str:
    """The last error that the kernel has left to be read, else the number's name."""
    said = []
    with suppress(OSError):
        while line := os.read(context, 4096).decode(errors="replace"):
            said.append(line)
    errors = [line[2:].strip() for line in said if line.startswith("e ")]
    return errors[-1] if errors else os.strerror(error.errno or 0)


def openat2(path: str, flags: int, resolve: int, *, at: int = AT_FDCWD) -> int:
    """As openat2 does: a descriptor of what a path is under the given rules."""
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, 0, resolve)
    return _syscall(f"openat2 {path}", _OPENAT2, at, os.fsencode(path), how, len(how))


def is_mount(path: str) -> bool:
    """Whether something is mounted at a path, by statx(2). Raises FileNotFoundError."""
    found = ctypes.create_string_buffer(256)
    flags = AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC
    what = f"statx {path}"
    _checked(what, _libc.statx(AT_FDCWD, os.fsencode(path), flags, 0, found))
    # The attributes, after two numbers of 32 bits.
    return bool(struct.unpack_from("8xQ", found)[0] & STATX_ATTR_MOUNT_ROOT)


def syncfs(fd: int) -> None:
    """Put the file system that a file is on to the disk."""
    _checked("syncfs", _libc.syncfs(fd))


def setns(fd: int, kind: int = 0) -> None:
    """As setns does."""
    _checked("setns", _libc.setns(fd, kind))


def unshare(flags: int) -> None:
    """As unshare does."""
    _checked("unshare", _libc.unshare(flags))


def default_signals() -> None:
    """Have every signal do what it does by default, those too that the C library keeps for
    itself: who started the daemon may have ignored them."""
    for number in set(range(1, 65)) - {signal.SIGKILL, signal.SIGSTOP}:
        # A handler of 0, no flags, nothing blocked meanwhile.
        _syscall("rt_sigaction", _RT_SIGACTION[os.uname().machine], number, bytes(32), None, 8)


def die_with_parent(parent: int) -> None:
    """Have SIGKILL come when the parent ends. A child made by fork does not inherit this."""
    _checked("prctl", _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    if os.getppid() != parent:
        os._exit(1)


def outlive_parent() -> None:
    """Take `die_with_parent` back."""
    _checked("prctl", _libc.prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0))


def file_system_ids(id: int) -> None:
    """Have files looked at and made as this user and group, with every capability kept: the
    kernel drops those over files for whoever is not 0."""
    # Version and pid (0: oneself); then twice effective, permitted, inheritable, 32 bits each.
    header = struct.pack("Ii", _CAPABILITIES, 0)
    held = ctypes.create_string_buffer(24)
    _checked("capget", _libc.capget(header, held))
    _libc.setfsgid(id)
    _libc.setfsuid(id)
    _checked("capset", _libc.capset(header, held))
