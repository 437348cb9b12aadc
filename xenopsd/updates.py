"""The update log with its lock, and those who wait for it on the event loop.

Any thread may say that something changed. The loop is woken once for a burst of changes, and then
all who stand at the same position get one and the same encoded answer. A wait costs a future and
a timer; a cancelled one leaves nothing behind.

What a change means, and to whom answers are sent, is not known here.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import ParamSpec

import msgspec

from idl.update import ObjectType, UpdateBatch
from xenopsd.updatelog import Position, UpdateLog

P = ParamSpec("P")

ANSWERS = 16  # encoded answers that are kept for whoever asks next, until something changes


@dataclass(frozen=True, slots=True)
class _Answer:
    """An encoded UpdateBatch, and the number that its `next` stands for."""

    raw: msgspec.Raw
    number: int


@dataclass(slots=True, eq=False)
class _Waiter:
    """One who waits at `position`; `told` hears up to which number it has been answered."""

    future: "asyncio.Future[msgspec.Raw]"
    position: Position
    told: Callable[[int], None] | None = None
    timer: asyncio.TimerHandle | None = None

    def resolve(self, answer: _Answer) -> None:
        if self.timer is not None:
            self.timer.cancel()
        if self.future.done():  # cancelled, and its callback has not run yet
            return
        if self.told is not None:
            self.told(answer.number)
        self.future.set_result(answer.raw)


class Updates:
    """A log that threads write and one event loop reads.

    `get` and `subscribe` are called on the loop, everything else anywhere. What a thread
    reported before it reported something else is told no later than that.
    """

    def __init__(self, log: UpdateLog) -> None:
        self._log = log
        self._lock = Lock()
        self._encode = msgspec.json.Encoder().encode
        self._loop: asyncio.AbstractEventLoop | None = None  # known once somebody waits
        self._woken = False  # a flush is on its way
        self._waiting: dict[Position, set[_Waiter]] = {}
        self._answers: dict[Position, _Answer] = {}

    # What happens

    def touch(self, type: ObjectType, id: str) -> None:
        """The object changed, or appeared."""
        self._change(self._log.touch, type, id)

    def remove(self, type: ObjectType, id: str) -> None:
        """The object is gone."""
        self._change(self._log.remove, type, id)

    def forget(self, type: ObjectType, id: str) -> None:
        """The object ages out; nobody is told."""
        with self._lock:
            self._log.forget(type, id)
            self._answers.clear()

    def refresh(self, vm: str) -> None:
        """The VM and its devices are announced again."""
        self._change(self._log.refresh, vm)

    def inject_barrier(self, id: int, vm: str) -> None:
        """Replaces an earlier barrier of that id. Raises TooManyRequests."""
        self._change(self._log.inject_barrier, id, vm)

    def remove_barrier(self, id: int) -> None:
        """Raises KeyError where there is no such barrier."""
        with self._lock:
            self._log.remove_barrier(id)
            self._answers.clear()

    # Who waits

    def get(self, since: str | None, timeout: float) -> "asyncio.Future[msgspec.Raw]":
        """The encoded UpdateBatch for a token, as soon as there is something to tell; after
        `timeout` seconds an empty one. To cancel the future is to withdraw.
        """
        waiter = self._wait(self.parse(since))
        if not waiter.future.done():
            later = waiter.future.get_loop().call_later
            waiter.timer = later(max(timeout, 0.0), self._expire, waiter)
        return waiter.future

    def subscribe(self, since: str | None) -> "Subscription":
        """Answers without end from a token on (None: the beginning)."""
        return Subscription(self, since)

    def last_id(self) -> str:
        """The token of now."""
        with self._lock:
            return self._log.last

    def parse(self, since: str | None) -> Position:
        """Where the owner of a token stands."""
        with self._lock:
            return self._log.parse(since)

    def token(self, number: int) -> str:
        """The token of who has been told everything up to `number`."""
        return self._log.token(number)

    def wait(
        self, position: Position, told: Callable[[int], None]
    ) -> "asyncio.Future[msgspec.Raw]":
        """As `get` without a timeout; `told` hears the number to go on from."""
        return self._wait(position, told).future

    def stats(self) -> dict[str, int]:
        """objects, tombstones, barriers, number (of changes so far), waiters."""
        with self._lock:
            waiters = sum(map(len, self._waiting.values()))
            return {**self._log.stats(), "waiters": waiters}

    # Inside

    def _change(self, change: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Log what will be told, and wake the loop unless nobody waits or it wakes already."""
        with self._lock:
            change(*args, **kwargs)
            self._answers.clear()
            wake = bool(self._waiting) and not self._woken
            self._woken |= wake
        if wake and self._loop is not None:
            # A worker may outlive the loop at the end of the daemon; then nobody waits any more.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._flush)

    def _wait(self, position: Position, told: Callable[[int], None] | None = None) -> _Waiter:
        self._loop = asyncio.get_running_loop()
        waiter = _Waiter(self._loop.create_future(), position, told)
        with self._lock:
            answer = self._answer(position)
            if answer is None:
                # Under the same lock as the look at the log: the next change wakes this one.
                self._waiting.setdefault(position, set()).add(waiter)
        if answer is None:
            waiter.future.add_done_callback(partial(self._withdraw, waiter))
        else:
            waiter.resolve(answer)
        return waiter

    def _flush(self) -> None:
        """Answer all whom there is something to tell, each position once."""
        told = []
        with self._lock:
            self._woken = False
            for position in list(self._waiting):
                answer = self._answer(position)
                if answer is not None:
                    told.append((self._waiting.pop(position), answer))
        for group, answer in told:
            for waiter in group:
                waiter.resolve(answer)

    def _expire(self, waiter: _Waiter) -> None:
        with self._lock:
            self._leave(waiter)
            # The change that a flush on its way will tell the others is told here as well.
            answer = self._answer(waiter.position) or self._nothing(waiter.position)
        waiter.resolve(answer)

    def _withdraw(self, waiter: _Waiter, future: "asyncio.Future[msgspec.Raw]") -> None:
        if not future.cancelled():
            return
        if waiter.timer is not None:
            waiter.timer.cancel()
        with self._lock:
            self._leave(waiter)

    def _leave(self, waiter: _Waiter) -> None:
        group = self._waiting.get(waiter.position)
        if group is not None:
            group.discard(waiter)
            if not group:
                del self._waiting[waiter.position]

    def _answer(self, position: Position) -> _Answer | None:
        found = self._answers.get(position)
        if found is not None:
            return found
        batch = self._log.answer(position)
        if batch is None:
            return None
        answer = self._encoded(batch, self._log.number)
        if len(self._answers) < ANSWERS:
            self._answers[position] = answer
        return answer

    def _nothing(self, position: Position) -> _Answer:
        number = position if isinstance(position, int) else self._log.number
        batch = UpdateBatch(updates=[], barriers=[], next=self._log.token(number), resync=False)
        return self._encoded(batch, number)

    def _encoded(self, batch: UpdateBatch, number: int) -> _Answer:
        return _Answer(msgspec.Raw(self._encode(batch)), number)


class Subscription:
    """One who is told without end. Used on the loop, with one `next` outstanding at a time."""

    def __init__(self, updates: Updates, since: str | None) -> None:
        self._updates = updates
        self._position = updates.parse(since)
        # Whoever comes back with this token misses nothing: one that was refused is refused
        # again, and the number before the first stands before everything.
        self._token = updates.token(0) if since is None else since
        self._future: asyncio.Future[msgspec.Raw] | None = None

    @property
    def token(self) -> str:
        """Up to where the owner has been told; what UPDATES.get continues from."""
        return self._token

    def next(self) -> "asyncio.Future[msgspec.Raw]":
        """The next encoded UpdateBatch. A cancelled one is answered by the next call."""
        if self._future is not None and not self._future.done():
            raise RuntimeError("the answer before this one is still awaited")
        self._future = self._updates.wait(self._position, self._told)
        return self._future

    def close(self) -> None:
        """Withdraw; an outstanding `next` is cancelled."""
        if self._future is not None:
            self._future.cancel()

    def _told(self, number: int) -> None:
        self._position = number
        self._token = self._updates.token(number)
