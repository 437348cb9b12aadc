"""A call on its way: how long to wait for its answer, and whether it may be sent again.

Pure; time is an argument. The daemon may go away between a call and its answer. Then
  a read            is asked again: that changes nothing;
  an operation (T)  is sent again with the task id that the client has chosen for it, so that
                    the daemon, if it knows the task already, answers it and queues nothing;
  any other call    is not sent again: `OutcomeUnknown` tells that it may have been carried out.
"""

from dataclasses import dataclass
from functools import cache
from math import inf, isfinite
from typing import Any
from uuid import uuid4

import msgspec
from msgspec import NODEFAULT
from msgspec.structs import fields

from idl import decoding
from idl.calls import CALLS, Call, Operation, PrivateRead, Read, UpdatesSubscribe, result_type
from idl.errors import DeadlineExceeded, from_object
from idl.link import AnswerTimeout, ClientClosed, ConnectionFailed, OutcomeUnknown
from idl.task import Failed, Task

#: How much longer than the server's own wait a client waits, in seconds.
MARGIN = 10.0
#: The longest single wait for a task or for updates, in seconds.
POLL = 30.0
#: How often a task is looked at for who wants to hear of its progress, in seconds.
BEAT = 0.5
#: The first and the longest pause between two attempts to reach a daemon that is away.
SOON, LATE = 0.02, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A call as it is sent.

    `repeatable` says whether it may be sent again when its answer did not come, `wait` how
    long the server itself waits before it answers, `timeout` bounds all other waiting.
    """

    method: str
    params: dict[str, Any]
    timeout: float
    repeatable: bool
    wait: float | None = None
    task: str | None = None


def question(method: str, params: dict[str, Any], timeout: float) -> Question:
    """What to send for a call. An operation gets a task id where its caller chose none.

    Raises ValueError for what cannot be sent.
    """
    if method == UpdatesSubscribe.method:
        raise ValueError("a subscription needs a connection of its own: use subscribe()")
    for name, value in params.items():
        if isinstance(value, float) and not isfinite(value):
            # It would travel as null, and a shutdown without a timeout is a hard one.
            raise ValueError(f"{name}: {value} cannot be sent; JSON has no such number")
    kind = CALLS.get(method)
    if kind is not None and issubclass(kind, Operation):
        task = params.get("task")
        task = str(uuid4()) if task is None else task
        params = {**params, "task": task}
        return Question(
            method=method, params=params, timeout=timeout, repeatable=True, task=task
        )
    repeatable = kind is not None and issubclass(kind, Read | PrivateRead)
    wait = params.get("timeout", _defaults(kind).get("timeout")) if kind else None
    known = wait if isinstance(wait, int | float) else None
    return Question(
        method=method, params=params, timeout=timeout, repeatable=repeatable, wait=known
    )


class Course:
    """A question from its first attempt to its answer, or to the error that is raised."""

    def __init__(self, question: Question, now: float) -> None:
        self.question = question
        self._began = now
        self._sent = False
        self._away: float | None = None
        self._pause = SOON

    def attempt(self, now: float) -> tuple[dict[str, Any], float]:
        """The parameters to send now, and the deadline for the answer."""
        params, wait = self.question.params, self.question.wait
        if wait is None:
            return params, now + self.question.timeout
        if self._away is None:
            return params, now + wait + MARGIN
        # What was waited already is not waited again.
        left = max(self._began + wait - now, 0.0)
        return {**params, "timeout": left}, now + left + MARGIN

    def cut(self, error: ConnectionFailed, now: float, window: float, *, sent: bool) -> float:
        """How long to pause before the next attempt. Raises what the caller is to know where
        there is none: a daemon may be away for `window` seconds.
        """
        self._sent |= sent
        if isinstance(error, ClientClosed) or (self._sent and not self.question.repeatable):
            raise self._final(error)
        if isinstance(error, AnswerTimeout) and window < inf:
            raise self._final(error)
        self._away = now if self._away is None else self._away
        left = self._away + window - now
        if left <= 0:
            raise self._final(error)
        pause, self._pause = self._pause, min(self._pause * 2, LATE)
        return min(pause, left)

    def _final(self, error: ConnectionFailed) -> ConnectionFailed:
        task, method = self.question.task, self.question.method
        if not self._sent or (self.question.repeatable and task is None):
            return error
        kind = AnswerTimeout if isinstance(error, AnswerTimeout) else OutcomeUnknown
        advice = f"{method} may have been carried out; look before you call again"
        if task is not None:
            advice = f"{method} may have been accepted; ask for task {task}, or call again with it"
        return kind(error.path, error.reason, advice, task=task)


def window(reconnect: float, *, reached: bool, lasting: bool) -> float:
    """How long a daemon may be away. One that was never there is a mistake, told at once."""
    if not reached:
        return 0.0
    return inf if lasting else reconnect


def outcome(found: Task, left: float, timeout: float) -> Task | None:
    """A task that has ended well; None while it goes on. Raises its error, or DeadlineExceeded
    where no time is left.
    """
    if isinstance(found.state, Failed):
        raise from_object(found.state.error)
    if found.ended:
        return found
    if left <= 0:
        raise DeadlineExceeded(what=f"Task {found.id} ({found.operation})", seconds=timeout)
    return None


@cache
def decoder(kind: type[Call[Any]]) -> "msgspec.json.Decoder[Any]":
    """Reads the answers to a call."""
    return decoding.decoder(result_type(kind))


def given(call: Call[Any]) -> dict[str, Any]:
    """What differs from the defaults, so that a call that an older daemon knows stays one."""
    defaults, names = _defaults(type(call)), call.__struct_fields__
    values = {name: getattr(call, name) for name in names}
    return {n: v for n, v in values.items() if n not in defaults or v != defaults[n]}


@cache
def _defaults(kind: type[Call[Any]]) -> dict[str, Any]:
    """The default of every optional parameter; those with a factory are always sent."""
    return {f.name: f.default for f in fields(kind) if f.default is not NODEFAULT}
