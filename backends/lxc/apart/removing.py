"""The job that deletes what was thrown away: trees of any size, at nobody's expense."""

import fcntl
import os
import shutil


def remove_trees(*, directory: str) -> None:
    """Delete everything in a directory, one job at a time. Raises OSError for what stays."""
    if not os.path.isdir(directory):
        return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_EX)
    for name in os.listdir(directory):
        shutil.rmtree(f"{directory}/{name}")
