"""The two ways of talking on a connection: JSON lines, and HTTP.

A conversation is fed what was received and takes steps, each of which accepts one request or
one member of a batch. It writes through its `Port` and knows no socket.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from idl.errors import InvalidRequest
from xenopsd.rpc.answers import encoded, refusal
from xenopsd.rpc.dispatch import Context, traced
from xenopsd.rpc.envelope import NULL
from xenopsd.rpc.exchange import Exchange
from xenopsd.rpc.framing import Lines, LineTooLong
from xenopsd.rpc.http import (
    CLOSE,
    NO_CONTENT,
    PROMETHEUS,
    HttpRefused,
    HttpRequest,
    HttpWire,
    error_body,
)
from xenopsd.rpc.limits import Limits
from xenopsd.rpc.service import Service

#: What a first byte says about a connection: these begin a line of JSON.
JSON_STARTS = frozenset(b"{[ \t\r\n")


class Port(Protocol):
    """The connection, as a conversation sees it."""

    def send(self, data: bytes) -> None:
        """Send it, after what was sent before."""
        ...

    def refuse(self, data: bytes) -> None:
        """Send it as the last thing, and close once the peer has had time to read it."""
        ...

    def wake(self) -> None:
        """There is a step to take again."""
        ...


class Conversation(Protocol):
    """`backlog`: bytes received and not yet looked at."""

    @property
    def backlog(self) -> int: ...

    @property
    def ended(self) -> bool:
        """Whether no further request can come."""
        ...

    def feed(self, data: bytes) -> None: ...

    def finish(self) -> None:
        """The peer sends nothing more."""
        ...

    def step(self) -> bool:
        """Do one thing; False when there is nothing to do before more comes."""
        ...


class LineConversation:
    """JSON-RPC messages, one a line; answers overtake each other."""

    def __init__(self, port: Port, exchange: Exchange, context: Context, limits: Limits) -> None:
        self._port = port
        self._exchange = exchange
        self._context = context
        self._limits = limits
        self._lines = Lines(limits.request)
        self._finished = False

    @property
    def backlog(self) -> int:
        return self._lines.backlog

    @property
    def ended(self) -> bool:
        return self._finished and not self._lines.backlog

    def feed(self, data: bytes) -> None:
        self._lines.feed(data)

    def finish(self) -> None:
        self._lines.finish()
        self._finished = True

    def step(self) -> bool:
        if self._exchange.step():
            return True
        if self._exchange.held >= self._limits.output:
            return False
        try:
            message = self._lines.pop()
        except LineTooLong:
            most = InvalidRequest(reason=f"a line has at most {self._limits.request} bytes")
            self._port.refuse(encoded(refusal(NULL, most)) + b"\n")
            return False
        if message is None:
            return False
        self._exchange.accept(message, self._context, self._answered)
        return True

    def _answered(self, reply: bytes | None, fatal: bool) -> None:  # noqa: FBT001 -- Answered
        if reply is None:
            return
        write = self._port.refuse if fatal else self._port.send
        write(reply + b"\n")


class HttpConversation:
    """HTTP requests, answered one by one in the order sent."""

    def __init__(
        self, port: Port, exchange: Exchange, context: Context, service: Service, limits: Limits
    ) -> None:
        self._port = port
        self._exchange = exchange
        self._context = replace(context, subscribe=None)
        self._service = service
        self._wire = HttpWire(limits)
        self._busy = False

    @property
    def backlog(self) -> int:
        return self._wire.backlog

    @property
    def ended(self) -> bool:
        return self._wire.ended and not self._busy

    def feed(self, data: bytes) -> None:
        self._wire.feed(data)

    def finish(self) -> None:
        self._wire.feed(b"")

    def step(self) -> bool:
        if self._exchange.step():
            return True
        if self._busy or self._wire.ended:
            return False
        try:
            request = self._wire.next()
        except HttpRefused as exc:
            self._port.refuse(self._wire.respond(exc.status, error_body(exc.reason)))
            return False
        if request is not None:
            self._take(request)
        elif self._wire.wants_continue:
            self._port.send(self._wire.go_on())
        return request is not None

    def _take(self, request: HttpRequest) -> None:
        allowed, answer = _ROUTES.get(request.path, _NOWHERE)
        if request.method in allowed or not allowed:
            answer(self, request)
            return
        reason = f"{request.path} takes {' or '.join(allowed)}, not {request.method[:64]}"
        allow = (b"Allow", ", ".join(allowed).encode())
        self._port.send(self._wire.respond(405, error_body(reason), headers=[allow]))

    def _call(self, request: HttpRequest) -> None:
        context = self._context
        if request.traceparent is not None:
            context = traced(context, request.traceparent)
        self._busy = True
        self._exchange.accept(request.body, context, self._answered)

    def _answered(self, reply: bytes | None, fatal: bool) -> None:  # noqa: FBT001 -- Answered
        self._busy = False
        if reply is None:
            self._port.send(self._wire.respond(NO_CONTENT))
        elif fatal:
            self._port.refuse(self._wire.respond(200, reply, headers=[CLOSE]))
        else:
            self._port.send(self._wire.respond(200, reply))
        self._port.wake()

    def _metrics(self, _request: HttpRequest) -> None:
        self._port.send(self._wire.respond(200, self._service.metrics(), PROMETHEUS))

    def _openrpc(self, _request: HttpRequest) -> None:
        self._port.send(self._wire.respond(200, self._service.openrpc()))

    def _health(self, _request: HttpRequest) -> None:
        well, body = self._service.health()
        self._port.send(self._wire.respond(200 if well else 503, body))

    def _nowhere(self, request: HttpRequest) -> None:
        reason = f"there is no {request.path[:256]}; there are {', '.join(_ROUTES)}"
        self._port.send(self._wire.respond(404, error_body(reason)))


_Route = tuple[tuple[str, ...], Callable[[HttpConversation, HttpRequest], None]]
# The private methods are this module's own.
_ROUTES: dict[str, _Route] = {
    "/": (("POST",), HttpConversation._call),  # noqa: SLF001
    "/metrics": (("GET", "HEAD"), HttpConversation._metrics),  # noqa: SLF001
    "/openrpc.json": (("GET", "HEAD"), HttpConversation._openrpc),  # noqa: SLF001
    "/healthz": (("GET", "HEAD"), HttpConversation._health),  # noqa: SLF001
}
_NOWHERE: _Route = ((), HttpConversation._nowhere)  # noqa: SLF001
