"""TASK: an operation as its caller follows it."""

from typing import Annotated, Any, TypeAlias

from msgspec import Meta

from idl.wire import Fact, Timestamp

Progress: TypeAlias = Annotated[float, Meta(ge=0, le=1)]


class ErrorObject(Fact, frozen=True, kw_only=True):
    """A JSON-RPC error object; `data.error` is the class."""

    #: the class, as a number
    code: int
    #: one sentence for a person
    message: str
    #: `error`, the class by name, and its facts
    data: dict[str, Any] = {}


class Pending(Fact, frozen=True, kw_only=True, tag="pending"):
    """Queued or under way; 1.0 is said only at success."""

    #: 0 to 1; only success says 1
    progress: Progress = 0.0


class Completed(Fact, frozen=True, kw_only=True, tag="completed"):
    """Ended well."""

    #: seconds that it took
    duration: float
    #: what it answers
    result: Any = None


class Failed(Fact, frozen=True, kw_only=True, tag="failed"):
    """Ended with an error."""

    #: seconds that it took
    duration: float
    #: why
    error: ErrorObject


TaskState: TypeAlias = Pending | Completed | Failed


class Subtask(Fact, frozen=True, kw_only=True):
    """A micro-op, in order; `object` is the VM or device it is about."""

    #: the micro-op
    name: str
    #: the VM or device that it is about
    object: str
    #: pending, completed or failed
    state: str
    #: seconds; null until it has ended
    duration: float | None = None


class Task(Fact, frozen=True, kw_only=True):
    """What TASK.stat answers."""

    #: unique for ever
    id: str
    #: the VM whose queue it is on
    vm: str
    #: the call
    operation: str
    #: the client's tag
    debug_info: str
    #: when it was accepted
    created: Timestamp
    #: the VM or device that it is about
    object: str
    #: where it is
    state: TaskState
    #: its micro-ops, in order
    subtasks: list[Subtask] = []
    #: cancelling has an effect now
    cancellable: bool = True
    #: how often it could have been cancelled
    cancel_points_seen: int = 0
    #: a restart of the daemon cut it, and recovery finished it
    interrupted: bool = False

    @property
    def ended(self) -> bool:
        """Whether the operation is over."""
        return not isinstance(self.state, Pending)
