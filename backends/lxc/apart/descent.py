"""Directories of any depth, gone through one descriptor at a time.

A guest makes trees that are deeper than the longest path and than any recursion. Here they are
only walked: what is done in each directory is the caller's.
"""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Visit:
    """A directory that has just been entered, open as `fd`; or, with `left`, the one of that
    name in `fd` that has just been left: everything below it was seen. `depth` is 0 for the
    topmost, which is never left."""

    fd: int
    depth: int
    left: str | None = None


def descend(top: str, *, at: int | None = None) -> Iterator[Visit]:
    """A directory and all below it. One that goes meanwhile is left out. What `Visit.fd` is
    counts until the next step.

    Raises OSError, ESTALE where a directory was moved while it was gone through."""
    fd = os.open(top, _FLAGS, dir_fd=at)
    try:
        above, waiting = [os.fstat(fd)], [_directories(fd)]
        names: list[str] = []
        yield Visit(fd, 0)
        while waiting:
            if waiting[-1]:
                name = waiting[-1].pop()
                try:
                    fd = _changed(fd, name)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                names.append(name)
                above.append(os.fstat(fd))
                waiting.append(_directories(fd))
                yield Visit(fd, len(names))
                continue
            waiting.pop()
            above.pop()
            if names:
                fd = _changed(fd, "..")
                # Moved meanwhile, what is above it is not what it was found in.
                if not os.path.samestat(os.fstat(fd), above[-1]):
                    raise OSError(errno.ESTALE, f"the directory {names[-1]} was moved")
                yield Visit(fd, len(names), names.pop())
    finally:
        os.close(fd)


def _changed(fd: int, name: str) -> int:
    """Open a directory beside or below an open one, in the place of that."""
    found = os.open(name, _FLAGS, dir_fd=fd)
    os.close(fd)
    return found


def _directories(fd: int) -> list[str]:
    try:
        with os.scandir(fd) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []  # it has gone
