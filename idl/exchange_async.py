"""Many asyncio tasks ask over one connection, and each gets the answer to its own question.

Everything happens on one event loop, so there is no lock. A caller that is cancelled leaves no
trace: its request went out whole or not at all, and its answer finds nobody and is dropped.
"""

import asyncio
import select
from itertools import count
from pathlib import Path
from typing import Any

from msgspec import Raw

from idl.errors import from_object
from idl.jsonrpc import Message, Request, line, message
from idl.link import AnswerTimeout, ClientClosed, ConnectionFailed, unreachable


class Exchange(asyncio.Protocol):
    """Questions and answers over one connection."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._ids = count(1)
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self._torn = bytearray()
        self._broken: Exception | None = None
        self._gone = self._loop.create_future()
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def connected(cls, path: Path, deadline: float) -> "Exchange":
        """A new connection. Raises ConnectionFailed."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(deadline):
                _, made = await loop.create_unix_connection(lambda: cls(path), str(path))
        except TimeoutError as error:
            raise AnswerTimeout(path, "it does not take a connection in time") from error
        except OSError as error:
            raise unreachable(path, error) from error
        return made

    def alive(self) -> bool:
        """Whether the other side still holds the connection, asked of the socket: the loop may
        have had no time yet to hear of its end.
        """
        if self._broken is not None or self._transport is None:
            return False
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), select.POLLRDHUP)
        return not poll.poll(0)

    async def ask(self, method: str, params: dict[str, Any], deadline: float) -> Raw:
        """The result. Raises the error that was answered, or ConnectionFailed."""
        request = Request(id=next(self._ids), method=method, params=params)
        text = line(request)
        if self._broken is not None or self._transport is None:
            raise self._broken or ConnectionFailed(self._path, "it closed the connection")
        future = self._answers[request.id] = self._loop.create_future()
        try:
            self._transport.write(text)
            async with asyncio.timeout_at(deadline):
                answer: Message = await future
        except ConnectionFailed:
            raise
        except TimeoutError as error:
            raise AnswerTimeout(self._path, "it does not answer in time") from error
        finally:
            del self._answers[request.id]
        if answer.error is not None:
            raise from_object(answer.error)
        return answer.result

    async def close(self) -> None:
        """Every task that waits gets ClientClosed."""
        self._break(ClientClosed(self._path))
        if self._transport is not None:
            self._transport.abort()
            await self._gone

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Some bytes, which complete no line or many."""
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = bytes(self._torn) + lines[0]
            self._torn.clear()
        self._torn += rest
        try:
            for text in lines:
                self._deliver(message(text, self._path))
        except ConnectionFailed as error:
            self._break(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more will come."""
        os_error = exc if isinstance(exc, OSError) else None
        self._break(
            unreachable(self._path, os_error)
            if os_error
            else ConnectionFailed(self._path, "it closed the connection")
        )
        if not self._gone.done():
            self._gone.set_result(None)

    def _deliver(self, answer: Message) -> None:
        if isinstance(answer.id, int):
            future = self._answers.get(answer.id)
            if future is not None and not future.done():
                future.set_result(answer)
        elif answer.id is None and answer.error is not None:
            # Said of the connection as a whole, which is closed after it.
            self._break(from_object(answer.error))

    def _break(self, error: Exception) -> None:
        if self._broken is not None:
            return
        self._broken = error
        for future in self._answers.values():
            if not future.done():
                future.set_exception(error)
        if self._transport is not None:
            self._transport.abort()
