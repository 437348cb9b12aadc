"""HTTP/1.1 around JSON-RPC: bytes to requests and answers to bytes, with h11.

Opens nothing and waits for nothing. Requests of one connection are taken one at a time: the
next is there only after the present one has been answered.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import h11

from idl.errors import InvalidRequest
from xenopsd.rpc.answers import encoded, refusal
from xenopsd.rpc.envelope import NULL
from xenopsd.rpc.limits import Limits

JSON = b"application/json"
PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"
NO_CONTENT = 204
CLOSE = (b"Connection", b"close")
_SLICE = 65_536


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request with its whole body. `path` is without the query."""

    method: str
    path: str
    body: bytes
    traceparent: str | None


class HttpRefused(Exception):
    """What was received is no request that can be answered otherwise: a status and why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def error_body(reason: str) -> bytes:
    """The JSON-RPC error object that goes with a status that is no success."""
    return encoded(refusal(NULL, InvalidRequest(reason=reason)))


class HttpWire:
    """One connection. `backlog` is what was received and not yet looked at, in bytes; it has
    `ended` when no further request can come.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.headers)
        self._inbox: deque[bytes] = deque()
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._continued = False
        self._refused = False
        self.backlog = 0
        self.ended = False

    def feed(self, data: bytes) -> None:
        """Take what was received; b"" is its end."""
        self.backlog += len(data)
        self._inbox.append(data)

    @property
    def wants_continue(self) -> bool:
        """Whether the peer holds its body back until it is told to go on."""
        return self._h11.they_are_waiting_for_100_continue and not self._continued

    def go_on(self) -> bytes:
        """What tells it."""
        self._continued = True
        return self._send(h11.InformationalResponse(status_code=100, headers=[]))

    def next(self) -> HttpRequest | None:
        """The next request, or None until more is fed or the present one is answered.

        Raises: HttpRefused, after which only `respond` with its status makes sense.
        """
        while True:
            event = self._event()
            if event is h11.NEED_DATA and self._inbox:
                self._receive()
            elif isinstance(event, h11.Request):
                self._head(event)
            elif isinstance(event, h11.Data):
                self._add(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return self._whole()
            else:
                self.ended = self.ended or isinstance(event, h11.ConnectionClosed)
                return None

    def respond(
        self,
        status: int,
        body: bytes = b"",
        kind: bytes = JSON,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> bytes:
        """The response as bytes; then the next request may be taken, where there is one.

        After a refusal the connection is at its end.
        """
        fields = list(headers)
        if status != NO_CONTENT:
            fields += [(b"Content-Length", b"%d" % len(body)), (b"Content-Type", kind)]
        if self._refused:
            fields.append(CLOSE)
        head = self._send(h11.Response(status_code=status, headers=fields))
        if self._request is not None and self._request.method == b"HEAD":
            body = b""
        data = self._send(h11.Data(data=body)) if body else b""
        end = self._send(h11.EndOfMessage())
        self._forget()
        return head + data + end

    def _event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            return self._h11.next_event()
        except h11.RemoteProtocolError as exc:
            raise self._refuse(exc.error_status_hint, str(exc)) from None

    def _receive(self) -> None:
        data = self._inbox.popleft()
        if len(data) > _SLICE:  # h11 moves its whole buffer at each event
            self._inbox.appendleft(data[_SLICE:])
            data = data[:_SLICE]
        self.backlog -= len(data)
        try:
            self._h11.receive_data(data)
        except h11.RemoteProtocolError as exc:
            raise self._refuse(exc.error_status_hint, str(exc)) from None

    def _head(self, request: h11.Request) -> None:
        self._request = request
        size = sum(len(name) + len(value) for name, value in request.headers)
        if size + len(request.target) > self._limits.headers:
            raise self._refuse(431, f"a head has at most {self._limits.headers} bytes")
        length = _header(request, b"content-length")
        if length is not None and int(length) > self._limits.request:
            raise self._too_large()

    def _add(self, data: bytes) -> None:
        if len(self._body) + len(data) > self._limits.request:
            raise self._too_large()
        self._body += data

    def _whole(self) -> HttpRequest:
        request = self._request
        assert request is not None  # h11 gives a head before an end
        traceparent = _header(request, b"traceparent")
        return HttpRequest(
            method=request.method.decode("ascii"),
            path=request.target.partition(b"?")[0].decode("latin-1"),
            body=bytes(self._body),
            traceparent=None if traceparent is None else traceparent.decode("latin-1"),
        )

    def _too_large(self) -> HttpRefused:
        return self._refuse(413, f"a request has at most {self._limits.request} bytes")

    def _refuse(self, status: int, reason: str) -> HttpRefused:
        self._refused = True
        self._inbox.clear()
        self.backlog = 0
        return HttpRefused(status, reason)

    def _send(self, event: h11.Event) -> bytes:
        return self._h11.send(event) or b""

    def _forget(self) -> None:
        self._request = None
        self._body.clear()
        self._continued = False
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        else:
            self.ended = True


def _header(request: h11.Request, name: bytes) -> bytes | None:
    return next((value for key, value in request.headers if key == name), None)
