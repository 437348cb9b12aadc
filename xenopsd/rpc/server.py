"""The sockets: listening, who may connect, and the end of all connections.

`listen` may be called before the server exists, so that a daemon learns early that another
one answers there. Accepting is done here and not by the event loop, because the peer is
looked at before anything is spent on it.
"""

import asyncio
import errno
import resource
import socket
from collections.abc import Callable
from functools import partial

import structlog

from idl.errors import PermissionDenied, TooManyRequests, XenopsError
from xenopsd.rpc.access import may_connect
from xenopsd.rpc.answers import encoded, refusal
from xenopsd.rpc.connection import Connection, Surroundings
from xenopsd.rpc.dispatch import Dispatcher
from xenopsd.rpc.envelope import NULL
from xenopsd.rpc.limits import DEFAULT, Limits, Usage
from xenopsd.rpc.listener import Listener
from xenopsd.rpc.peer import Hangups, caller_of
from xenopsd.rpc.service import Caller, Service

_log = structlog.get_logger()
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_ACCEPTED_AT_ONCE = 64
_RETRY = 0.1  # seconds until accepting is tried again where descriptors ran out


def raise_descriptor_limit() -> None:
    """Allow as many open descriptors as the hard limit says."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Server:
    """Answers on its listeners until it is closed. Made and used on the running event loop."""

    def __init__(self, service: Service, limits: Limits = DEFAULT) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._limits = limits
        self._around = Surroundings(
            service, Dispatcher(service, limits), limits, Hangups(loop), loop
        )
        self._listeners: list[Listener] = []
        self._connections: set[Connection] = set()
        self._usages: dict[int, Usage] = {}
        self._opening: set[asyncio.Task[object]] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._closed = False

    def serve(self, listener: Listener) -> None:
        """Accept what connects there; the listener is closed with the server."""
        self._listeners.append(listener)
        self._accept_from(listener)

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._connections)

    async def close(self) -> None:
        """Accept nothing more, answer what is ready, close; at most `linger` seconds."""
        if self._closed:
            await self._empty.wait()
            return
        self._closed = True
        for listener in self._listeners:
            self._loop.remove_reader(listener.sock.fileno())
            listener.close()
        if self._opening:
            await asyncio.wait(self._opening, timeout=self._limits.linger)
        for connection in tuple(self._connections):
            connection.stop()
        await self._wait_until_empty()
        self._around.hangups.close()

    async def _wait_until_empty(self) -> None:
        try:
            await asyncio.wait_for(self._empty.wait(), self._limits.linger)
        except TimeoutError:
            for connection in tuple(self._connections):
                connection.abort()
            await self._empty.wait()

    # Accepting

    def _accept_from(self, listener: Listener) -> None:
        if not self._closed:
            self._loop.add_reader(listener.sock.fileno(), self._accept, listener)

    def _accept(self, listener: Listener) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                sock, _address = listener.sock.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                self._accept_failed(listener, exc)
                return
            sock.setblocking(False)  # noqa: FBT003 -- socket's own API
            self._admit(sock, listener)

    def _accept_failed(self, listener: Listener, exc: OSError) -> None:
        if exc.errno not in _EXHAUSTED:
            _log.warning("accept_failed", error=errno.errorcode.get(exc.errno or 0))
            return
        # The listener stays readable: looking again at once would keep the loop busy.
        _log.warning("descriptors_exhausted", connections=len(self._connections))
        self._loop.remove_reader(listener.sock.fileno())
        self._loop.call_later(_RETRY, self._accept_from, listener)

    def _admit(self, sock: socket.socket, listener: Listener) -> None:
        try:
            caller = caller_of(sock, readonly=listener.readonly)
        except OSError:
            sock.close()
            return
        usage = self._usages.setdefault(caller.uid, Usage(self._limits))
        try:
            usage.connect()
        except TooManyRequests as exc:
            _turn_away(sock, exc)
            return
        refused = None
        if not may_connect(caller, listener.group):
            _log.info("connection_refused", uid=caller.uid, socket=str(listener.path))
            refused = _line(PermissionDenied(method="connect"))
        self._open(sock, Connection(self._around, caller, usage, self._lost(caller), refused))

    def _open(self, sock: socket.socket, connection: Connection) -> None:
        self._connections.add(connection)
        self._empty.clear()
        opening = self._loop.create_task(
            self._loop.connect_accepted_socket(lambda: connection, sock)
        )
        self._opening.add(opening)
        opening.add_done_callback(partial(self._opened, sock, connection))

    def _opened(
        self, sock: socket.socket, connection: Connection, opening: asyncio.Task[object]
    ) -> None:
        self._opening.discard(opening)
        if opening.cancelled() or opening.exception() is not None:
            sock.close()
            connection.connection_lost(None)

    def _lost(self, caller: Caller) -> Callable[[Connection], None]:
        def lost(connection: Connection) -> None:
            if connection not in self._connections:
                return
            self._connections.remove(connection)
            usage = self._usages[caller.uid]
            usage.connections -= 1
            if not usage.connections:
                del self._usages[caller.uid]
            if not self._connections:
                self._empty.set()

        return lost


def _line(error: XenopsError) -> bytes:
    return encoded(refusal(NULL, error)) + b"\n"


def _turn_away(sock: socket.socket, error: XenopsError) -> None:
    """Tell it if that costs no waiting, and close."""
    with sock:
        try:
            sock.send(_line(error))
        except OSError as exc:
            _log.debug("peer_gone", error=errno.errorcode.get(exc.errno or 0))
