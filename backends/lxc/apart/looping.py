"""File systems in images: which one it is, and the device that the kernel mounts it from.

A loop device clears itself with its last user, so it needs no tidying: neither after an unmount
nor after a crash before the mount. One file has one device, whoever made it: the kernel then
sees that two mounts are of the same file system, where two devices would destroy it.
"""

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_CONTROL = "/dev/loop-control"
_LOOP_MAJOR = 7
_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LOOP_GET_STATUS64 = 0x4C05
_READ_ONLY = 1
_AUTOCLEAR = 4
_DIRECT_IO = 16
#: `struct loop_info64`: device, inode, rdevice, offset, size limit, number, encryption type and
#: key size, flags; names, key, init.
_INFO = struct.Struct("=QQQQQIIII64s64s32s2Q")
#: `struct loop_config`: file, block size, the info, reserved.
_CONFIG = struct.Struct(f"=II{_INFO.size}s64x")
#: How often somebody else may take the free device before this one does.
_ATTEMPTS = 64

#: Where a file system says what it is: offset, bytes, name.
_MAGIC = (
    (0, b"hsqs", "squashfs"),
    (0, b"XFSB", "xfs"),
    (1024, b"\xe2\xe1\xf5\xe0", "erofs"),
    (1080, b"\x53\xef", "ext4"),
    (32769, b"CD001", "iso9660"),
    (65600, b"_BHRfS_M", "btrfs"),
    (54, b"FAT1", "vfat"),
    (82, b"FAT32", "vfat"),
)
_HEAD = 66 * 1024


def file_system(head: bytes) -> str | None:
    """What file system an image holds, by its first 66 KiB; None where none is known."""
    for offset, magic, name in _MAGIC:
        if head[offset:].startswith(magic):
            return name
    return None


def recognised(fd: int) -> str:
    """The file system of an open image. Raises OSError."""
    found = file_system(os.pread(fd, _HEAD, 0))
    if found is None:
        known = ", ".join(sorted({name for _, _, name in _MAGIC}))
        raise OSError(errno.EINVAL, f"holds no file system that is known here ({known})")
    return found


@contextmanager
def device(path_fd: int, *, writable: bool) -> Iterator[tuple[int, str]]:
    """What a file or block device is to be read by, and the block device to mount, a loop
    device for a file; until the end of the `with` it does not clear itself. Raises OSError."""
    mode = os.O_RDWR if writable else os.O_RDONLY
    fd = os.open(f"/proc/self/fd/{path_fd}", mode | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if stat.S_ISBLK(os.fstat(fd).st_mode):
            yield fd, os.readlink(f"/proc/self/fd/{path_fd}")
            return
        loop, node = _looped(fd, writable=writable)
        try:
            yield fd, node
        finally:
            os.close(loop)
    finally:
        os.close(fd)


def device_below(point: str) -> str | None:
    """The loop device of what is mounted there, None where it has none of its own."""
    device = os.stat(point).st_dev
    return f"/dev/loop{os.minor(device)}" if os.major(device) == _LOOP_MAJOR else None


def _looped(fd: int, *, writable: bool) -> tuple[int, str]:
    """A loop device of the file, open: the one that there is, or a new one."""
    with open(_CONTROL, "rb", buffering=0) as control:
        # Two who find none at the same time would make two.
        fcntl.flock(control, fcntl.LOCK_EX)
        found = _found(os.fstat(fd))
        return found or _made(control.fileno(), fd, writable=writable)


def _found(file: os.stat_result) -> tuple[int, str] | None:
    for name in os.listdir("/sys/block"):
        if not os.path.exists(f"/sys/block/{name}/loop/backing_file"):
            continue
        node = f"/dev/{name}"
        loop = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
        info = bytearray(_INFO.size)
        with suppress(OSError):  # cleared meanwhile
            fcntl.ioctl(loop, _LOOP_GET_STATUS64, info)
            whole = _INFO.unpack(info)
            if (whole[0], whole[1], whole[3], whole[4]) == (file.st_dev, file.st_ino, 0, 0):
                return loop, node
        os.close(loop)
    return None


def _made(control: int, fd: int, *, writable: bool) -> tuple[int, str]:
    flags = _AUTOCLEAR | _DIRECT_IO | (0 if writable else _READ_ONLY)
    name = os.fsencode(os.readlink(f"/proc/self/fd/{fd}"))[:63]
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, name, b"", b"", 0, 0)
    for _ in range(_ATTEMPTS):
        node = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
        loop = os.open(node, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(loop, _LOOP_CONFIGURE, _CONFIG.pack(fd, 0, info))
        except OSError as error:
            os.close(loop)
            if error.errno != errno.EBUSY:
                raise
        else:
            return loop, node
    raise OSError(errno.EBUSY, "every free loop device was taken by somebody else")
