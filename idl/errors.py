"""The one tree of errors: a class is a wire code, its fields are the facts.

`XenopsError`
  `ProtocolError`   the JSON-RPC codes: the request itself is wrong, or the daemon is
  everything else   1001 upwards: what was asked for cannot be done, and why

Each renders one sentence for a person that names the thing and says what to do. The
constructors take facts, never sentences; `error_object` and `from_object` go to the wire
and back.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

from idl.task import ErrorObject


class XenopsError(Exception):
    """Root of what a client can be told."""

    code: ClassVar[int]

    def __str__(self) -> str:
        return self.sentence()

    def sentence(self) -> str:
        """One sentence for a person."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """What `data` holds beside the class."""
        return {
            f.name: value
            for f in dataclasses.fields(self)  # type: ignore[arg-type]  # every leaf is one
            if (value := getattr(self, f.name)) is not None or f.default is dataclasses.MISSING
        }

    def error_object(self) -> ErrorObject:
        """The JSON-RPC error object."""
        return ErrorObject(
            code=self.code,
            message=self.sentence(),
            data={"error": type(self).__name__, **self.facts()},
        )


class ProtocolError(XenopsError):
    """The JSON-RPC codes."""


@dataclass(eq=False)
class ParseError(ProtocolError):
    """The message is no JSON."""

    code = -32700
    reason: str

    def sentence(self) -> str:
        return f"The message is not valid JSON: {self.reason}."


@dataclass(eq=False)
class InvalidRequest(ProtocolError):
    """JSON, but no JSON-RPC 2.0 request, or over a limit of the framing."""

    code = -32600
    reason: str

    def sentence(self) -> str:
        return f"Not a valid JSON-RPC 2.0 request: {self.reason}."


@dataclass(eq=False)
class MethodNotFound(ProtocolError):
    """No such call."""

    code = -32601
    method: str

    def sentence(self) -> str:
        return f"There is no call {self.method}; rpc.discover lists them."


@dataclass(eq=False)
class InvalidParams(ProtocolError):
    """A parameter is missing, unknown, or of the wrong type; `reason` names its path."""

    code = -32602
    reason: str

    def sentence(self) -> str:
        return f"Invalid params: {self.reason}"


@dataclass(eq=False)
class InternalError(ProtocolError):
    """A fault of the daemon; its log has the rest under the same incident."""

    code = -32603
    incident: str

    def sentence(self) -> str:
        return f"The daemon failed on this; its log says how under incident {self.incident}."


@dataclass(eq=False)
class AlreadyExists(XenopsError):
    code = 1001
    kind: str
    id: str

    def sentence(self) -> str:
        return f"{self.kind} {self.id} exists already; remove it first or choose another id."


@dataclass(eq=False)
class DoesNotExist(XenopsError):
    code = 1002
    kind: str
    id: str

    def sentence(self) -> str:
        return f"There is no {self.kind} {self.id}; list what exists and check the id."


@dataclass(eq=False)
class BadPowerState(XenopsError):
    code = 1003
    id: str
    actual: str
    expected: list[str]

    def sentence(self) -> str:
        return f"VM {self.id} is {self.actual}; this needs it {' or '.join(self.expected)}."


@dataclass(eq=False)
class Unimplemented(XenopsError):
    code = 1004
    what: str
    backend: str

    def sentence(self) -> str:
        return f"The backend {self.backend} cannot do this: {self.what}."


@dataclass(eq=False)
class DomainNotBuilt(XenopsError):
    code = 1005
    id: str

    def sentence(self) -> str:
        return f"VM {self.id} has a domain that is not built yet; call VM.build first."


@dataclass(eq=False)
class InvalidVcpus(XenopsError):
    code = 1006
    requested: int
    maximum: int

    def sentence(self) -> str:
        return f"{self.requested} vCPUs were asked for; choose from 1 to {self.maximum}."


@dataclass(eq=False)
class InvalidParameter(XenopsError):
    code = 1007
    name: str
    reason: str

    def sentence(self) -> str:
        return f"Parameter {self.name}: {self.reason}."


@dataclass(eq=False)
class DeviceIsConnected(XenopsError):
    code = 1008
    id: str

    def sentence(self) -> str:
        return f"Device {self.id} is plugged; unplug it first."


@dataclass(eq=False)
class DeviceNotConnected(XenopsError):
    code = 1009
    id: str

    def sentence(self) -> str:
        return f"Device {self.id} is not plugged; plug it first."


@dataclass(eq=False)
class DeviceDetachRejected(XenopsError):
    code = 1010
    id: str
    reason: str

    def sentence(self) -> str:
        return f"The guest does not let go of {self.id}: {self.reason}."


@dataclass(eq=False)
class MediaNotEjectable(XenopsError):
    code = 1011
    id: str

    def sentence(self) -> str:
        return f"{self.id} is a disk: its medium cannot be changed; unplug it instead."


@dataclass(eq=False)
class FailedToShutdown(XenopsError):
    code = 1012
    id: str
    timeout: float

    def sentence(self) -> str:
        return (
            f"VM {self.id} did not stop within {self.timeout:g} s; wait longer, "
            "or shut it down hard (without a timeout)."
        )


@dataclass(eq=False)
class FailedToAcknowledge(XenopsError):
    code = 1013
    id: str
    request: str
    timeout: float

    def sentence(self) -> str:
        return (
            f"The guest of VM {self.id} did not acknowledge {self.request} within "
            f"{self.timeout:g} s; shut it down hard if it hangs."
        )


@dataclass(eq=False)
class FailedToSuspend(XenopsError):
    code = 1014
    id: str
    timeout: float

    def sentence(self) -> str:
        return f"VM {self.id} did not suspend within {self.timeout:g} s; it goes on running."


@dataclass(eq=False)
class NotEnoughMemory(XenopsError):
    code = 1015
    needed: int
    free: int

    def sentence(self) -> str:
        return (
            f"{self.needed} bytes of memory are needed and {self.free} can be had; "
            "stop a VM or lower its memory."
        )


@dataclass(eq=False)
class Cancelled(XenopsError):
    code = 1016
    task: str

    def sentence(self) -> str:
        return f"Task {self.task} was cancelled."


@dataclass(eq=False)
class Interrupted(XenopsError):
    code = 1017
    task: str
    begun: bool
    recovered_to: str | None = None

    def sentence(self) -> str:
        if not self.begun:
            return f"The daemon stopped before task {self.task} had begun; call again."
        return (
            f"The daemon stopped in the middle of task {self.task}; "
            f"the VM was brought to {self.recovered_to}; look at it and call again."
        )


@dataclass(eq=False)
class DeadlineExceeded(XenopsError):
    code = 1018
    what: str
    seconds: float

    def sentence(self) -> str:
        return f"{self.what} took longer than {self.seconds:g} s; HOST.get_diagnostics says why."


@dataclass(eq=False)
class StorageError(XenopsError):
    code = 1019
    plugin: str
    reason: str

    def sentence(self) -> str:
        return f"Storage ({self.plugin}) failed: {self.reason}."


@dataclass(eq=False)
class NetworkError(XenopsError):
    code = 1020
    what: str
    reason: str

    def sentence(self) -> str:
        return f"Network ({self.what}) failed: {self.reason}."


@dataclass(eq=False)
class HypervisorError(XenopsError):
    code = 1021
    call: str
    reason: str

    def sentence(self) -> str:
        return f"The hypervisor failed {self.call}: {self.reason}."


@dataclass(eq=False)
class FailedToStartEmulator(XenopsError):
    code = 1022
    id: str
    reason: str

    def sentence(self) -> str:
        return f"The device model of VM {self.id} did not start: {self.reason}."


@dataclass(eq=False)
class HookFailed(XenopsError):
    code = 1023
    hook: str
    status: int
    output: str

    def sentence(self) -> str:
        return f"Hook {self.hook} ended with status {self.status}: {self.output or 'no output'}."


@dataclass(eq=False)
class PermissionDenied(XenopsError):
    code = 1024
    method: str

    def sentence(self) -> str:
        return (
            f"You may not call {self.method} here; use the read-write socket, "
            "or ask the administrator for its group."
        )


@dataclass(eq=False)
class TooManyRequests(XenopsError):
    code = 1025
    limit: int
    queued: int

    def sentence(self) -> str:
        return f"{self.queued} requests are waiting and {self.limit} may; call again later."


@dataclass(eq=False)
class TaskIsRunning(XenopsError):
    code = 1026
    task: str

    def sentence(self) -> str:
        return f"Task {self.task} is still running; wait for it or cancel it first."


@dataclass(eq=False)
class ImageInvalid(XenopsError):
    code = 1027
    path: str
    reason: str

    def sentence(self) -> str:
        return f"The image {self.path} cannot be used: {self.reason}."


@dataclass(eq=False)
class MigrationFailed(XenopsError):
    code = 1028
    phase: str
    reason: str

    def sentence(self) -> str:
        return f"The migration failed in phase {self.phase}: {self.reason}."


@dataclass(eq=False)
class OwnedByAnother(XenopsError):
    code = 1029
    id: str
    instance: str

    def sentence(self) -> str:
        return f"VM {self.id} belongs to the instance {self.instance} of this host; ask that one."


@dataclass(eq=False)
class MetadataCorrupt(XenopsError):
    code = 1030
    path: str

    def sentence(self) -> str:
        return (
            f"The record {self.path} cannot be read; repair it with VM.add and replace, "
            "or drop it with VM.forget."
        )


@dataclass(eq=False)
class UnknownError(XenopsError):
    """An error of a newer daemon, as a client meets it."""

    code = 0
    object: ErrorObject = field(default_factory=lambda: ErrorObject(code=0, message=""))

    def sentence(self) -> str:
        return self.object.message

    def error_object(self) -> ErrorObject:
        return self.object


def _leaves(root: type[XenopsError]) -> list[type[XenopsError]]:
    below = [leaf for sub in root.__subclasses__() for leaf in _leaves(sub)]
    return below or [root]


#: Every class that has a code on the wire, by its name.
BY_NAME: dict[str, type[XenopsError]] = {
    cls.__name__: cls for cls in _leaves(XenopsError) if cls is not UnknownError
}


def from_object(error: ErrorObject) -> XenopsError:
    """The exception that an error object stands for; `UnknownError` where it is not known."""
    cls = BY_NAME.get(str(error.data.get("error")))
    facts = {name: value for name, value in error.data.items() if name != "error"}
    if cls is not None:
        known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        try:
            found: XenopsError = cls(**{n: v for n, v in facts.items() if n in known})
            # Who catches it will want its text: facts that give none are not this error's.
            found.sentence()
        except (TypeError, ValueError, AttributeError, LookupError):
            return UnknownError(object=error)
        # What a newer daemon, or the executor, added to the facts stays readable.
        for name, value in facts.items():
            if not hasattr(found, name):
                found.__dict__[name] = value
        return found
    return UnknownError(object=error)
