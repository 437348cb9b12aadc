"""A Unix socket that carries lines, and how its failures are told.

Every wait has a deadline. Nothing here knows what the lines say, and one thread at a time
may read, another write.
"""

import errno
import os
import select
import socket
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

Clock = Callable[[], float]

_CHUNK = 1 << 18

_ADVICE = MappingProxyType(
    {
        errno.ENOENT: "start xenopsd, or name the socket of the instance that runs",
        errno.ECONNREFUSED: "the daemon that made the socket is gone; start xenopsd",
        errno.EACCES: "call as root, or ask the administrator for the group of the socket",
    }
)
_CHECK = "check that xenopsd runs, and look into its log"


class ConnectionFailed(OSError):
    """No daemon could be asked; the text names the socket and the next step.

    `task` is the id of an operation that the daemon may have accepted all the same.
    """

    def __init__(
        self, path: Path, reason: str, advice: str = _CHECK, *, task: str | None = None
    ) -> None:
        super().__init__(f"The daemon at {path} cannot be asked ({reason}): {advice}.")
        self.path = path
        self.reason = reason
        self.task = task


class AnswerTimeout(ConnectionFailed, TimeoutError):
    """The daemon was asked and did not answer in time; what was asked may still happen."""


class OutcomeUnknown(ConnectionFailed):
    """The call was sent, and whether it was carried out was not answered."""


class ClientClosed(ConnectionFailed):
    """The client was closed while this call waited."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "the client was closed", "call again, which connects anew")


def unreachable(path: Path, error: OSError) -> ConnectionFailed:
    """What an error of the operating system means to who wanted an answer."""
    if isinstance(error, ConnectionFailed):
        return error
    code = error.errno or 0
    return ConnectionFailed(
        path, os.strerror(code) if code else str(error), _ADVICE.get(code, _CHECK)
    )


class Link:
    """A connected socket that sends and receives lines."""

    def __init__(self, path: Path, deadline: float, clock: Clock) -> None:
        """Connect. Raises ConnectionFailed."""
        self.path = path
        self._clock = clock
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._torn = bytearray()
        try:
            # A full backlog makes connect wait, even on a Unix socket.
            self._socket.settimeout(max(deadline - clock(), 0.001))
            self._socket.connect(str(path))
            self._socket.setblocking(False)  # noqa: FBT003  # the standard library's signature
        except OSError as error:
            self._socket.close()
            raise unreachable(path, error) from error

    def write(self, data: bytes, deadline: float) -> None:
        """Send all of it. Raises ConnectionFailed; then the link is good for nothing more."""
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                self._wait(select.POLLOUT, deadline)
            except OSError as error:
                raise unreachable(self.path, error) from error

    def read(self, deadline: float | None) -> list[bytes]:
        """The lines that the next bytes complete, maybe none. Raises ConnectionFailed."""
        self._wait(select.POLLIN, deadline)
        return self.pending()

    def pending(self) -> list[bytes]:
        """The lines that are there without waiting. Raises ConnectionFailed at the end."""
        try:
            chunk = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return []
        except OSError as error:
            raise unreachable(self.path, error) from error
        if not chunk:
            raise ConnectionFailed(self.path, "it closed the connection")
        return self._split(chunk)

    def _split(self, chunk: bytes) -> list[bytes]:
        *lines, rest = chunk.split(b"\n")
        if lines:
            lines[0] = bytes(self._torn) + lines[0]
            self._torn.clear()
        self._torn += rest
        return lines

    def shut(self) -> None:
        """Wake a thread that reads; it finds the connection closed."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # already gone, which is what was wanted

    def close(self) -> None:
        """Give the descriptor back; no thread may be reading."""
        self._socket.close()

    def _wait(self, event: int, deadline: float | None) -> None:
        poll = select.poll()
        poll.register(self._socket, event)
        left = None if deadline is None else max(deadline - self._clock(), 0.0) * 1000
        if not poll.poll(left):
            raise AnswerTimeout(self.path, "it does not answer in time")
