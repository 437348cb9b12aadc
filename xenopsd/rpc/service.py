"""What the RPC server asks of the daemon behind it, and what it tells it about a caller.

Nothing here decides anything: it is the contract between `xenopsd.rpc` and the rest.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

from msgspec import Raw

from idl.calls import Call


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the credentials of the peer when it connected, and through which socket.

    `privileged` is root or the daemon's own user. `traceparent` is what came with this
    request, unchecked (at most 256 characters).
    """

    uid: int
    gids: frozenset[int]
    readonly: bool
    privileged: bool
    traceparent: str | None = None


class Subscription(Protocol):
    """Updates for one connection."""

    @property
    def token(self) -> str:
        """Where it stands."""
        ...

    def next(self) -> "asyncio.Future[Raw]":
        """What UPDATES.get answers, encoded, once there is something; never times out.

        It is asked for again only when the connection has room for it.
        """
        ...

    def close(self) -> None:
        """The connection is gone; a future that is still out is withdrawn."""
        ...


class Service(Protocol):
    """The daemon, as the RPC server sees it. Everything is called on the event loop."""

    #: Whether DEBUG calls exist (`--debug`).
    debug: bool

    def answer(self, call: Call[Any], caller: Caller) -> Any:
        """Accept a call and give its result, or a future of it.

        The result is anything msgspec encodes, or `msgspec.Raw` of one line. A future belongs
        to this request alone: that of a `Read` is cancelled when the caller has gone, any
        other is only forgotten. `rpc.discover` and `UPDATES.subscribe` do not come here.

        Raises: XenopsError, which the client is told; anything else is an InternalError.
        """
        ...

    def openrpc(self) -> bytes:
        """The OpenRPC document, as JSON on one line."""
        ...

    def metrics(self) -> bytes:
        """The metrics in Prometheus' text format."""
        ...

    def health(self) -> tuple[bool, bytes]:
        """Whether all is well, and a JSON object that says more."""
        ...

    def subscribe(self, since: str | None) -> Subscription:
        """Follow the updates since a token (None: from the beginning)."""
        ...
