"""A process that others have to find, and to see gone: a file that it holds locked, with its
pid in it."""

import fcntl
import os
import signal
from contextlib import suppress


def take(path: str) -> int | None:
    """The locked file, for as long as the descriptor is open in any process; None where
    somebody holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
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
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def holder(path: str) -> int | None:
    """A pidfd of who holds the lock; None where nobody does, or has not signed yet."""
    try:
        with open(path, encoding="ascii") as file:
            pidfd = os.pidfd_open(int(file.read()))
    except (FileNotFoundError, ValueError, ProcessLookupError):
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
