"""TASK: an operation as its caller follows it."""

from typing import Annotated, Any, TypeAlias

from msgspec import Meta

from idl.wire import Fact, Timestamp

Progress: TypeAlias = Annotated[float, Meta(ge=0, le=1)]


class ErrorObject(Fact, frozen=True, kw_only=True):
    """A JSON-RPC error object; `data.error` is the class."""

    code: int
    message: str
    data: dict[str, Any] = {}


class Pending(Fact, frozen=True, kw_only=True, tag="pending"):
    """Queued or under way; 1.0 is said only at success."""

    progress: Progress = 0.0


class Completed(Fact, frozen=True, kw_only=True, tag="completed"):
    """Ended well."""

    duration: float
    result: Any = None


class Failed(Fact, frozen=True, kw_only=True, tag="failed"):
    """Ended with an error."""

    duration: float
    error: ErrorObject


TaskState: TypeAlias = Pending | Completed | Failed


class Subtask(Fact, frozen=True, kw_only=True):
    """A micro-op, in order; `object` is the VM or device it is about."""

    name: str
    object: str
    state: str
    duration: float | None = None


class Task(Fact, frozen=True, kw_only=True):
    """What TASK.stat answers."""

    id: str
    vm: str
    operation: str
    debug_info: str
    created: Timestamp
    object: str
    state: TaskState
    subtasks: list[Subtask] = []
    cancellable: bool = True
    cancel_points_seen: int = 0
    interrupted: bool = False

    @property
    def ended(self) -> bool:
        """Whether the operation is over."""
        return not isinstance(self.state, Pending)
