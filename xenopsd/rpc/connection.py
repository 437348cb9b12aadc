"""One connection: bytes between the transport and a conversation, within limits.

It is read while its unsent output is under the limit and what it has sent has been looked
at; it takes turns of so many requests with the other connections; and it ends in one of
four ways: the peer has gone, the peer has ended and been answered, it was refused (told
why, given a moment to read it), or the server stops.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from msgspec import Raw

from xenopsd.rpc.answers import notification
from xenopsd.rpc.conversation import (
    JSON_STARTS,
    Conversation,
    HttpConversation,
    LineConversation,
)
from xenopsd.rpc.dispatch import Context, Dispatcher
from xenopsd.rpc.exchange import Exchange
from xenopsd.rpc.limits import Limits, Usage
from xenopsd.rpc.peer import Hangups
from xenopsd.rpc.service import Caller, Service
from xenopsd.rpc.subscriber import Subscriber


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all connections of a server share."""

    service: Service
    dispatcher: Dispatcher
    limits: Limits
    hangups: Hangups
    loop: asyncio.AbstractEventLoop


class Connection(asyncio.Protocol):
    """A peer that may be here. `lost` is called once, when everything of it is gone.

    With `refused`, that is all that it is told.
    """

    def __init__(
        self,
        around: Surroundings,
        caller: Caller,
        usage: Usage,
        lost: Callable[["Connection"], None],
        refused: bytes | None = None,
    ) -> None:
        self._around = around
        self._limits = around.limits
        self._lost = lost
        self._refused = refused
        self._context = Context(caller, usage, self._subscribe)
        self._exchange = Exchange(around.dispatcher, usage, around.limits, self.wake)
        self._subscriber: Subscriber | None = None
        self._conversation: Conversation | None = None
        self._out: list[bytes] = []
        self._unsent = 0  # bytes in _out
        self._full = False  # the transport has as much as it may hold
        self._due = False  # a turn is scheduled
        self._reading = True
        self._eof = False
        self._gone = False  # nobody reads what is sent
        self._closing = False
        self._discarded = 0
        self._fd = -1

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=self._limits.output)
        self._fd = transport.get_extra_info("socket").fileno()
        if self._refused is not None:
            self.refuse(self._refused)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            self._discard(len(data))
            return
        if self._conversation is None:
            self._conversation = self._chosen(data[0])
        self._conversation.feed(data)
        if not self._due:
            self._turn()

    def eof_received(self) -> bool:
        """The peer sends nothing more; it may still read (True: keep the transport)."""
        self._eof = True
        if self._conversation is None or self._closing:
            return False
        self._conversation.finish()
        self._around.hangups.watch(self._fd, self._vanished)
        self.wake()
        return True

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self.wake()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio.s shape
        self._around.hangups.forget(self._fd)
        self._closing = True
        self._forget()
        self._lost(self)

    # What the conversation calls

    def send(self, data: bytes) -> None:
        if self._gone:
            return
        self._out.append(data)
        self._unsent += len(data)

    def refuse(self, data: bytes) -> None:
        """Send it as the last thing, and give the peer a moment to read it.

        A peer that is still sending would otherwise meet a broken pipe and never read why.
        """
        self.send(data)
        self._flush()
        self._end()
        if not self._transport.is_closing():
            self._transport.write_eof()
            self._read(wanted=True)
            self._around.loop.call_later(self._limits.linger, self._transport.abort)

    def wake(self) -> None:
        if not self._due and not self._closing:
            self._due = True
            self._around.loop.call_soon(self._turn)

    # What the server calls

    def stop(self) -> None:
        """Answer what is ready, accept nothing more, close when that has been sent."""
        if self._closing:
            return
        while self._exchange.drain():
            pass
        self._close()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self._transport.abort()

    # Turns

    def _turn(self) -> None:
        self._due = False
        conversation, exchange = self._conversation, self._exchange
        if self._closing or conversation is None:
            return
        budget, more = self._limits.turn, True
        while budget and self._has_room and more:
            more = exchange.drain() or conversation.step()
            budget -= 1
        if self._closing:
            return
        self._flush()
        if more:
            self._more_later()
        elif self._gone and self._eof:
            self.abort()
        elif conversation.ended:
            self._close_if_answered()
        self._steer()

    def _more_later(self) -> None:
        if not self._full:  # else once it has been sent
            self.wake()

    @property
    def _has_room(self) -> bool:
        return not self._full and self._unsent < self._limits.output and not self._closing

    def _flush(self) -> None:
        if self._out:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            self._unsent = 0
            self._transport.write(data)
        if self._subscriber is not None and not self._full:
            self._subscriber.ask()

    def _steer(self) -> None:
        conversation = self._conversation
        if self._closing or self._eof or self._gone or conversation is None:
            return
        wanted = (
            not self._full
            and conversation.backlog < self._limits.backlog
            and self._exchange.held < self._limits.output
        )
        if wanted is not self._reading:
            self._read(wanted=wanted)

    def _read(self, *, wanted: bool) -> None:
        if wanted:
            self._around.hangups.forget(self._fd)
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()
            self._around.hangups.watch(self._fd, self._vanished)
        self._reading = wanted

    def _chosen(self, first: int) -> Conversation:
        around = self._around
        if first in JSON_STARTS:
            return LineConversation(self, self._exchange, self._context, self._limits)
        return HttpConversation(self, self._exchange, self._context, around.service, self._limits)

    # Updates

    def _subscribe(self, since: str | None) -> str:
        subscription = self._around.service.subscribe(since)
        if self._subscriber is not None:
            self._subscriber.close()
        self._subscriber = Subscriber(subscription, self._updates, self.abort)
        return subscription.token

    def _updates(self, batch: Raw) -> None:
        if not self._closing:
            self.send(notification("updates", batch) + b"\n")
            self.wake()

    # Ends

    def _close_if_answered(self) -> None:
        answered = self._exchange.idle and not self._full
        if answered and self._subscriber is None:
            self._close()

    def _close(self) -> None:
        self._flush()
        self._end()
        self._transport.close()

    def _end(self) -> None:
        self._closing = True
        self._forget()

    def _forget(self) -> None:
        self._exchange.forget()
        if self._subscriber is not None:
            self._subscriber.close()
            self._subscriber = None

    def _vanished(self) -> None:
        """Nobody reads any more; what was sent before is still accepted."""
        self._gone = True
        if self._closing:
            self.abort()
        elif not self._eof:
            self._read(wanted=True)
        self.wake()

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > self._limits.discard:
            self._transport.abort()
