"""DEBUG.trigger: guests that act by themselves or misbehave, faults, a host that reboots."""

import math
import os
import signal
from collections.abc import Callable, Sequence

from backends.simulator.faults import ANY
from backends.simulator.guest import ACTS, KNOBS, turned
from backends.simulator.machine import Edit, Machine
from backends.simulator.world import no_domain
from idl.errors import InvalidParameter, Unimplemented

#: The micro-ops that reach a backend, by the names that TASK.stat shows.
MICRO_OPS = frozenset(
    {
        "vm_create",
        "vm_build",
        "vm_create_device_model",
        "vm_destroy_device_model",
        "vm_destroy",
        "vm_pause",
        "vm_unpause",
        "vm_request_shutdown",
        "vm_await_shutdown",
        "vm_save",
        "vm_resume_saved",
        "vm_check_image",
        "vm_drop_image",
        "vm_restore",
        "vm_coredump",
        "vm_set_vcpus",
        "vm_set_memory",
        "vm_set_xsdata",
        "vm_adopt",
        "vm_remove_layers",
        "vm_pack_layers",
        "vm_take_layers",
        "vbd_plug",
        "vbd_unplug",
        "vbd_insert",
        "vbd_eject",
        "vif_plug",
        "vif_unplug",
        "vif_configure",
        "pci_plug",
        "pci_unplug",
    }
)

#: Lets a hang ignore cancel, interrupt and deadline.
DEAF = "deaf"


class Triggers:
    """The commands, by name."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._commands: dict[str, Callable[[Sequence[str]], None]] = {
            "set-latency": self._set_latency,
            "fail": self._fail,
            "hang": self._hang,
            "undeaf": self._undeaf,
            "lose": self._lose,
            "reboot-host": self._reboot_host,
        }

    def pull(self, cmd: str, args: Sequence[str]) -> None:
        """Raises Unimplemented, InvalidParameter; DoesNotExist, BadPowerState for the VM."""
        if cmd in ACTS:
            (vm,) = _named(args, "vm")
            self._to_guest(vm, lambda record: ACTS[cmd](record, vm, self._machine.now()))
        elif cmd in KNOBS:
            vm, value = _named(args, "vm", "value")
            self._to_guest(vm, lambda record: turned(record, KNOBS[cmd], value))
        elif cmd in self._commands:
            self._commands[cmd](args)
        else:
            raise Unimplemented(what=cmd, backend="simulator")

    def _to_guest(self, vm: str, edit: Edit) -> None:
        if self._machine.change_any(vm, edit) is None:
            raise no_domain(vm)
        self._machine.tell(vm)

    def _set_latency(self, args: Sequence[str]) -> None:
        name, seconds = _named(args, "micro_op", "seconds")
        self._machine.faults.slow(_micro_op(name), _seconds(seconds))

    def _fail(self, args: Sequence[str]) -> None:
        name, count = _named(args, "micro_op", "count")
        self._machine.faults.fail(_micro_op(name), _count(count))

    def _hang(self, args: Sequence[str]) -> None:
        deaf = len(args) == 3
        if deaf and args[2] != DEAF:
            raise InvalidParameter(name="deaf", reason=f"{args[2]!r} is not {DEAF!r}")
        name, count = _named(args[:2], "micro_op", "count")
        self._machine.faults.hang(_micro_op(name), _count(count), deaf=deaf)

    def _undeaf(self, args: Sequence[str]) -> None:
        _named(args)
        self._machine.faults.undeaf()

    def _lose(self, args: Sequence[str]) -> None:
        (vm,) = _named(args, "vm")
        if not self._machine.drop(vm):
            raise no_domain(vm)

    def _reboot_host(self, args: Sequence[str]) -> None:
        _named(args)
        self._machine.world.reboot()
        # As the host's end would: no thread may do anything more.
        os.kill(os.getpid(), signal.SIGKILL)


def _named(args: Sequence[str], *names: str) -> Sequence[str]:
    if len(args) < len(names):
        raise InvalidParameter(name=names[len(args)], reason="it is missing")
    if len(args) > len(names):
        wanted = ", ".join(names) or "none"
        raise InvalidParameter(name="args", reason=f"too many; the arguments are: {wanted}")
    return args


def _micro_op(name: str) -> str:
    if name != ANY and name not in MICRO_OPS:
        raise InvalidParameter(name="micro_op", reason=f"{name!r} is none that reaches a backend")
    return name


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InvalidParameter(name="seconds", reason=f"{text!r} is not a number from 0 up")
    return seconds


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise InvalidParameter(name="count", reason=f"{text!r} is not a whole number from 0 up")
    return int(text)
