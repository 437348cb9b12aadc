"""What was thrown away, and is still to be deleted: the deletion of a million files is no matter
of a micro-op. It is gone from its place at once.
"""

import threading
import uuid
from collections.abc import Sequence
from pathlib import Path

from backends.durable import sync
from backends.lxc.spawner import Job, Spawner


class Tombstones:
    """A directory of what is to be deleted, on the same file system."""

    def __init__(self, directory: Path, spawner: Spawner) -> None:
        self._directory = directory
        self._spawner = spawner
        self._lock = threading.Lock()
        self._jobs: list[Job] = []

    def bury(self, directory: Path, names: Sequence[str], *, lasting: bool) -> None:
        """Throw away these entries of a directory, with `lasting` for good: no crash of the host
        brings them back. Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in names:
            (directory / name).rename(self._directory / uuid.uuid4().hex)
        if lasting:
            # Also where there is nothing: a former daemon may have died before it came here.
            sync(self._directory)
            sync(directory)
        if names:
            self.clear()

    def clear(self) -> None:
        """See to it that what is there by now is deleted; nobody waits for it. What it does not
        come to is deleted by the next daemon."""
        with self._lock:
            self._forget([job for job in self._jobs if job.done()])
            # Jobs go one after the other: of two, one has not looked yet.
            if len(self._jobs) < 2:
                directory = str(self._directory)
                job = self._spawner.start("remove_trees", owner=directory, directory=directory)
                self._jobs.append(job)

    def close(self) -> None:
        """Break it off."""
        with self._lock:
            self._forget(list(self._jobs))

    def _forget(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._jobs.remove(job)
            self._spawner.forget(str(self._directory), job)
            job.__exit__()
