"""A typed client of the daemon: calls block, results are the types of `idl`.

One connection serves any number of threads; it is made at the first call and made anew when
the daemon was restarted. Nothing is ever sent twice: a call whose connection broke raises
`ConnectionFailed`, and the caller, who knows whether that is safe, calls again (with a `task`
of its own, a repeated operation queues nothing).
"""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
from msgspec import NODEFAULT, Raw
from msgspec.structs import fields

from idl.calls import CALLS, Call, Operation, UpdatesSubscribe, result_type
from idl.errors import DeadlineExceeded, from_object
from idl.exchange import Exchange, Request, line, message
from idl.link import AnswerTimeout, Clock, ConnectionFailed, Link
from idl.namespaces import Namespaces
from idl.task import Failed, Task
from idl.update import UpdateBatch

__all__ = ["AnswerTimeout", "Client", "ConnectionFailed", "Subscription"]

R = TypeVar("R")

#: How much longer than the server's own wait a client waits, in seconds.
MARGIN = 10.0
#: The longest single wait for a task.
POLL = 30.0


class Client(Namespaces):
    """`client.vm.start("a")` answers a task id, `client.run(id)` the task when it has ended.

    `timeout` (seconds) bounds every call. A call that the server itself awaits for a time
    (TASK.wait, UPDATES.get, and what goes through a VM's queue) is bounded by that time and
    a margin instead.
    """

    def __init__(
        self, socket_path: str | Path, timeout: float = 60.0, *, clock: Clock = time.monotonic
    ) -> None:
        super().__init__(self)
        self._path = Path(socket_path)
        self._timeout = timeout
        self._clock = clock
        self._connecting = threading.Lock()
        self._exchange: Exchange | None = None

    def send(self, call: Call[R]) -> R:
        """The result. Raises what the daemon answers as an error (`idl.errors`), or
        ConnectionFailed.
        """
        kind = type(call)
        result = self._ask(kind.method, _given(call))
        try:
            answer: R = _decoder(kind).decode(result)
        except msgspec.DecodeError as error:
            reason = f"its answer to {kind.method} is not understood: {error}"
            raise ConnectionFailed(self._path, reason, "use a client of its version") from error
        return answer

    def call(self, method: str, /, **params: Any) -> Any:
        """The result of any call as plain JSON values, parameters as given."""
        if method == UpdatesSubscribe.method:
            raise ValueError("a subscription needs a connection of its own: use subscribe()")
        return msgspec.json.decode(self._ask(method, params))

    def run(self, task: str, timeout: float = 3600.0) -> Task:
        """The task when it has ended well. Raises its error, or DeadlineExceeded when it has
        not ended in time (it goes on).
        """
        deadline = self._clock() + timeout
        while True:
            left = deadline - self._clock()
            found = self.task.wait(task, timeout=min(max(left, 0.0), POLL))
            if isinstance(found.state, Failed):
                raise from_object(found.state.error)
            if found.ended:
                return found
            if left <= 0:
                raise DeadlineExceeded(what=f"Task {task} ({found.operation})", seconds=timeout)

    def subscribe(
        self, since: str | None = None, *, silence: float | None = None
    ) -> "Subscription":
        """Updates from now on (or since a token), over a connection of its own.

        With `silence`, AnswerTimeout after so many seconds without any.
        """
        return Subscription(self._path, since, self._timeout, silence, self._clock)

    def close(self) -> None:
        """Close the connection; calls that wait get ConnectionFailed. A later call makes anew."""
        with self._connecting:
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

    def _ask(self, method: str, params: dict[str, Any]) -> Raw:
        deadline = self._clock() + self._patience(method, params)
        return self._connected(deadline).ask(method, params, deadline)

    def _patience(self, method: str, params: dict[str, Any]) -> float:
        """How long to wait for an answer; an operation's `timeout` is not about its answer."""
        kind = CALLS.get(method)
        if kind is None or issubclass(kind, Operation):
            return self._timeout
        wait = params.get("timeout", _defaults(kind).get("timeout"))
        return wait + MARGIN if isinstance(wait, int | float) else self._timeout

    def _connected(self, deadline: float) -> Exchange:
        """The present connection, or a new one where the daemon has closed it."""
        with self._connecting:
            if self._exchange is not None and self._exchange.alive():
                return self._exchange
            if self._exchange is not None:
                self._exchange.close()
                self._exchange = None
            self._exchange = Exchange(Link(self._path, deadline, self._clock), self._clock)
            return self._exchange


class Subscription(Iterator[UpdateBatch]):
    """Batches of updates as they come; `token` is where they begin.

    It ends when it is closed, from any thread, and raises ConnectionFailed when the daemon
    goes away: subscribe again with the `next` of the last batch.
    """

    def __init__(
        self, path: Path, since: str | None, timeout: float, silence: float | None, clock: Clock
    ) -> None:
        self._clock = clock
        self._silence = silence
        self._closed = False
        self._lines: list[bytes] = []
        deadline = clock() + timeout
        self._link = Link(path, deadline, clock)
        try:
            self.token = self._begin(since, deadline)
        except BaseException:
            self._link.close()
            raise

    def _begin(self, since: str | None, deadline: float) -> str:
        params = {} if since is None else {"since": since}
        request = Request(id=1, method=UpdatesSubscribe.method, params=params)
        with suppress(ConnectionFailed):  # what it said before it closed is read next
            self._link.write(line(request), deadline)
        while not self._lines:
            self._lines = self._link.read(deadline)
        answer = message(self._lines.pop(0), self._link.path)
        if answer.error is not None:
            raise from_object(answer.error)
        return msgspec.json.decode(answer.result, type=str)

    def __next__(self) -> UpdateBatch:
        while not self._lines:
            deadline = None if self._silence is None else self._clock() + self._silence
            try:
                self._lines = self._link.read(deadline)
            except ConnectionFailed:
                if self._closed:
                    raise StopIteration from None
                raise
        notification = message(self._lines.pop(0), self._link.path)
        if notification.error is not None:
            raise from_object(notification.error)
        return msgspec.json.decode(notification.params, type=UpdateBatch)

    def close(self) -> None:
        """End it, also for a thread that waits for the next batch."""
        self._closed = True
        self._link.shut()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        self._link.close()


@cache
def _decoder(kind: type[Call[Any]]) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(result_type(kind))


@cache
def _defaults(kind: type[Call[Any]]) -> dict[str, Any]:
    """The default of every optional parameter; those with a factory are always sent."""
    return {f.name: f.default for f in fields(kind) if f.default is not NODEFAULT}


def _given(call: Call[Any]) -> dict[str, Any]:
    """What differs from the defaults, so that a call that an older daemon knows stays one."""
    defaults, names = _defaults(type(call)), call.__struct_fields__
    values = {name: getattr(call, name) for name in names}
    return {n: v for n, v in values.items() if n not in defaults or v != defaults[n]}
