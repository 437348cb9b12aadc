"""Updates as the daemon sends them, unasked, over a connection of their own."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from idl.calls import UpdatesSubscribe
from idl.decoding import decoder
from idl.errors import from_object
from idl.jsonrpc import Request, line, message, understood
from idl.link import Clock, ConnectionFailed, Link
from idl.update import UpdateBatch


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
        decode = decoder(str).decode
        token: str = understood(decode, answer.result, self._link.path, request.method)
        return token

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
        decode, params = decoder(UpdateBatch).decode, notification.params
        batch: UpdateBatch = understood(decode, params, self._link.path, "updates")
        return batch

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
