"""The typed client for asyncio: as `idl.client`, with `await` before every call.

One connection carries the calls of any number of tasks of one event loop: the daemon answers
each call when that is ready, so one that waits long keeps no other from being answered. A task
that is cancelled leaves its call at once; what the call has asked for goes on in the daemon.
What becomes of a call whose connection broke is said in `idl.question`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
from msgspec import Raw

from idl.calls import Call, UpdatesGet
from idl.errors import DoesNotExist, MetadataCorrupt
from idl.exchange_async import Exchange
from idl.jsonrpc import understood
from idl.link import AnswerTimeout, ClientClosed, ConnectionFailed, OutcomeUnknown
from idl.namespaces_async import Namespaces, UpdatesCalls
from idl.question import (
    BEAT,
    POLL,
    Course,
    Question,
    decoder,
    given,
    outcome,
    question,
    window,
)
from idl.task import Task
from idl.update import Update
from idl.view import Told, View, look

__all__ = [
    "AnswerTimeout",
    "AsyncClient",
    "ClientClosed",
    "ConnectionFailed",
    "OutcomeUnknown",
    "View",
]

R = TypeVar("R")


class Updates(UpdatesCalls):
    """What to look at again."""

    def __init__(
        self,
        client: "AsyncClient",
        follow: Callable[[str | None, View | None], AsyncIterator[Update]],
    ) -> None:
        super().__init__(client)
        self._follow = follow

    def follow(
        self, since: str | None = None, *, view: View | None = None
    ) -> AsyncIterator[Update]:
        """Every object that exists, and then each that changed, without end: over restarts of
        the daemon too, until the client is closed or the task that follows is cancelled.

        What is gone is told with `removed`, whatever the reason that nobody announced it. With
        a `view`, an object's record is there before its update is told; one that was used
        before is brought up to date. With a token as `since` only what changed after it is
        told; of what went during a restart, only what this follower was told of before.

        A follower that falls behind is told of each object once. Raises ConnectionFailed where
        there is no daemon at the first call.
        """
        return self._follow(since, view)


class AsyncClient(Namespaces):
    """`await client.vm.start("a")` answers a task id, `await client.run(id)` the task when it
    has ended.

    `timeout` (seconds) bounds every call. A call that the server itself awaits for a time
    (TASK.wait, UPDATES.get, and what goes through a VM's queue) is bounded by that time and
    a margin instead. `reconnect` is for how long a daemon that went away is waited for. A
    client belongs to the event loop that it is first used on.
    """

    def __init__(
        self, socket_path: str | Path, timeout: float = 60.0, *, reconnect: float = 30.0
    ) -> None:
        super().__init__(self)
        self.updates = Updates(self, self._follow)
        self._path = Path(socket_path)
        self._timeout = timeout
        self._reconnect = reconnect
        self._connecting = asyncio.Lock()
        self._exchange: Exchange | None = None
        self._reached = False
        self._closed = asyncio.Event()  # of all calls until now

    async def send(self, call: Call[R]) -> R:
        """The result. Raises what the daemon answers as an error (`idl.errors`), or
        ConnectionFailed.
        """
        return await self._send(call, self._closed, lasting=False)

    async def call(self, method: str, /, **params: Any) -> Any:
        """The result of any call as plain JSON values, parameters as given."""
        asked = question(method, params, self._timeout)
        result = await self._ask(asked, self._closed, lasting=False)
        return understood(msgspec.json.decode, result, self._path, method)

    async def run(
        self,
        task: str,
        timeout: float = 3600.0,
        *,
        progress: Callable[[Task], object] | None = None,
    ) -> Task:
        """The task when it has ended well; the daemon may be restarted meanwhile.

        `progress` is called with the task as it is now and whenever it has changed, within
        half a second. Raises the task's error, or DeadlineExceeded when it has not ended in
        time (it goes on, as it does when this is cancelled; `client.task.cancel` ends it).
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        seen: Task | None = None
        beat = 0.0 if progress else POLL
        while True:
            left = deadline - clock()
            found = await self.task.wait(task, timeout=min(max(left, 0.0), beat))
            if progress and found != seen:
                progress(found)
            seen, beat = found, BEAT if progress else POLL
            if ended := outcome(found, left, timeout):
                return ended

    async def close(self) -> None:
        """Close the connection: calls that wait get ClientClosed, followers end. A later call
        makes anew.
        """
        closed, self._closed = self._closed, asyncio.Event()
        closed.set()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            await exchange.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _send(self, call: Call[R], closed: asyncio.Event, *, lasting: bool) -> R:
        kind = type(call)
        asked = question(kind.method, given(call), self._timeout)
        result = await self._ask(asked, closed, lasting=lasting)
        answer: R = understood(decoder(kind).decode, result, self._path, kind.method)
        return answer

    async def _ask(self, asked: Question, closed: asyncio.Event, *, lasting: bool) -> Raw:
        clock = asyncio.get_running_loop().time
        course = Course(asked, clock())
        while True:
            params, deadline = course.attempt(clock())
            sent = False
            try:
                exchange = await self._connected(deadline, closed)
                sent = True
                return await exchange.ask(asked.method, params, deadline)
            except ConnectionFailed as error:
                away = window(self._reconnect, reached=self._reached, lasting=lasting)
                pause = course.cut(error, clock(), away, sent=sent)
            await _set_within(closed, pause)

    async def _connected(self, deadline: float, closed: asyncio.Event) -> Exchange:
        """The present connection, or a new one where the daemon has closed it."""
        if closed.is_set():
            raise ClientClosed(self._path)
        if self._exchange is not None and self._exchange.alive():
            return self._exchange
        try:
            async with asyncio.timeout_at(deadline):
                await self._connecting.acquire()
        except TimeoutError as error:
            raise AnswerTimeout(self._path, "it does not take a connection in time") from error
        try:
            if self._exchange is None or not self._exchange.alive():
                self._exchange = None
                made = await Exchange.connected(self._path, deadline)
                self._reached = True
                if closed.is_set():  # meanwhile
                    await made.close()
                else:
                    self._exchange = made
        finally:
            self._connecting.release()
        if closed.is_set() or self._exchange is None:
            raise ClientClosed(self._path)
        return self._exchange

    # Following

    def _follow(self, since: str | None, view: View | None) -> AsyncIterator[Update]:
        if since is not None and view is not None:
            raise ValueError("a view has a token of its own: give either")
        return self._followed(since, view, self._closed)

    async def _followed(
        self, since: str | None, view: View | None, closed: asyncio.Event
    ) -> AsyncIterator[Update]:
        token, told = (view.token, Told(view.names())) if view else (since, Told())
        try:
            while True:
                batch = await self._send(UpdatesGet(since=token), closed, lasting=True)
                for update in told.take(batch):
                    yield await self._seen(update, view, closed) if view else update
                token = batch.next
                if view:
                    view.token = token
        except ClientClosed:
            return

    async def _seen(self, update: Update, view: View, closed: asyncio.Event) -> Update:
        """The update, once the view has what it is about."""
        call = look(update)
        if call is None:
            return view.put(update, None)
        try:
            return view.put(update, await self._send(call, closed, lasting=True))
        except (DoesNotExist, MetadataCorrupt):
            return view.put(update, None)


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    """Until the event is set, at most so long."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
