"""What is to survive a crash of the host."""

import os
from pathlib import Path


def sync(directory: Path) -> None:
    """Put a directory's entries to the disk. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
