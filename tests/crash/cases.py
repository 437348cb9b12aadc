"""The operations of the sweep: how each is prepared, called, and how it may end.

The word that an operation ends in is found from outside the daemon (`rigs.outside`). `ends` are
the words of an operation that was cut, as interface.md has them ("After a crash of the daemon");
`done` those of one that completed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rigs.daemon import eventually
from rigs.outside import Seen

from idl import calls
from idl.calls import Call
from idl.client import Client
from idl.metadata import Metadata
from idl.pci import Pci
from idl.vbd import Local, Vbd
from idl.vif import Bridge, Vif
from idl.vm import Action, Vm

MIB = 2**20
#: What the standard VM has, as the world's ledger names it.
STANDARD = frozenset({"vbd:disk", "vbd:base", "vif:net", "pci:card"})

#: Steps of a recovery at which it is killed again.
STEPS = (
    "recovery:load",
    "recovery:stock",
    "recovery:observe",
    "recovery:reconcile",
    "recovery:repair",
    "journal:append",
    "journal:end",
    "recovery:ended",
)


@dataclass(frozen=True)
class Bench:
    """A running daemon and the VM that an operation is about."""

    client: Client
    vm: str

    def device(self, name: str) -> str:
        return f"{self.vm}/{name}"

    def run(self, task: str) -> None:
        """Wait for a task of the preparation."""
        self.client.run(task, 30.0)

    def quiet(self) -> None:
        """Wait until nothing is queued or running."""
        eventually(lambda: not self.client.host.get_diagnostics().queues, why="queues are empty")


Word = Callable[[Seen, Bench], str]


@dataclass(frozen=True)
class Operation:
    """One row of the sweep. `call` makes the call; a task's id is the VM's name."""

    name: str
    prepare: Callable[[Bench], None]
    call: Callable[[Bench], Call[Any] | tuple[str, str]]
    done: frozenset[str]
    ends: frozenset[str]
    word: Word
    #: What is plugged in it afterwards where it runs; None: the operation's word tells.
    plugged: frozenset[str] | None = STANDARD


# Preparations


def recorded(bench: Bench) -> None:
    """The standard VM, halted: a disk with a layer of its own, a read-only one, VIF and PCI."""
    bench.client.vm.add(
        Vm(
            id=bench.vm,
            memory_static_max=256 * MIB,
            memory_dynamic_min=64 * MIB,
            memory_dynamic_max=128 * MIB,
            vcpu_max=4,
            vcpus=2,
            xsdata={"vm-data/a": "old"},
        )
    )
    layered = Local(path="/images/base.qcow2", format="qcow2", overlay=True)
    bench.client.vbd.add(Vbd(id=bench.device("disk"), backend=layered, persistent=False))
    read_only = Local(path="/images/shared.raw")
    bench.client.vbd.add(Vbd(id=bench.device("base"), backend=read_only, mode="ro"))
    bench.client.vif.add(Vif(id=bench.device("net"), backend=Bridge(name="br0")))
    bench.client.pci.add(Pci(id=bench.device("card"), address="0000:04:00.0"))


def kept_layer(bench: Bench) -> None:
    """Halted after a run, with a layer that persists."""
    recorded(bench)
    base = Local(path="/images/base.qcow2", format="qcow2", overlay=True)
    bench.client.vbd.add(Vbd(id=bench.device("kept"), backend=base))
    bench.run(bench.client.vm.start(bench.vm))
    bench.run(bench.client.vm.shutdown(bench.vm))


def running(bench: Bench) -> None:
    recorded(bench)
    bench.run(bench.client.vm.start(bench.vm))


def paused(bench: Bench) -> None:
    running(bench)
    bench.run(bench.client.vm.pause(bench.vm))


def suspended(bench: Bench) -> None:
    running(bench)
    bench.run(bench.client.vm.suspend(bench.vm))


def restarting(bench: Bench) -> None:
    """Running, and started again when its guest halts or crashes."""
    recorded(bench)
    again = [Action.START.value]
    bench.client.vm.set(bench.vm, {"on_shutdown": again, "on_crash": again})
    bench.run(bench.client.vm.start(bench.vm))


def forgotten(bench: Bench) -> None:
    """Running, forgotten, and recorded again: its domain is not yet known to be its own."""
    running(bench)
    kept = bench.client.vm.export_metadata(bench.vm)
    bench.run(bench.client.vm.forget(bench.vm))
    bench.client.vm.import_metadata(kept)


def with_spares(bench: Bench) -> None:
    """Running, with a VBD and a VIF in its record that are not plugged."""
    running(bench)
    bench.client.vbd.add(Vbd(id=bench.device("spare"), backend=Local(path="/images/spare.raw")))
    bench.client.vif.add(Vif(id=bench.device("spare"), backend=Bridge(name="br1")))


def with_empty_drive(bench: Bench) -> None:
    recorded(bench)
    bench.client.vbd.add(Vbd(id=bench.device("cd"), type="cdrom", mode="ro"))
    bench.run(bench.client.vm.start(bench.vm))


def with_medium(bench: Bench) -> None:
    recorded(bench)
    medium = Local(path="/images/a.iso")
    bench.client.vbd.add(
        Vbd(id=bench.device("cd"), type="cdrom", mode="ro", backend=medium)
    )
    bench.run(bench.client.vm.start(bench.vm))


def created(bench: Bench) -> None:
    recorded(bench)
    bench.run(bench.client.vm.create(bench.vm))


def built(bench: Bench) -> None:
    created(bench)
    bench.run(bench.client.vm.build(bench.vm))


def nothing(bench: Bench) -> None:
    """No VM at all."""


# Words


def power(seen: Seen, bench: Bench) -> str:
    return seen.power


def presence(seen: Seen, bench: Bench) -> str:
    return "absent" if seen.power == "absent" else "present"


def plugged(kind: str, name: str) -> Word:
    def word(seen: Seen, bench: Bench) -> str:
        inside = f"{kind}:{name}" in seen.names
        return f"{seen.power}, {'plugged' if inside else 'unplugged'}"

    return word


def medium(seen: Seen, bench: Bench) -> str:
    """The record and the drive, which must say the same."""
    assert seen.domain is not None and seen.config is not None
    drive = seen.domain["vbds"][bench.device("cd")].get("medium")
    record = next(v for v in seen.config["vbds"] if v["id"] == bench.device("cd")).get("backend")
    return _agreed(drive, record)


def bridge(seen: Seen, bench: Bench) -> str:
    assert seen.domain is not None and seen.config is not None
    real = seen.domain["vifs"][bench.device("net")]["config"]["backend"]["name"]
    return _agreed(real, _one(seen.config["vifs"])["backend"]["name"])


def vcpus(seen: Seen, bench: Bench) -> str:
    assert seen.domain is not None and seen.config is not None
    running = seen.extra["running"]["vcpus"]
    return _agreed(seen.domain["vcpus"], seen.config["vm"]["vcpus"], running)


def memory(seen: Seen, bench: Bench) -> str:
    assert seen.domain is not None and seen.config is not None
    target = seen.domain["memory_target"] // MIB
    vm = seen.config["vm"]
    least, most = vm["memory_dynamic_min"] // MIB, vm["memory_dynamic_max"] // MIB
    return f"{target} of {least}-{most}"


def xsdata(seen: Seen, bench: Bench) -> str:
    assert seen.domain is not None and seen.config is not None
    running = seen.extra["running"]["xsdata"]
    return _agreed(seen.domain["xsdata"], seen.config["vm"]["xsdata"], running)


def name(seen: Seen, bench: Bench) -> str:
    assert seen.config is not None
    return str(seen.config["vm"].get("name", ""))


def has(kind: str, device: str) -> Word:
    def word(seen: Seen, bench: Bench) -> str:
        assert seen.config is not None
        ids = {d["id"] for d in seen.config.get(kind, ())}
        layer = any(layer.startswith(device) for layer in seen.layers)
        return ("recorded" if bench.device(device) in ids else "gone") + (
            " with its layer" if layer else ""
        )

    return word


def _agreed(first: object, *rest: object) -> str:
    if any(other != first for other in rest):
        return f"disagreeing: {[first, *rest]}"
    return _said(first)


def _said(value: object) -> str:
    match value:
        case {"path": str(path)}:
            return Path(path).name
        case dict():
            return ", ".join(str(v) for v in value.values())
        case None:
            return "empty"
        case _:
            return str(value)


def _one(items: list[dict[str, dict[str, str]]]) -> dict[str, dict[str, str]]:
    (item,) = items
    return item


# The table


def _row(
    name: str,
    prepare: Callable[[Bench], None],
    call: Callable[[Bench], Call[Any] | tuple[str, str]],
    done: str,
    *also: str,
    word: Word = power,
    plugged: frozenset[str] | None = STANDARD,
) -> Operation:
    return Operation(name, prepare, call, frozenset({done}), frozenset({done, *also}), word, plugged)


def _guest(act: str) -> Callable[[Bench], tuple[str, str]]:
    return lambda b: (act, b.vm)


def _imported(bench: Bench) -> Metadata:
    return Metadata(
        vm=Vm(id=bench.vm, name="imported"),
        vbds=[Vbd(id=bench.device("disk"), backend=Local(path="/images/b.raw"))],
        vifs=[Vif(id=bench.device("net"), backend=Bridge(name="br0"))],
    )


_CD = STANDARD | {"vbd:cd"}
_DISC = Local(path="/images/b.iso")

OPERATIONS: tuple[Operation, ...] = (
    _row("VM.start", recorded, lambda b: calls.VmStart(id=b.vm, task=b.vm), "running", "halted"),
    _row("VM.start paused", recorded, lambda b: calls.VmStart(id=b.vm, paused=True, task=b.vm),
         "paused", "halted"),
    _row("VM.shutdown hard", running, lambda b: calls.VmShutdown(id=b.vm, task=b.vm), "halted"),
    _row("VM.shutdown clean", running,
         lambda b: calls.VmShutdown(id=b.vm, timeout=20.0, task=b.vm), "halted"),
    _row("VM.shutdown of a suspended VM", suspended,
         lambda b: calls.VmShutdown(id=b.vm, task=b.vm), "halted"),
    _row("VM.reboot hard", running, lambda b: calls.VmReboot(id=b.vm, task=b.vm), "running"),
    _row("VM.reboot clean", running,
         lambda b: calls.VmReboot(id=b.vm, timeout=20.0, task=b.vm), "running"),
    _row("VM.suspend", running, lambda b: calls.VmSuspend(id=b.vm, task=b.vm),
         "suspended", "running"),
    _row("VM.resume", suspended, lambda b: calls.VmResume(id=b.vm, task=b.vm),
         "running", "suspended"),
    _row("VM.resume paused", suspended, lambda b: calls.VmResume(id=b.vm, paused=True, task=b.vm),
         "paused", "suspended"),
    _row("VM.pause", running, lambda b: calls.VmPause(id=b.vm, task=b.vm), "paused", "running"),
    _row("VM.unpause", paused, lambda b: calls.VmUnpause(id=b.vm, task=b.vm),
         "running", "paused"),
    _row("VM.create", recorded, lambda b: calls.VmCreate(id=b.vm, task=b.vm), "shell", "halted",
         plugged=frozenset()),
    _row("VM.build", created, lambda b: calls.VmBuild(id=b.vm, task=b.vm), "paused", "shell",
         plugged=frozenset()),
    _row("VM.create_device_model", built,
         lambda b: calls.VmCreateDeviceModel(id=b.vm, task=b.vm), "paused", plugged=frozenset()),
    _row("VM.destroy", running, lambda b: calls.VmDestroy(id=b.vm, task=b.vm), "halted"),
    _row("VM.set_vcpus", running, lambda b: calls.VmSetVcpus(id=b.vm, vcpus=3, task=b.vm),
         "3", "2", word=vcpus),
    _row("VM.set_memory_dynamic_range", running,
         lambda b: calls.VmSetMemoryDynamicRange(
             id=b.vm, minimum=64 * MIB, maximum=96 * MIB, task=b.vm
         ),
         "96 of 64-96", "128 of 64-128", word=memory),
    _row("VM.set_xsdata", running,
         lambda b: calls.VmSetXsdata(id=b.vm, xsdata={"vm-data/a": "new"}, task=b.vm),
         "new", "old", word=xsdata),
    _row("VM.delay", running, lambda b: calls.VmDelay(id=b.vm, seconds=0.01, task=b.vm),
         "running"),
    _row("VBD.plug", with_spares, lambda b: calls.VbdPlug(id=b.device("spare"), task=b.vm),
         "running, plugged", "running, unplugged", word=plugged("vbd", "spare"), plugged=None),
    _row("VBD.unplug", running, lambda b: calls.VbdUnplug(id=b.device("disk"), task=b.vm),
         "running, unplugged", "running, plugged", word=plugged("vbd", "disk"), plugged=None),
    _row("VBD.insert", with_empty_drive,
         lambda b: calls.VbdInsert(id=b.device("cd"), backend=_DISC, task=b.vm),
         "b.iso", "empty", word=medium, plugged=_CD),
    _row("VBD.eject", with_medium, lambda b: calls.VbdEject(id=b.device("cd"), task=b.vm),
         "empty", "a.iso", word=medium, plugged=_CD),
    _row("VIF.plug", with_spares, lambda b: calls.VifPlug(id=b.device("spare"), task=b.vm),
         "running, plugged", "running, unplugged", word=plugged("vif", "spare"), plugged=None),
    _row("VIF.unplug", running, lambda b: calls.VifUnplug(id=b.device("net"), task=b.vm),
         "running, unplugged", "running, plugged", word=plugged("vif", "net"), plugged=None),
    _row("VIF.move", running,
         lambda b: calls.VifMove(id=b.device("net"), backend=Bridge(name="br9"), task=b.vm),
         "br9", "br0", word=bridge),
    _row("PCI.unplug", running, lambda b: calls.PciUnplug(id=b.device("card"), task=b.vm),
         "running, unplugged", "running, plugged", word=plugged("pci", "card"), plugged=None),
    _row("VM.forget", recorded, lambda b: calls.VmForget(id=b.vm, task=b.vm), "absent", "halted"),
    _row("VM.adopt", forgotten,
         lambda b: calls.VmAdopt(
             id=b.vm, domain=b.client.vm.stat(b.vm).state.domain_ids[0], task=b.vm
         ),
         "running"),
    _row("VM.remove", kept_layer, lambda b: calls.VmRemove(id=b.vm), "absent", "present",
         word=presence),
    _row("VM.remove of a suspended VM", suspended, lambda b: calls.VmRemove(id=b.vm),
         "absent", "present", word=presence),
    _row("VBD.remove", kept_layer, lambda b: calls.VbdRemove(id=b.device("kept")),
         "gone", "recorded with its layer", word=has("vbds", "kept")),
    _row("VIF.remove", recorded, lambda b: calls.VifRemove(id=b.device("net")),
         "gone", "recorded", word=has("vifs", "net")),
    _row("VM.add", nothing, lambda b: calls.VmAdd(vm=Vm(id=b.vm)), "halted", "absent"),
    _row("VM.set", recorded, lambda b: calls.VmSet(id=b.vm, changes={"name": "new"}), "new", "",
         word=name),
    _row("VBD.add", recorded, lambda b: calls.VbdAdd(vbd=Vbd(id=b.device("more"))),
         "recorded", "gone", word=has("vbds", "more")),
    _row("VM.import_metadata", nothing, lambda b: calls.VmImportMetadata(metadata=_imported(b)),
         "halted", "absent"),
    _row("guest reboots", running, _guest("reboot"), "running"),
    _row("guest halts", running, _guest("halt"), "halted"),
    _row("guest halts, on_shutdown start", restarting, _guest("halt"), "running"),
    _row("guest crashes", running, _guest("crash"), "halted"),
    _row("guest crashes early, on_crash start", restarting, _guest("crash"), "halted"),
)  # fmt: skip
