"""Directories on their way from one place to another, perhaps on another file system.

A move that a crash has cut is carried on by moving again: until all of it is there, what counts
is at the source.
"""

import errno
import os
import shutil
import subprocess
from pathlib import Path

from backends.durable import sync
from idl.errors import StorageError


def move(source: Path, target: Path, *, timeout: float) -> None:
    """Make `target` be what `source` was, with owners and extended attributes; what was at
    `target` goes. Nothing where there is no source. A copy gets `timeout` seconds.

    Raises OSError, StorageError.
    """
    # It may have been on its way here, and be on its way back: that move first.
    _finish(target, source)
    if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove(target)
        if _renamed(source, target):
            return
        _copy_whole(source, _partial(target), timeout)
        # From here on the copy counts.
        source.rename(_gone(source))
        sync(source.parent)
    _finish(source, target)


def waits(source: Path) -> bool:
    """Whether there is something to be moved, or a move to be finished."""
    return source.exists() or _gone(source).exists()


def _finish(source: Path, target: Path) -> None:
    """The end of a move whose copy counts; nothing where there is none."""
    gone, partial = _gone(source), _partial(target)
    if gone.exists():
        if partial.exists():
            partial.rename(target)
            sync(target.parent)
        _remove(gone)


def _gone(source: Path) -> Path:
    return source.with_name(f".{source.name}.gone")


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


def _copy_whole(source: Path, target: Path, timeout: float) -> None:
    """A copy, or nothing: what does not fit takes no room. Raises OSError, StorageError."""
    _remove(target)
    try:
        _copy(source, target, timeout)
    except (OSError, StorageError):
        _remove(target)
        raise


def _renamed(source: Path, target: Path) -> bool:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    sync(target.parent)
    sync(source.parent)
    return True


def _copy(source: Path, target: Path, timeout: float) -> None:
    try:
        subprocess.run(  # noqa: S603  # no word of it is a client's
            ["cp", "-a", "--reflink=auto", "--", source, target],  # noqa: S607
            check=True,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.SubprocessError as error:
        said = getattr(error, "stderr", None) or str(error)
        raise StorageError(plugin="layers", reason=said.strip()) from error
    os.sync()


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
