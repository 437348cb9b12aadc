"""A daemon of a few lines: real JSON-RPC on a real socket, answers from a table."""

import json
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from idl.errors import MethodNotFound, XenopsError

DEADLINE = 10.0
MADE_UP = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class TableDaemon:
    """Answers each method with a value, an error, or what a function makes of the parameters.

    Every request has a thread of its own, so a function may block and answers overtake.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Any] = {}
        #: What it was asked; task ids that a client has made up are in `tasks` instead.
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.tasks: list[str] = []
        self.answered: list[str] = []
        self.connections: list[socket.socket] = []
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        #: Set when it stops, for answers that wait.
        self.over = threading.Event()
        self.start()

    def start(self) -> None:
        self.over.clear()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.path.unlink(missing_ok=True)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._spawn(self._accept, self._listener)

    def stop(self) -> None:
        """As a daemon that dies; an answer that is being made may do this, too."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        self.over.set()
        others = [thread for thread in self._threads if thread is not threading.current_thread()]
        for thread in others:
            thread.join(DEADLINE)
        assert not any(thread.is_alive() for thread in others)

    def hang_up(self) -> None:
        """Close every connection, as a daemon that dies."""
        with self._changed:
            dead, self.connections = self.connections, []
        for connection in dead:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def wait_seen(self, method: str, times: int = 1) -> None:
        """Until it was asked that so often."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: [name for name, _ in self.seen].count(method) >= times, DEADLINE
            )

    def wait_answered(self, method: str) -> None:
        """Until an answer to it was sent; forgets it."""
        with self._changed:
            assert self._changed.wait_for(lambda: method in self.answered, DEADLINE)
            self.answered.remove(method)

    def say(self, message: dict[str, Any]) -> None:
        """A line on every connection, such as a notification."""
        for connection in list(self.connections):
            connection.sendall(msgspec.json.encode(message) + b"\n")

    def methods(self) -> list[str]:
        return [method for method, _ in self.seen]

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._changed:
                self.connections.append(connection)
            self._spawn(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            try:
                for line in lines:
                    self._spawn(self._answer, connection, json.loads(line))
            except OSError:
                pass

    def _answer(self, connection: socket.socket, request: dict[str, Any]) -> None:
        method, params = request["method"], request["params"]
        with self._changed:
            self._note(method, dict(params))
            self._changed.notify_all()
        try:
            connection.sendall(
                msgspec.json.encode(
                    {"jsonrpc": "2.0", "id": request["id"], **self._outcome(method, params)}
                )
                + b"\n"
            )
        except OSError:
            pass
        with self._changed:
            self.answered.append(method)
            self._changed.notify_all()

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if MADE_UP.fullmatch(str(params.get("task"))):
            self.tasks.append(params.pop("task"))
        self.seen.append((method, params))

    def _outcome(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        answer = self.answers.get(method, MethodNotFound(method=method))
        try:
            answer = answer(params) if callable(answer) else answer
        except XenopsError as error:
            answer = error
        if isinstance(answer, XenopsError):
            return {"error": answer.error_object()}
        return {"result": answer}


@pytest.fixture
def daemon() -> Iterator[TableDaemon]:
    # Not below tmp_path, whose names are longer than a socket's may be.
    with tempfile.TemporaryDirectory(prefix="xo-") as directory:
        running = TableDaemon(Path(directory) / "default.sock")
        yield running
        running.stop()
