"""The job that deletes what was thrown away: trees of any size, at nobody's expense."""

import fcntl
import os
import stat

from backends.lxc.apart.descent import descend


def remove_trees(*, directory: str) -> None:
    """Delete everything in a directory, one job at a time. Raises OSError for what stays."""
    if not os.path.isdir(directory):
        return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_EX)
    stays = None
    for name in os.listdir(directory):
        # One that cannot be deleted keeps none of the others.
        try:
            remove(f"{directory}/{name}")
        except OSError as error:
            stays = error
    if stays is not None:
        raise stays


def remove(path: str) -> None:
    """Delete what is there, of any depth; no link is followed. Raises OSError."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
        return
    for visit in descend(path):
        if visit.left is not None:
            os.rmdir(visit.left, dir_fd=visit.fd)
        else:
            _unlink_files(visit.fd)
    os.rmdir(path)


def _unlink_files(fd: int) -> None:
    with os.scandir(fd) as entries:
        files = [one.name for one in entries if not one.is_dir(follow_symlinks=False)]
    for name in files:
        os.unlink(name, dir_fd=fd)
