"""The operations of the sweep of containers: how each is prepared, called, and how it may end."""

from collections.abc import Callable
from typing import Any

from crash.cases import Operation, Word, plugged, power, presence
from crash.containers.lab import (
    Bed,
    add_spares,
    recorded,
    remembering,
    remembers,
    running,
)

from idl import calls
from idl.calls import Call
from idl.vm import Action

#: What the standard VM has.
STANDARD = frozenset({"vbd:root", "vbd:data", "vif:net"})


def paused(bed: Bed) -> None:
    running(bed)
    bed.run(bed.client.vm.pause(bed.vm))


def restarting(bed: Bed) -> None:
    """Running, and started again when its guest halts."""
    recorded(bed)
    bed.client.vm.set(bed.vm, {"on_shutdown": [Action.START.value]})
    bed.run(bed.client.vm.start(bed.vm))
    bed.up()


def with_spares(bed: Bed) -> None:
    """Running, with a VBD and a VIF in its record that are not plugged."""
    running(bed)
    add_spares(bed)


def with_disk(bed: Bed) -> None:
    """Running, with a directory of the host as a further disk."""
    with_spares(bed)
    bed.run(bed.client.vbd.plug(bed.device("spare")))


def halted_again(bed: Bed) -> None:
    """Halted after a run, with a layer that persists."""
    running(bed)
    bed.run(bed.client.vm.shutdown(bed.vm))


def suspended(bed: Bed) -> None:
    remembering(bed)
    bed.run(bed.client.vm.suspend(bed.vm))


def memory(seen: Any, bed: Any) -> str:
    """As `power`, of one that was not started anew."""
    lost = seen.power in ("running", "paused") and not remembers(seen, bed.vm)
    return f"{seen.power}, its memory gone" if lost else str(seen.power)


def _row(
    name: str,
    prepare: Callable[[Any], None],
    call: Callable[[Any], Call[Any] | tuple[str, str]],
    done: str,
    *also: str,
    word: Word = power,
    plugged: frozenset[str] | None = STANDARD,
) -> Operation:
    return Operation(name, prepare, call, frozenset({done}), frozenset({done, *also}), word, plugged)


def _guest(act: str) -> Callable[[Bed], tuple[str, str]]:
    return lambda b: (act, b.vm)


OPERATIONS: tuple[Operation, ...] = (
    _row("VM.start", recorded, lambda b: calls.VmStart(id=b.vm, task=b.vm), "running", "halted"),
    _row("VM.shutdown hard", running, lambda b: calls.VmShutdown(id=b.vm, task=b.vm), "halted"),
    _row("VM.shutdown hard of a paused VM", paused,
         lambda b: calls.VmShutdown(id=b.vm, task=b.vm), "halted"),
    _row("VM.shutdown clean", running,
         lambda b: calls.VmShutdown(id=b.vm, timeout=20.0, task=b.vm), "halted"),
    _row("VM.reboot hard", running, lambda b: calls.VmReboot(id=b.vm, task=b.vm), "running"),
    _row("VM.reboot clean", running,
         lambda b: calls.VmReboot(id=b.vm, timeout=20.0, task=b.vm), "running"),
    _row("VM.pause", running, lambda b: calls.VmPause(id=b.vm, task=b.vm), "paused", "running"),
    _row("VM.unpause", paused, lambda b: calls.VmUnpause(id=b.vm, task=b.vm),
         "running", "paused"),
    _row("VBD.plug", with_spares, lambda b: calls.VbdPlug(id=b.device("spare"), task=b.vm),
         "running, plugged", "running, unplugged", word=plugged("vbd", "spare"), plugged=None),
    _row("VBD.unplug", with_disk, lambda b: calls.VbdUnplug(id=b.device("spare"), task=b.vm),
         "running, unplugged", "running, plugged", word=plugged("vbd", "spare"), plugged=None),
    _row("VBD.unplug of an image", running,
         lambda b: calls.VbdUnplug(id=b.device("data"), task=b.vm),
         "running, unplugged", "running, plugged", word=plugged("vbd", "data"), plugged=None),
    _row("VIF.plug", with_spares, lambda b: calls.VifPlug(id=b.device("spare"), task=b.vm),
         "running, plugged", "running, unplugged", word=plugged("vif", "spare"), plugged=None),
    _row("VIF.unplug", running, lambda b: calls.VifUnplug(id=b.device("net"), task=b.vm),
         "running, unplugged", "running, plugged", word=plugged("vif", "net"), plugged=None),
    _row("VM.remove", halted_again, lambda b: calls.VmRemove(id=b.vm), "absent", "present",
         word=presence),
    _row("guest reboots", running, _guest("reboot"), "running"),
    _row("guest halts", running, _guest("poweroff"), "halted"),
    _row("guest halts, on_shutdown start", restarting, _guest("poweroff"), "running"),
)  # fmt: skip

#: What only a host can do where CRIU works.
SUSPENSION: tuple[Operation, ...] = (
    _row("VM.suspend", remembering, lambda b: calls.VmSuspend(id=b.vm, task=b.vm),
         "suspended", "running", word=memory),
    _row("VM.resume", suspended, lambda b: calls.VmResume(id=b.vm, task=b.vm),
         "running", "suspended", word=memory),
    _row("VM.resume paused", suspended,
         lambda b: calls.VmResume(id=b.vm, paused=True, task=b.vm), "paused", "suspended",
         word=memory),
    _row("VM.shutdown of a suspended VM", suspended,
         lambda b: calls.VmShutdown(id=b.vm, task=b.vm), "halted", word=memory),
)  # fmt: skip
