"""The same small container, by each who starts containers: raw liblxc, LXD, and the daemon.

All of them work from the same files, on the same bridge, and each ends what it began.
"""

from collections.abc import Sequence
from typing import Protocol


class Side(Protocol):
    """Who starts containers. Every call returns once that has happened, and raises where it did
    not."""

    def start(self, id: str) -> None:
        """From the call until it runs."""

    def kill(self, id: str) -> None:
        """Until it is stopped, without asking it."""

    def shut_down(self, id: str) -> None:
        """Until it has stopped, asked to do so."""

    def start_all(self, ids: Sequence[str]) -> None:
        """All of them at once."""

    def kill_all(self, ids: Sequence[str]) -> None:
        """All of them at once."""

    def pid(self, id: str) -> int:
        """Of a running one's first process, as the host sees it."""
