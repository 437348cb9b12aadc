"""Many threads ask over one link, and each gets the answer to its own question.

There is no thread of our own: of the threads that wait, one reads for all, and when it has
its answer another takes its place. State is one set of ids and answers under one lock, which
is never held while the socket is waited for.
"""

import threading
from itertools import count
from typing import Any

from msgspec import Raw

from idl.errors import from_object
from idl.jsonrpc import Message, Request, line, message
from idl.link import AnswerTimeout, ClientClosed, Clock, ConnectionFailed, Link


class Exchange:
    """Questions and answers over one link, for any number of threads."""

    def __init__(self, link: Link, clock: Clock) -> None:
        self._link = link
        self._clock = clock
        self._ids = count(1)
        self._writing = threading.Lock()
        self._changed = threading.Condition()
        self._answers: dict[int, Message | None] = {}  # None: not answered yet
        self._reading = False
        self._broken: Exception | None = None

    def alive(self) -> bool:
        """Whether the other side still holds the connection, as far as can be seen now."""
        with self._changed:
            if self._reading or self._broken:
                return self._broken is None
            self._reading = True
        self._read(deadline=None, wait=False)
        return self._broken is None

    def ask(self, method: str, params: dict[str, Any], deadline: float) -> Raw:
        """The result. Raises the error that was answered, or ConnectionFailed."""
        request = Request(id=next(self._ids), method=method, params=params)
        with self._changed:
            self._answers[request.id] = None
        try:
            self._write(line(request), deadline)
            answer = self._await(request.id, deadline)
        finally:
            # An answer that comes later finds nobody and is dropped.
            with self._changed:
                del self._answers[request.id]
        if answer.error is not None:
            raise from_object(answer.error)
        return answer.result

    def _write(self, text: bytes, deadline: float) -> None:
        with self._writing:
            if self._broken:
                raise self._broken
            try:
                self._link.write(text, deadline)
            except AnswerTimeout:
                # Half a line may be out: nothing that follows would be understood.
                self._break(ConnectionFailed(self._link.path, "it does not read what is sent"))
                raise
            except ConnectionFailed:
                pass  # what it said before it closed tells more, and is read next

    def _await(self, id: int, deadline: float) -> Message:
        while True:
            with self._changed:
                while self._answers[id] is None and self._reading and not self._broken:
                    if not self._changed.wait(max(deadline - self._clock(), 0.0)):
                        raise AnswerTimeout(self._link.path, "it does not answer in time")
                if (answer := self._answers[id]) is not None:
                    return answer
                if self._broken:
                    raise self._broken
                self._reading = True
            self._read(deadline, wait=True)

    def _read(self, deadline: float | None, *, wait: bool) -> None:
        """One turn as the thread that reads for all."""
        try:
            lines = self._link.read(deadline) if wait else self._link.pending()
            self._deliver([message(text, self._link.path) for text in lines])
        except AnswerTimeout:
            raise  # only this thread's time is over: another one reads on
        except ConnectionFailed as error:
            self._break(error)
        finally:
            with self._changed:
                self._reading = False
                self._changed.notify_all()

    def _deliver(self, messages: list[Message]) -> None:
        with self._changed:
            for answer in messages:
                if isinstance(answer.id, int) and answer.id in self._answers:
                    self._answers[answer.id] = answer
                elif answer.id is None and answer.error is not None:
                    # Said of the connection as a whole, which is closed after it.
                    self._broken = from_object(answer.error)

    def _break(self, error: Exception) -> None:
        with self._changed:
            self._broken = self._broken or error
            self._changed.notify_all()

    def close(self) -> None:
        """Every thread that waits gets ConnectionFailed; the last reader has let go."""
        self._break(ClientClosed(self._link.path))
        self._link.shut()
        with self._changed:
            # Bounded, for a reader that was interrupted before it could say that it left.
            self._changed.wait_for(lambda: not self._reading, timeout=1.0)
        with self._writing:
            self._link.close()
