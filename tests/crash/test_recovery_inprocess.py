"""A recovery that is cut, at any byte or at any of its steps, changes nothing about the outcome.

An operation is run once on one thread (`rigs.inline`), and at each kill point that it passes what
a SIGKILL would leave there is frozen. From each distinct one a recovery is run to its end: that
is the outcome. Then it is run again over a disk that stops at byte n, and once for each point of
the recovery itself; the recovery after that must come to the same.
"""

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from fakes.disk import DiskStopped, FaultyDisk
from msgspec import Raw
from msgspec.structs import replace
from rigs.inline import Frozen, Host, InlineDaemon, Watch
from rigs.outside import domain

from backends.simulator.host import HostOps
from idl import calls
from idl.errors import HypervisorError, Unimplemented
from idl.pci import Pci
from idl.vbd import Local, Vbd
from idl.vif import Bridge, Vif
from idl.vm import Action, Vm
from journal.records import Begun, decode_line, decode_record, encode_line

VM = "vm"
TASK = "task"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
#: Interfaces are named by a digest of their incarnation.
INTERFACE = re.compile(r"sim[0-9a-f]{12}")
LAYERED = Local(path="/images/base.qcow2", format="qcow2", overlay=True)
#: Of all places to cut a recovery one in so many is tried; `make sweep` tries them all.
STRIDE = int(os.environ.get("RECOVERY_STRIDE", "6"))

#: Scripts with a fault that is gone in the next life: it comes to something else.
FAILING = {
    "start that fails",
    "suspend that fails",
    "resume that fails",
    "hard shutdown that leaves a step out",
}
T = TypeVar("T")
Script = Callable[[InlineDaemon], Awaitable[Any]]


# Scripts: how each operation is prepared and called


async def recorded(daemon: InlineDaemon, **fields: Any) -> None:
    await daemon.ask(calls.VmAdd(vm=Vm(id=VM, vcpu_max=2, vcpus=1, **fields)))
    disk = Vbd(id=f"{VM}/disk", backend=LAYERED, persistent=False)
    await daemon.ask(calls.VbdAdd(vbd=disk))
    await daemon.ask(calls.VbdAdd(vbd=Vbd(id=f"{VM}/kept", backend=LAYERED)))
    await daemon.ask(calls.VbdAdd(vbd=Vbd(id=f"{VM}/cd", type="cdrom", mode="ro")))
    await daemon.ask(calls.VifAdd(vif=Vif(id=f"{VM}/net", backend=Bridge(name="br0"))))
    await daemon.ask(calls.PciAdd(pci=Pci(id=f"{VM}/card", address="0000:04:00.0")))


async def running(daemon: InlineDaemon, **fields: Any) -> None:
    await recorded(daemon, **fields)
    await daemon.run(calls.VmStart(id=VM))


async def suspended(daemon: InlineDaemon) -> None:
    await running(daemon)
    await daemon.run(calls.VmSuspend(id=VM))


async def halted(daemon: InlineDaemon) -> None:
    await running(daemon)
    await daemon.run(calls.VmShutdown(id=VM))


async def made_to_fail(micro_op: str, times: int, then: Script, daemon: InlineDaemon) -> None:
    await then(daemon)
    daemon.trigger("fail", micro_op, str(times))


async def restarting(daemon: InlineDaemon) -> None:
    await running(daemon, on_reboot=[Action.START])


def call(call: calls.Call[Any]) -> Script:
    return lambda daemon: daemon.ask(call)


async def guest_reboots(daemon: InlineDaemon) -> None:
    daemon.trigger("reboot", VM)


