"""A service manager's end of sd_notify."""

import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

DEADLINE = 30.0


class Manager:
    """Its socket, and what arrived there: a dictionary a message."""

    def __init__(self, path: Path, sock: socket.socket) -> None:
        self.path, self._sock = path, sock
        self.told: list[dict[str, str]] = []

    @property
    def environ(self) -> dict[str, str]:
        """What the service is started with."""
        return {"NOTIFY_SOCKET": str(self.path)}

    def until(self, wanted: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        """The next message that is wanted; fails past the deadline with what came instead."""
        end = time.monotonic() + DEADLINE
        while True:
            self._sock.settimeout(max(0.001, end - time.monotonic()))
            try:
                text = self._sock.recv(65536).decode()
            except TimeoutError:
                raise AssertionError(f"it was told: {self.told}") from None
            message = dict(line.split("=", 1) for line in text.splitlines())
            self.told.append(message)
            if wanted(message):
                return message

    def has(self, key: str) -> dict[str, str]:
        """The next message with that key."""
        return self.until(lambda message: key in message)

    def status(self, words: str) -> dict[str, str]:
        """The next message whose status has these words."""
        return self.until(lambda message: words in message.get("STATUS", ""))


@contextmanager
def manager() -> Iterator[Manager]:
    """One that listens; its path is short enough to be a socket's."""
    with (
        tempfile.TemporaryDirectory(prefix="xo-") as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
    ):
        path = Path(directory) / "notify"
        sock.bind(os.fspath(path))
        yield Manager(path, sock)
