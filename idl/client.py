"""A typed client of the daemon: calls block, results are the types of `idl`.

One connection carries the calls of any number of threads: the daemon answers each call when
that is ready, so one that waits long keeps no other from being answered. It is made at the
first call, and anew after the daemon was restarted. A call whose connection broke goes on as
`idl.question` says; nothing is carried out twice. A subscription has a connection of its own.
"""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
from msgspec import Raw

from idl.calls import Call, UpdatesGet
from idl.errors import DoesNotExist, MetadataCorrupt
from idl.exchange import Exchange
from idl.jsonrpc import understood
from idl.link import (
    AnswerTimeout,
    ClientClosed,
    Clock,
    ConnectionFailed,
    Link,
    OutcomeUnknown,
)
from idl.namespaces import Namespaces, UpdatesCalls
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
from idl.subscription import Subscription
from idl.task import Task
from idl.update import Update
from idl.view import Told, View, look

__all__ = [
    "AnswerTimeout",
    "Client",
    "ClientClosed",
    "ConnectionFailed",
    "OutcomeUnknown",
    "Subscription",
    "View",
]

R = TypeVar("R")


class Updates(UpdatesCalls):
    """What to look at again."""

    def __init__(
        self, client: "Client", follow: Callable[[str | None, View | None], Iterator[Update]]
    ) -> None:
        super().__init__(client)
        self._follow = follow

    def follow(self, since: str | None = None, *, view: View | None = None) -> Iterator[Update]:
        """Every object that exists, and then each that changed, without end: over restarts of
        the daemon too, until the client is closed.

        What is gone is told with `removed`, whatever the reason that nobody announced it. With
        a `view`, an object's record is there before its update is told; one that was used
        before is brought up to date. With a token as `since` only what changed after it is
        told; of what went during a restart, only what this follower was told of before.

        A follower that falls behind is told of each object once. Raises ConnectionFailed where
        there is no daemon at the first call.
        """
        return self._follow(since, view)


class Client(Namespaces):
    """`client.vm.start("a")` answers a task id, `client.run(id)` the task when it has ended.

    `timeout` (seconds) bounds every call. A call that the server itself awaits for a time
    (TASK.wait, UPDATES.get, and what goes through a VM's queue) is bounded by that time and
    a margin instead. `reconnect` is for how long a daemon that went away is waited for.
    """

    def __init__(
        self,
        socket_path: str | Path,
        timeout: float = 60.0,
        *,
        reconnect: float = 30.0,
        clock: Clock = time.monotonic,
    ) -> None:
        super().__init__(self)
        self.updates = Updates(self, self._follow)
        self._path = Path(socket_path)
        self._timeout = timeout
        self._reconnect = reconnect
        self._clock = clock
        self._connecting = threading.Lock()
        self._exchange: Exchange | None = None
        self._reached = False
        self._closed = threading.Event()  # of all calls until now

    def send(self, call: Call[R]) -> R:
        """The result. Raises what the daemon answers as an error (`idl.errors`), or
        ConnectionFailed.
        """
        return self._send(call, self._closed, lasting=False)

    def call(self, method: str, /, **params: Any) -> Any:
        """The result of any call as plain JSON values, parameters as given."""
        asked = question(method, params, self._timeout)
        result = self._ask(asked, self._closed, lasting=False)
        return understood(msgspec.json.decode, result, self._path, method)

    def run(
        self,
        task: str,
        timeout: float = 3600.0,
        *,
        progress: Callable[[Task], object] | None = None,
    ) -> Task:
        """The task when it has ended well; the daemon may be restarted meanwhile.

        `progress` is called with the task as it is now and whenever it has changed, within
        half a second. Raises the task's error, or DeadlineExceeded when it has not ended in
        time (it goes on; `client.task.cancel` ends it).
        """
        deadline = self._clock() + timeout
        seen: Task | None = None
        beat = 0.0 if progress else POLL
        while True:
            left = deadline - self._clock()
            found = self.task.wait(task, timeout=min(max(left, 0.0), beat))
            if progress and found != seen:
                progress(found)
            seen, beat = found, BEAT if progress else POLL
            if ended := outcome(found, left, timeout):
                return ended

    def subscribe(self, since: str | None = None, *, silence: float | None = None) -> Subscription:
        """Batches of updates from now on (or since a token), over a connection of its own that
        ends with the daemon; `updates.follow` goes on.

        With `silence`, AnswerTimeout after so many seconds without any.
        """
        return Subscription(self._path, since, self._timeout, silence, self._clock)

    def close(self) -> None:
        """Close the connection: calls that wait get ClientClosed, followers end. A later call
        makes anew.
        """
        with self._connecting:
            closed, self._closed = self._closed, threading.Event()
            closed.set()
            exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, call: Call[R], closed: threading.Event, *, lasting: bool) -> R:
        kind = type(call)
        asked = question(kind.method, given(call), self._timeout)
        result = self._ask(asked, closed, lasting=lasting)
        answer: R = understood(decoder(kind).decode, result, self._path, kind.method)
        return answer

    def _ask(self, asked: Question, closed: threading.Event, *, lasting: bool) -> Raw:
        course = Course(asked, self._clock())
        while True:
            params, deadline = course.attempt(self._clock())
            sent = False
            try:
                exchange = self._connected(deadline, closed)
                sent = True
                return exchange.ask(asked.method, params, deadline)
            except ConnectionFailed as error:
                away = window(self._reconnect, reached=self._reached, lasting=lasting)
                pause = course.cut(error, self._clock(), away, sent=sent)
            closed.wait(pause)

    def _connected(self, deadline: float, closed: threading.Event) -> Exchange:
        """The present connection, or a new one where the daemon has closed it."""
        if not self._connecting.acquire(timeout=max(deadline - self._clock(), 0.0)):
            raise AnswerTimeout(self._path, "it does not take a connection in time")
        try:
            if closed.is_set():
                raise ClientClosed(self._path)
            if self._exchange is not None and self._exchange.alive():
                return self._exchange
            if self._exchange is not None:
                self._exchange.close()
                self._exchange = None
            self._exchange = Exchange(Link(self._path, deadline, self._clock), self._clock)
            self._reached = True
            return self._exchange
        finally:
            self._connecting.release()

    # Following

    def _follow(self, since: str | None, view: View | None) -> Iterator[Update]:
        if since is not None and view is not None:
            raise ValueError("a view has a token of its own: give either")
        return self._followed(since, view, self._closed)

    def _followed(
        self, since: str | None, view: View | None, closed: threading.Event
    ) -> Iterator[Update]:
        token, told = (view.token, Told(view.names())) if view else (since, Told())
        try:
            while True:
                batch = self._send(UpdatesGet(since=token), closed, lasting=True)
                for update in told.take(batch):
                    yield self._seen(update, view, closed) if view else update
                token = batch.next
                if view:
                    view.token = token
        except ClientClosed:
            return

    def _seen(self, update: Update, view: View, closed: threading.Event) -> Update:
        """The update, once the view has what it is about."""
        call = look(update)
        if call is None:
            return view.put(update, None)
        try:
            return view.put(update, self._send(call, closed, lasting=True))
        except (DoesNotExist, MetadataCorrupt):
            return view.put(update, None)
