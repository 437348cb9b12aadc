"""What one connection has asked and has not been answered yet.

Messages are accepted in the order sent and answered as each is ready. A finished wait is
encoded only when its connection has room (`drain`), so a peer that does not read costs what
the daemon holds anyway, and no more.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec import Raw

from idl.errors import ProtocolError, TooManyRequests
from xenopsd.rpc.answers import Answer, Pending, encoded, refusal, settled
from xenopsd.rpc.dispatch import Context, Dispatcher
from xenopsd.rpc.envelope import NULL, identity, is_fatal, members
from xenopsd.rpc.limits import Limits, Usage

#: Told once of every message: its answer on one line (None: there is none), and whether the
#: connection is to be closed after it.
Answered = Callable[[bytes | None, bool], None]


@dataclass(slots=True, eq=False)
class _Wait:
    id: bytes
    pending: Pending
    deliver: Callable[[Answer], None]


@dataclass(slots=True, eq=False)
class _Batch:
    """A batch under way: members not yet accepted, and a slot for each answer."""

    context: Context
    members: deque[Raw]
    total: int
    answered: Answered
    slots: list[bytes] = field(default_factory=list)
    size: int = 0
    waiting: int = 0
    accepted: int = 0
    fatal: bool = False


class Exchange:
    """The requests of one connection. `wake` is called when `drain` has something to do.

    `held` is the number of bytes of answers kept back until their batch is complete.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        usage: Usage,
        limits: Limits,
        wake: Callable[[], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._usage = usage
        self._limits = limits
        self._wake = wake
        self._waits: set[_Wait] = set()
        self._done: deque[_Wait] = deque()
        self._batch: _Batch | None = None
        self.held = 0

    @property
    def idle(self) -> bool:
        """Whether everything that was asked has been answered."""
        return not (self._waits or self._done or self._batch)

    def accept(self, message: bytes, context: Context, answered: Answered) -> None:
        """Accept a request, or the first member of a batch; `step` accepts the others.

        Must not be called while `step` has something to do.
        """
        if message.lstrip()[:1] == b"[":
            self._begin(message, context, answered)
            return
        answer = self._dispatcher.answer(message, context)
        if answer is None:
            answered(None, False)  # noqa: FBT003 -- the shape of a callback
        elif isinstance(answer.result, Pending):
            self._wait(answer.id, answer.result, lambda late: answered(encoded(late), late.fatal))
        else:
            answered(encoded(answer), answer.fatal)

    def step(self) -> bool:
        """Accept one more member of the batch under way; False when there is none."""
        if self._batch is None:
            return False
        self._next_member(self._batch)
        return True

    def drain(self) -> bool:
        """Encode one answer that was waited for; False when none is ready."""
        if not self._done:
            return False
        wait = self._done.popleft()
        self._usage.waits -= 1
        wait.deliver(settled(wait.id, wait.pending))
        return True

    def forget(self) -> None:
        """The peer has gone: reads are withdrawn, what was accepted goes on."""
        self._usage.waits -= len(self._waits) + len(self._done)
        waits, self._waits = self._waits, set()
        for wait in (*waits, *self._done):
            wait.pending.forget()
        self._done.clear()
        self._batch = None

    def _wait(self, id: bytes, pending: Pending, deliver: Callable[[Answer], None]) -> None:
        wait = _Wait(id, pending, deliver)
        self._usage.waits += 1
        self._waits.add(wait)
        pending.future.add_done_callback(lambda _future: self._ended(wait))

    def _ended(self, wait: _Wait) -> None:
        if wait in self._waits:
            self._waits.discard(wait)
            self._done.append(wait)
            self._wake()

    # Batches

    def _begin(self, message: bytes, context: Context, answered: Answered) -> None:
        try:
            found = members(message, self._limits)
        except ProtocolError as exc:
            answered(encoded(refusal(NULL, exc)), is_fatal(exc))
            return
        self._batch = _Batch(context, deque(found), len(found), answered)
        self.step()

    def _next_member(self, batch: _Batch) -> None:
        member = batch.members.popleft()
        if not batch.members:
            self._batch = None
        batch.accepted += 1
        if batch.accepted > self._limits.batch_members:
            self._turn_away(batch, member)
        elif (answer := self._dispatcher.answer(member, batch.context)) is not None:
            self._member_answered(batch, answer)
        self._complete(batch)

    def _turn_away(self, batch: _Batch, member: Raw) -> None:
        id = identity(member, self._limits)
        if id is not None:
            error = TooManyRequests(limit=self._limits.batch_members, queued=batch.total)
            self._fill(batch, len(batch.slots), encoded(refusal(id, error)))

    def _member_answered(self, batch: _Batch, answer: Answer) -> None:
        slot = len(batch.slots)
        if isinstance(answer.result, Pending):
            batch.slots.append(b"")
            batch.waiting += 1
            self._wait(answer.id, answer.result, lambda late: self._late(batch, slot, late))
        else:
            self._fill(batch, slot, self._fitting(batch, answer))
        batch.fatal = batch.fatal or answer.fatal

    def _late(self, batch: _Batch, slot: int, answer: Answer) -> None:
        batch.waiting -= 1
        self._fill(batch, slot, self._fitting(batch, answer))
        self._complete(batch)

    def _fitting(self, batch: _Batch, answer: Answer) -> bytes:
        reply, limit = encoded(answer), self._limits.batch_reply
        if batch.size + len(reply) <= limit:
            return reply
        error = TooManyRequests(limit=limit, queued=batch.size + len(reply))
        return encoded(refusal(answer.id, error))

    def _fill(self, batch: _Batch, slot: int, reply: bytes) -> None:
        if slot == len(batch.slots):
            batch.slots.append(reply)
        else:
            batch.slots[slot] = reply
        batch.size += len(reply)
        self.held += len(reply)

    def _complete(self, batch: _Batch) -> None:
        if batch.members or batch.waiting:
            return
        self.held -= batch.size
        reply = b"".join((b"[", b",".join(batch.slots), b"]")) if batch.slots else None
        batch.answered(reply, batch.fatal)