SCRIPTS: dict[str, tuple[Script, Script]] = {
    "start": (recorded, call(calls.VmStart(id=VM, task=TASK))),
    "start that fails": (
        partial(made_to_fail, "pci_plug", 1, recorded),
        call(calls.VmStart(id=VM, task=TASK)),
    ),
    "hard shutdown": (running, call(calls.VmShutdown(id=VM, task=TASK))),
    "hard shutdown with a step that fails": (
        partial(made_to_fail, "vbd_unplug", 2, running),
        call(calls.VmShutdown(id=VM, task=TASK)),
    ),
    "hard shutdown that leaves a step out": (
        partial(made_to_fail, "vbd_unplug", 5, running),
        call(calls.VmShutdown(id=VM, task=TASK)),
    ),
    "clean reboot": (running, call(calls.VmReboot(id=VM, timeout=20.0, task=TASK))),
    "suspend": (running, call(calls.VmSuspend(id=VM, task=TASK))),
    "suspend that fails": (
        partial(made_to_fail, "vm_save", 1, running),
        call(calls.VmSuspend(id=VM, task=TASK)),
    ),
    "resume": (suspended, call(calls.VmResume(id=VM, task=TASK))),
    "resume that fails": (
        partial(made_to_fail, "vm_create_device_model", 1, suspended),
        call(calls.VmResume(id=VM, task=TASK)),
    ),
    "unplug": (running, call(calls.VbdUnplug(id=f"{VM}/disk", task=TASK))),
    "insert": (
        running,
        call(calls.VbdInsert(id=f"{VM}/cd", backend=Local(path="/a.iso"), task=TASK)),
    ),
    "set_vcpus": (running, call(calls.VmSetVcpus(id=VM, vcpus=2, task=TASK))),
    "remove": (halted, call(calls.VmRemove(id=VM))),
    "remove of a suspended VM": (suspended, call(calls.VmRemove(id=VM))),
    "remove of a VBD": (halted, call(calls.VbdRemove(id=f"{VM}/kept"))),
    "forget": (recorded, call(calls.VmForget(id=VM, task=TASK))),
    "guest that reboots": (restarting, guest_reboots),
    "single create": (recorded, call(calls.VmCreate(id=VM, task=TASK))),
    "add": (lambda daemon: asyncio.sleep(0), call(calls.VmAdd(vm=Vm(id=VM)))),
    "set": (recorded, call(calls.VmSet(id=VM, changes={"name": "new"}))),
}


# Lives


class Steps(FaultyDisk):
    """Notes what each operation that changes something costs, in units of `stop_after`."""

    costs: list[int]

    def spend(self, units: int) -> None:
        super().spend(units)
        if not hasattr(self, "costs"):
            self.costs = []
        self.costs.append(units)


@pytest.fixture
def host(inline_place: Path) -> Host:
    return Host(inline_place, Steps())


async def shapes(host: Host, prepare: Script, operate: Script) -> dict[str, Frozen]:
    """What a SIGKILL leaves at each point of an operation, by a name; equal ones once."""
    host.begin()
    daemon = InlineDaemon(host).start()
    await prepare(daemon)
    found: dict[str, Frozen] = {}
    seen: list[Frozen] = []

    def freeze(point: str) -> None:
        frozen = host.freeze()
        if frozen not in seen:
            seen.append(frozen)
            found[f"{len(seen)} {point}"] = frozen

    with watching(freeze):
        await operate(daemon)
    freeze("the end")
    await daemon.close()
    return found


