"""The client of the measurements: a blocking socket and msgspec, and nothing else.

It costs a few microseconds a call, and the same whatever server answers it. It knows no types and
never reconnects; programs use `idl.client`.
"""

import select
import socket
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

TIMEOUT = 120
#: Requests under way on one connection: their answers must fit into what the daemon holds unsent.
WINDOW = 1000
#: Small enough for malloc to have at hand.
CHUNK = 1 << 16

_TIMEVAL = struct.pack("@ll", TIMEOUT, 0)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

Call = tuple[str, dict[str, Any]]


class CallFailed(Exception):
    """The server answered with an error object."""


def request(method: str, params: dict[str, Any], id: int = 0) -> bytes:
    """One line of newline-delimited JSON-RPC."""
    return _encode({"jsonrpc": "2.0", "id": id, "method": method, "params": params}) + b"\n"


class Connection:
    """One connection to a Unix socket. Every wait ends after `TIMEOUT` with BlockingIOError."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        # The kernel's own time-outs: Python's would poll before each system call.
        for side in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self.socket.setsockopt(socket.SOL_SOCKET, side, _TIMEVAL)
        self.socket.connect(str(path))
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        return self.socket.fileno()

    def close(self) -> None:
        self.socket.close()

    def exchange(self, line: bytes) -> bytes:
        """Send a line, and the one line that answers it; no other may be under way."""
        self.socket.sendall(line)
        found = self.socket.recv(CHUNK)
        if found.endswith(b"\n"):
            return found
        parts = [found]
        while not found.endswith(b"\n"):
            found = self.socket.recv(CHUNK)
            if not found:
                raise ConnectionError("the server has closed the connection")
            parts.append(found)
        return b"".join(parts)

    def call(self, method: str, **params: Any) -> Any:
        """The result of one call."""
        return _result(_decode(self.exchange(request(method, params))))

    def send(self, method: str, **params: Any) -> None:
        """Send a call whose answer is read later."""
        self.socket.sendall(request(method, params))

    def receive(self) -> Any:
        """The result of the next answer."""
        while b"\n" not in self._rest:
            self._rest += self._more()
        line, _, self._rest = self._rest.partition(b"\n")
        return _result(_decode(line))

    def pipeline(self, calls: Iterable[Call]) -> list[Any]:
        """The results of these calls, in their order, at most `WINDOW` of them under way."""
        lines = [request(method, params, n) for n, (method, params) in enumerate(calls)]
        answers: dict[int, Any] = {}
        sent = 0
        while len(answers) < len(lines):
            room = WINDOW - (sent - len(answers))
            if sent < len(lines) and room >= WINDOW // 2:
                self.socket.sendall(b"".join(lines[sent : sent + room]))
                sent = min(sent + room, len(lines))
            for answer in self._answers():
                answers[answer["id"]] = _result(answer)
        return [answers[n] for n in range(len(lines))]

    def _answers(self) -> list[Any]:
        whole, _, self._rest = (self._rest + self._more()).rpartition(b"\n")
        return [_decode(line) for line in whole.split(b"\n") if line]

    def _more(self) -> bytes:
        found = self.socket.recv(CHUNK)
        if not found:
            raise ConnectionError("the server has closed the connection")
        return found


class Readiness:
    """Which of many connections have something to read, without looking at all of them."""

    def __init__(self, connections: Sequence[Connection]) -> None:
        self._found = {c.fileno(): c for c in connections}
        self._poller = select.epoll()
        for number in self._found:
            self._poller.register(number, select.EPOLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._poller.close()

    def wait(self, timeout: float = TIMEOUT) -> list[Connection]:
        """Those with something to read, as soon as one has; TimeoutError where none has."""
        ready = self._poller.poll(timeout)
        if not ready:
            raise TimeoutError(f"nothing to read in {timeout} s")
        return [self._found[number] for number, _ in ready]


def _result(answer: Any) -> Any:
    if "error" in answer:
        raise CallFailed(str(answer["error"]))
    return answer["result"]
