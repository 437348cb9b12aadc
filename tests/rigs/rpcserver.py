"""The RPC server alone, on a thread of its own, and raw sockets that talk to it."""

import asyncio
import json
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import uvloop
from msgspec import Raw

from idl.calls import Call
from idl.errors import DoesNotExist
from xenopsd.rpc.limits import DEFAULT, Limits
from xenopsd.rpc.listener import listen
from xenopsd.rpc.server import Server
from xenopsd.rpc.service import Caller, Subscription

DEADLINE = 20.0

#: The event loops that the server runs on.
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class TinyService:
    """VMs `a` and `b` exist; UPDATES.get and VM.add wait until they are released."""

    def __init__(self) -> None:
        self.debug = False
        self.seen: list[tuple[Call[Any], Caller]] = []
        self.waiting: list[asyncio.Future[Any]] = []
        self.subscriptions: list[Numbers] = []
        self.metric = Raw(b"[]")

    def answer(self, call: Call[Any], caller: Caller) -> Any:
        self.seen.append((call, caller))
        return getattr(self, "_" + call.method.replace(".", "_"))(call)

    def _VM_stat(self, call: Any) -> Any:  # noqa: N802 -- named after the call
        if call.id not in ("a", "b"):
            raise DoesNotExist(kind="VM", id=call.id)
        return {"id": call.id}

    def _VM_list(self, call: Any) -> Any:  # noqa: N802
        return ["a", "b"]

    def _VM_metrics(self, call: Any) -> Any:  # noqa: N802
        return self.metric

    def _VM_start(self, call: Any) -> Any:  # noqa: N802
        return f"task-{len(self.seen)}"

    def _VM_exists(self, call: Any) -> Any:  # noqa: N802
        raise RuntimeError("secret")

    def _later(self, call: Any) -> Any:
        self.waiting.append(asyncio.get_running_loop().create_future())
        return self.waiting[-1]

    _UPDATES_get = _later
    _VM_add = _later

    def openrpc(self) -> bytes:
        return b'{"openrpc":"1.3.2"}'

    def metrics(self) -> bytes:
        return b"up 1\n"

    def health(self) -> tuple[bool, bytes]:
        return not self.debug, b'{"well":true}'

    def subscribe(self, since: str | None) -> Subscription:
        self.subscriptions.append(Numbers(since))
        return self.subscriptions[-1]


class Numbers:
    """A subscription whose batches are numbers, merged into the last one while nobody asks."""

    def __init__(self, since: str | None) -> None:
        self.token = f"after {since}"
        self.asked = 0
        self.closed = False
        self._latest: Raw | None = None
        self._next: asyncio.Future[Raw] | None = None

    def next(self) -> "asyncio.Future[Raw]":
        self.asked += 1
        self._next = asyncio.get_running_loop().create_future()
        self._answer()
        return self._next

    def close(self) -> None:
        self.closed = True

    def publish(self, batch: bytes) -> None:
        self._latest = Raw(batch)
        self._answer()

    def _answer(self) -> None:
        if self._next is not None and self._latest is not None and not self._next.done():
            self._next.set_result(self._latest)
            self._latest = None


class Running:
    """A server that answers on `path` and `readonly`."""

    def __init__(self, directory: Path, new_loop: Callable[[], Any], limits: Limits) -> None:
        self.service = TinyService()
        self.path = directory / "rw"
        self.readonly = directory / "ro"
        self.loop = new_loop()
        self.complaints: list[dict[str, Any]] = []
        self._limits = limits
        self._thread = threading.Thread(target=self._run, name="rpc-server")
        self.group: int | None = None

    def start(self) -> None:
        self.loop.set_exception_handler(lambda _loop, context: self.complaints.append(context))
        self._thread.start()
        self.on_loop(self._serve)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.server.close(), self.loop).result(DEADLINE)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE)
        self.loop.close()

    def on_loop(self, what: Callable[[], Any]) -> Any:
        """The value of `what`, called on the server's loop."""

        async def called() -> Any:
            return what()

        return asyncio.run_coroutine_threadsafe(called(), self.loop).result(DEADLINE)

    def eventually(self, what: Callable[[], Any]) -> None:
        """Wait, on the loop, until `what` is true."""

        async def wait() -> None:
            async with asyncio.timeout(DEADLINE):
                while not what():
                    await asyncio.sleep(0.002)

        asyncio.run_coroutine_threadsafe(wait(), self.loop).result(2 * DEADLINE)

    @property
    def waits(self) -> int:
        """How many calls wait, of all users."""
        return sum(usage.waits for usage in self.server._usages.values())

    def peer(self, *, readonly: bool = False) -> "Peer":
        return Peer(self.readonly if readonly else self.path)

    def _serve(self) -> None:
        self.server = Server(self.service, self._limits)
        self.server.serve(listen(self.path, group=self.group, mode=0o666))
        self.server.serve(listen(self.readonly, group=self.group, readonly=True, mode=0o666))

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()


@contextmanager
def running(
    loop: str = "uvloop", limits: Limits = DEFAULT, group: int | None = None
) -> Iterator[Running]:
    """A server, stopped at the end; fails when its loop had anything to complain of."""
    with tempfile.TemporaryDirectory(prefix="xenopsd-") as name:
        Path(name).chmod(0o755)
        server = Running(Path(name), LOOPS[loop], limits)
        server.group = group
        server.start()
        try:
            yield server
        finally:
            server.stop()
        assert server.complaints == []
        assert server.server.connections == 0
        assert server.server._usages == {}


class Peer:
    """A client of raw bytes."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(str(path))
        self._read = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def end(self) -> None:
        """Send nothing more, and go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def line(self) -> Any:
        """The next line, as JSON."""
        while b"\n" not in self._read:
            data = self.sock.recv(1 << 20)
            if not data:
                raise EOFError(self._read)
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        return json.loads(line)

    def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        read = [self._read]
        while data := self.sock.recv(1 << 20):
            read.append(data)
        self._read = b""
        return b"".join(read)

    def ask(self, method: str, id: Any = 1, /, **params: Any) -> Any:
        """A call and its answer, which must be the next line."""
        self.send(call(method, id, **params))
        return self.line()


def call(method: str, id: Any = 1, /, **params: Any) -> bytes:
    """A request on a line."""
    message = {"jsonrpc": "2.0", "method": method, "params": params, "id": id}
    return json.dumps(message).encode() + b"\n"


def error_of(reply: Any) -> str:
    """The class of the error in an answer."""
    return str(reply["error"]["data"]["error"])