class watching:  # noqa: N801  # a context manager
    """Within, `tell` is told of each kill point passed."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def __enter__(self) -> None:
        Watch.passed = staticmethod(self._tell)

    def __exit__(self, *_error: object) -> None:
        Watch.passed = staticmethod(lambda _point: None)


async def recover(host: Host) -> dict[str, Any]:
    """A whole recovery, and what it comes to."""
    daemon = InlineDaemon(host).start()
    facts = _facts(host, daemon)
    await daemon.close()
    return facts


async def recover_in_part(host: Host) -> bool:
    """A recovery over a disk that may stop; whether it did."""
    daemon: InlineDaemon | None = None
    try:
        daemon = InlineDaemon(host)
        daemon.start()
    except DiskStopped:
        return True
    finally:
        host.disk.restart()
        if daemon is not None:
            await daemon.close()
    return False


def _facts(host: Host, daemon: InlineDaemon) -> dict[str, Any]:
    """What can be told, less what differs from run to run."""
    entry = daemon.entry(VM)
    frozen = host.freeze()
    domains = host.state_dir / "simulator" / "domains"
    facts: dict[str, Any] = {
        "vm": None if entry is None else _timeless(json.loads(bytes(entry.encoded()))),
        "extra": _timeless(_record(frozen.disk.get(host.state_dir / "vm" / VM / "extra.json"))),
        "beside": [str(path.relative_to(host.directory)) for path in frozen.beside],
        "domain": _timeless(domain(domains / f"{VM}.json")),
        "disk": sorted(str(path.relative_to(host.directory)) for path in frozen.disk),
        "journal": frozen.disk.get(host.state_dir / "vm" / VM / "journal") or b"",
        "tasks": [_ending(daemon.task(id)) for id in daemon.tasks()],
    }
    text = json.dumps(facts, default=str)
    plain: dict[str, Any] = json.loads(INTERFACE.sub("INTERFACE", UUID.sub("UUID", text)))
    return plain


def _record(document: bytes | None) -> Any:
    return None if document is None else json.loads(document)["record"]


def _timeless(value: Any) -> Any:
    """Without times, and without what a newer domain has counted up."""
    passing = {
        "observed_at", "last_start_time", "created", "since", "ran", "running_since", "uptime",
        "id", "domain_ids",
    }  # fmt: skip
    match value:
        case dict():
            return {k: _timeless(v) for k, v in value.items() if k not in passing}
        case list():
            return [_timeless(v) for v in value]
        case _:
            return value


def _ending(task: Any) -> Any:
    state = task["state"]
    error = state.get("error") or {}
    data = {k: v for k, v in error.get("data", {}).items() if k != "task"}
    return task["operation"], state["type"], data, task["interrupted"]


def cuts(costs: list[int]) -> list[int]:
    """Where to stop: before each change, and in the middle of each line."""
    found: list[int] = []
    at = 0
    for cost in costs:
        found += [at, at + cost // 2] if cost > 1 else [at]
        at += cost
    return found


def every(items: list[T], number: int) -> list[T]:
    """One in STRIDE, beginning elsewhere for each shape: together they pass everything."""
    return items[number % STRIDE :: STRIDE]


@pytest.mark.parametrize("name", SCRIPTS)
def test_recovery_cut_at_any_byte_comes_to_the_same(host: Host, name: str):
    async def story() -> int:
        cut = 0
        found = await shapes(host, *SCRIPTS[name])
        host.thaw(list(found.values())[-1])
        whole = await recover(host)
        for number, (shape, frozen) in enumerate(found.items()):
            host.thaw(frozen)
            outcome = await recover(host)
            assert outcome["journal"] == "b''"
            if name not in FAILING:
                assert outcome | {"tasks": 0} == whole | {"tasks": 0}, shape
            disk = host.disk
            assert isinstance(disk, Steps)
            for units in every(cuts(disk.costs), number):
                host.thaw(frozen)
                host.disk.stop_after(units)
                cut += await recover_in_part(host)
                assert await recover(host) == outcome, f"{shape}, stopped after {units} units"
        return cut

    assert asyncio.run(story()) > 0


@pytest.mark.parametrize("name", SCRIPTS)
def test_recovery_killed_at_any_of_its_points_comes_to_the_same(host: Host, name: str):
    async def story() -> int:
        killed = 0
        found = await shapes(host, *SCRIPTS[name])
        for number, (shape, frozen) in enumerate(found.items()):
            host.thaw(frozen)
            left: list[tuple[str, Frozen]] = []
            with watching(lambda point, left=left: left.append((point, host.freeze()))):
                outcome = await recover(host)
            for point, remains in every(left, number):
                host.thaw(remains)
                killed += 1
                assert await recover(host) == outcome, f"{shape}, killed at {point}"
        return killed

    assert asyncio.run(story()) > 0


def of_a_newer_daemon(journal: bytes) -> bytes:
    """The journal with a micro-op in its plan that is not known here; its checksums hold."""
    first, *others = journal.splitlines(keepends=True)
    begun = decode_record(decode_line(first))
    assert isinstance(begun, Begun)
    plan = bytes(begun.plan).replace(b"vm_unpause", b"vm_levitate")
    return b"".join([encode_line(1, replace(begun, plan=Raw(plan))), *others])


def test_a_doubt_lasts_however_its_recovery_is_cut(host: Host):
    async def story() -> int:
        cut = 0
        journal = host.state_dir / "vm" / VM / "journal"
        for number, (shape, frozen) in enumerate((await shapes(host, *SCRIPTS["start"])).items()):
            content = frozen.disk[journal]
            if not content or "journal:end" in shape:  # nothing is open any more
                continue
            newer = replace_file(frozen, journal, of_a_newer_daemon(content))
            host.thaw(newer)
            outcome = await recover(host)
            assert "cannot be understood" in outcome["vm"]["state"]["attention"]["reason"]
            untouched = host.freeze().beside
            assert untouched == newer.beside
            disk = host.disk
            assert isinstance(disk, Steps)
            for units in every(cuts(disk.costs), number):
                host.thaw(newer)
                host.disk.stop_after(units)
                cut += await recover_in_part(host)
                again = await recover(host)
                # How often it was written down that nobody waits any more is no difference.
                assert again | {"journal": ""} == outcome | {"journal": ""}, f"{shape}, {units}"
        return cut

    assert asyncio.run(story()) > 0


def replace_file(frozen: Frozen, path: Path, content: bytes) -> Frozen:
    return Frozen({**frozen.disk, path: content}, frozen.beside)


def test_a_backend_without_a_log_to_show_is_recovered_all_the_same(
    host: Host, monkeypatch: pytest.MonkeyPatch
):
    def refuse(_host: HostOps) -> str:
        raise HypervisorError(call="console_data", reason="it has no log today")

    monkeypatch.setattr(HostOps, "console_data", refuse)

    async def story() -> None:
        host.begin()
        daemon = InlineDaemon(host).start()
        await asyncio.sleep(0)
        assert daemon.daemon.state.features
        assert daemon.daemon.state.recovering == 0
        with pytest.raises(Unimplemented):
            await daemon.ask(calls.HostGetConsoleData())
        await daemon.close()

    asyncio.run(story())
