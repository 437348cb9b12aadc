"""What to do next about an error, as a command to type. Pure.

The daemon's sentence says what is wrong; this says it in commands of `xenops`. An error whose
sentence is all there is to say has none.
"""

from collections.abc import Callable
from typing import Any

from idl import errors
from xenopsd.cli.failure import About, ConsoleUnreachable, Detached, NoConsole

_LISTS = {
    "VM": "xenops list",
    "VBD": "xenops disk list",
    "VIF": "xenops nic list",
    "PCI": "xenops pci list",
    "task": "xenops task list --all",
    "domain": "xenops foreign",
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
    ("halted", "suspended"): "xenops start {id}",
}

#: What these are to lead to: a VM that is there already needs nothing.
_GOALS = {
    "start": "running",
    "resume": "running",
    "unpause": "running",
    "pause": "paused",
    "suspend": "suspended",
}

#: What these have no parameters for is wrong with the VM.
_STARTS = ("start", "reboot", "resume", "unpause")


def next_step(error: BaseException, about: About | None = None) -> str | None:
    """The command that helps on, or None. Where nothing tells which VM, it says VM."""
    advise = _ADVICE.get(type(error))
    return None if advise is None else advise(error, about or About())


def _move(error: errors.BadPowerState, about: About) -> str:
    if _GOALS.get(about.command or "") == error.actual:
        return f"xenops show {error.id}; there is nothing to do"
    moves = ((error.actual, expected) for expected in error.expected)
    found = next((_MOVES[move] for move in moves if move in _MOVES), "xenops show {id}")
    return found.format(id=error.id)


def _exists(error: errors.AlreadyExists, about: About) -> str:
    if error.kind == "VM":
        command = about.command if about.command in ("add", "import") else "add"
        return f"xenops show {error.id}, or {command} it with --replace"
    return _listed(error, about)


def _listed(error: errors.AlreadyExists | errors.DoesNotExist, _about: About) -> str:
    vm, slash, _ = error.id.partition("/")
    return _LISTS.get(error.kind, "xenops list") + (f" {vm}" if slash else "")


def _usage(error: errors.InvalidParams | errors.InvalidParameter, about: About) -> str:
    if isinstance(error, errors.InvalidParams) and about.vm and f"'{about.vm}'" in error.reason:
        return "xenops list -c vm,name tells the ids"
    if about.command is None:
        return "xenops describe tells what each call takes"
    if about.command == "call":
        return f"xenops describe {about.method} tells what it takes"
    if about.command in _STARTS and about.vm and isinstance(error, errors.InvalidParameter):
        return f"xenops show {about.vm}; mend its record, then repeat the command"
    return f"xenops {about.command} --help"


def _unimplemented(error: errors.Unimplemented, about: About) -> str:
    tells = "xenops call HOST.query tells the backend and its features"
    if about.command == "add" and error.what.startswith("guest type"):
        return f"repeat it with another --guest; {tells}"
    return tells


#: What is to bring about that of which these errors tell.
_DONE = {
    errors.DeviceIsConnected: ("disk plug", "nic plug", "pci plug"),
    errors.DeviceNotConnected: ("disk unplug", "nic unplug", "pci unplug"),
}


def _device(words: str) -> Callable[[Any, About], str]:
    """Advice to do so with a device; where nothing tells its kind, its VM shows it."""

    def advise(error: Any, about: About) -> str:
        if about.command in _DONE.get(type(error), ()):
            return f"xenops {about.noun} list {error.id.partition('/')[0]}; there is nothing to do"
        if about.noun is None:
            return f"xenops show {error.id.partition('/')[0]}"
        return f"xenops {about.noun} {words.format(id=error.id)}"

    return advise


def _about(template: str) -> Callable[[Any, About], str]:
    """Advice that names facts of the error, and the VM."""
    return lambda error, about: template.format(**{"vm": about.vm or "VM"} | error.facts())


_ADVICE: dict[type[BaseException], Callable[[Any, About], str]] = {
    Detached: lambda error, _about: f"xenops task wait {error.task} watches it again",
    NoConsole: lambda _error, _about: "xenops call HOST.query tells the backend and its features",
    ConsoleUnreachable: lambda error, _about: f"xenops show {error.vm} tells where it is now",
    errors.ParseError: _about("xenops diag bundle, and report it"),
    errors.InvalidRequest: _about("xenops diag bundle, and report it"),
    errors.MethodNotFound: _about("xenops describe"),
    errors.InvalidParams: _usage,
    errors.InternalError: _about("xenops diag bundle, and report it with incident {incident}"),
    errors.AlreadyExists: _exists,
    errors.DoesNotExist: _listed,
    errors.BadPowerState: _move,
    errors.Unimplemented: _unimplemented,
    errors.DomainNotBuilt: _about("xenops destroy {id}, then xenops start {id}"),
    errors.InvalidVcpus: _about(
        "xenops set {vm} vcpu_max={requested}, which counts from its next start"
    ),
    errors.InvalidParameter: _usage,
    errors.DeviceIsConnected: _device("unplug {id}"),
    errors.DeviceNotConnected: _device("plug {id}"),
    errors.DeviceDetachRejected: _device(
        "unplug {id} --force, where its guest does not release it"
    ),
    errors.MediaNotEjectable: _about("xenops disk unplug {id}"),
    errors.FailedToShutdown: _about("xenops shutdown {id}, which does not ask the guest"),
    errors.FailedToAcknowledge: _about("xenops shutdown {id}, which does not ask the guest"),
    errors.FailedToSuspend: _about("xenops explain {id}"),
    errors.NotEnoughMemory: _about("xenops list -c vm,state,memory tells which to stop"),
    errors.Cancelled: _about("xenops task show {task} tells how far it had come"),
    errors.Interrupted: _about("xenops task show {task}"),
    errors.DeadlineExceeded: _about("xenops queue show, and xenops explain {vm}"),
    errors.StorageError: _about("mend the storage, then repeat the command"),
    errors.NetworkError: _about("mend the network, then repeat the command"),
    errors.HypervisorError: _about("xenops attention, and xenops explain {vm}"),
    errors.FailedToStartEmulator: _about("xenops explain {id}"),
    errors.HookFailed: _about("mend the hook {hook}, then repeat the command"),
    errors.PermissionDenied: _about("repeat it as root, or as a member of the socket's group"),
    errors.TooManyRequests: _about("xenops queue show"),
    errors.TaskIsRunning: _about("xenops task wait {task}, or xenops task cancel {task}"),
    errors.ImageInvalid: _about("xenops shutdown {vm} drops the image; then xenops start {vm}"),
    errors.MigrationFailed: _about("xenops explain {vm}"),
    errors.OwnedByAnother: _about("xenops --instance {instance} show {id}"),
    errors.MetadataCorrupt: _about("xenops attention"),
    errors.UnknownError: lambda _error, _about: "xenops diag bundle, and report it",
}
