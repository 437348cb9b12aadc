"""What to do next about an error, as a command to type. Pure.

The daemon's sentence says what is wrong; this says it in commands of `xenops`. An error whose
sentence is all there is to say has none.
"""

from collections.abc import Callable
from typing import Any

from idl import errors

_LISTS = {
    "VM": "xenops list",
    "VBD": "xenops disk list",
    "VIF": "xenops nic list",
    "PCI": "xenops pci list",
    "task": "xenops task list --all",
    "call, type or error named": "xenops describe",
}

#: By what the VM is and what it has to be, the command that gets it there.
_MOVES = {
    ("running", "halted"): "xenops shutdown {id} --timeout 60",
    ("paused", "halted"): "xenops shutdown {id}",
    ("suspended", "halted"): "xenops resume {id}, or xenops shutdown {id} to drop its image",
    ("halted", "running"): "xenops start {id}",
    ("paused", "running"): "xenops unpause {id}",
    ("suspended", "running"): "xenops resume {id}",
    ("halted", "paused"): "xenops start {id} --paused",
    ("running", "paused"): "xenops pause {id}",
    ("suspended", "paused"): "xenops resume {id} --paused",
    ("running", "suspended"): "xenops suspend {id}",
}


def next_step(error: Exception) -> str | None:
    """The command that helps on, or None."""
    advise = _ADVICE.get(type(error))
    return None if advise is None else advise(error)


def _move(error: errors.BadPowerState) -> str:
    moves = ((error.actual, expected) for expected in error.expected)
    found = next((_MOVES[move] for move in moves if move in _MOVES), "xenops show {id}")
    return found.format(id=error.id)


def _exists(error: errors.AlreadyExists) -> str:
    if error.kind == "VM":
        return f"xenops show {error.id}, or add it with --replace"
    return _LISTS.get(error.kind, "xenops list")


def _about(template: str) -> Callable[[Any], str]:
    """Advice that names facts of the error."""
    return lambda error: template.format(**error.facts())


_ADVICE: dict[type[Exception], Callable[[Any], str]] = {
    errors.ParseError: _about("xenops diag bundle, and report it"),
    errors.InvalidRequest: _about("xenops diag bundle, and report it"),
    errors.MethodNotFound: _about("xenops describe"),
    errors.InvalidParams: _about("xenops describe METHOD tells what a call takes"),
    errors.InternalError: _about("xenops diag bundle, and report it with incident {incident}"),
    errors.AlreadyExists: _exists,
    errors.DoesNotExist: lambda error: _LISTS.get(error.kind, "xenops list"),
    errors.BadPowerState: _move,
    errors.Unimplemented: _about("xenops call HOST.query tells the backend and its features"),
    errors.DomainNotBuilt: _about("xenops destroy {id}, then xenops start {id}"),
    errors.InvalidVcpus: _about("xenops set VM vcpu_max={requested}, which counts from its start"),
    errors.InvalidParameter: _about("xenops describe METHOD tells what a call takes"),
    errors.DeviceIsConnected: _about("xenops disk unplug {id} (or nic, or pci)"),
    errors.DeviceNotConnected: _about("xenops disk plug {id} (or nic, or pci)"),
    errors.DeviceDetachRejected: _about("let its guest release it, or unplug {id} --force"),
    errors.MediaNotEjectable: _about("xenops disk unplug {id}"),
    errors.FailedToShutdown: _about("xenops shutdown {id}, which does not ask the guest"),
    errors.FailedToAcknowledge: _about("xenops shutdown {id}, which does not ask the guest"),
    errors.FailedToSuspend: _about("xenops explain {id}"),
    errors.NotEnoughMemory: _about("xenops list -c VM,STATE,MEMORY, and stop one"),
    errors.Cancelled: _about("xenops task show {task} tells how far it had come"),
    errors.Interrupted: _about("xenops task show {task}"),
    errors.DeadlineExceeded: _about("xenops queue show, and xenops explain VM"),
    errors.StorageError: _about("mend the storage, then repeat the command"),
    errors.NetworkError: _about("mend the network, then repeat the command"),
    errors.HypervisorError: _about("xenops attention, and xenops explain VM"),
    errors.FailedToStartEmulator: _about("xenops explain {id}"),
    errors.HookFailed: _about("mend the hook {hook}, then repeat the command"),
    errors.PermissionDenied: _about("repeat it as root, or as a member of the socket's group"),
    errors.TooManyRequests: _about("xenops queue show"),
    errors.TaskIsRunning: _about("xenops task wait {task}, or xenops task cancel {task}"),
    errors.ImageInvalid: _about("xenops shutdown VM drops the image; then xenops start VM"),
    errors.MigrationFailed: _about("xenops explain VM"),
    errors.OwnedByAnother: _about("xenops --instance {instance} show {id}"),
    errors.MetadataCorrupt: _about("xenops attention"),
    errors.UnknownError: lambda _error: "xenops diag bundle, and report it",
}
