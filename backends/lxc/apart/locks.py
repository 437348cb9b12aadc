"""A process that others have to find, and to see gone: a file that it holds locked, with its
pid in it.

The locks are those of open file descriptions: whoever looks whether one is held does not take
it for that moment, as with flock, and children share what was opened before the fork.
"""

import errno
import fcntl
import os
import select
import signal
import struct
from contextlib import suppress

#: `struct flock`: type, whence, start, length (0: all of it), pid.
_FLOCK = "hhqqi4x"


def take(path: str, *, wait: bool = False) -> int | None:
    """The locked file, for as long as the descriptor is open in any process; None where
    somebody holds it, unless that is waited for."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, _whole())
    except (BlockingIOError, PermissionError):
        os.close(fd)
        return None
    return fd


def sign(lock: int) -> None:
    """Write the own pid into a locked file."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)


def held(path: str) -> bool:
    """Whether somebody holds the lock."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _whole())
    finally:
        os.close(fd)
    return bool(struct.unpack(_FLOCK, found)[0] != fcntl.F_UNLCK)


def holder(path: str) -> int | None:
    """A pidfd of who holds the lock; None where nobody does, or has not signed yet."""
    try:
        with open(path, encoding="ascii") as file:
            pidfd = os.pidfd_open(int(file.read()))
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return None
    except OSError as error:
        # What older kernels (6.1) say of a dead one whose session lives on.
        if error.errno != errno.EINVAL:
            raise
        return None
    # Looked at once the descriptor is there: the pid was not another's by then.
    if held(path):
        return pidfd
    os.close(pidfd)
    return None


def kill(path: str) -> None:
    """SIGKILL for who holds the lock; nothing where nobody does."""
    pidfd = holder(path)
    if pidfd is not None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)


def _whole() -> bytes:
    return struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


def await_release(path: str, seconds: float) -> bool:
    """Wait for the end of who holds the lock; whether nobody does."""
    pidfd = holder(path)
    if pidfd is None:
        return not held(path)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(pidfd)
