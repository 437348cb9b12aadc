"""A disk that is full, read-only or loses an fsync, under the daemon on one thread.

An operation whose intent cannot be written is refused before any effect; what fails later is
taken back; and when the disk is well again, so is everything else.
"""

import asyncio
import errno
import json
from pathlib import Path
from typing import Any

import pytest
from fakes.disk import FaultyDisk, FaultyFile
from rigs.inline import Host, InlineDaemon
from rigs.outside import domain

from idl import calls
from idl.errors import StorageError
from idl.metadata import Metadata
from idl.vbd import Local, Vbd
from idl.vm import Vm
from journal.documents import Kind
from xenopsd.daemon import KINDS

VM = "vm"
DISC = Local(path="/images/a.iso")


class OneFile(FaultyDisk):
    """A disk on which files of one name cannot be opened for writing."""

    refused = ""

    def open_append(self, path: Path, *, empty: bool = False) -> FaultyFile:
        if path.name == self.refused:
            raise OSError(errno.EIO, "Input/output error")
        return super().open_append(path, empty=empty)


@pytest.fixture
def host(inline_place: Path) -> Host:
    host = Host(inline_place, OneFile())
    host.begin()
    return host


async def recorded(daemon: InlineDaemon) -> None:
    await daemon.ask(calls.VmAdd(vm=Vm(id=VM, vcpu_max=2, vcpus=1)))
    base = Local(path="/images/base.qcow2", format="qcow2", overlay=True)
    await daemon.ask(calls.VbdAdd(vbd=Vbd(id=f"{VM}/disk", backend=base, persistent=False)))
    await daemon.ask(calls.VbdAdd(vbd=Vbd(id=f"{VM}/cd", type="cdrom", mode="ro")))


async def running(daemon: InlineDaemon) -> None:
    await recorded(daemon)
    await daemon.run(calls.VmStart(id=VM))


def power(host: Host) -> str:
    found = domain(host.state_dir / "simulator/domains" / f"{VM}.json")
    if found is None:
        return "halted"
    return "paused" if found.get("paused", True) else "running"


def left_over(host: Host) -> list[str]:
    """What a halted VM must not have."""
    world = host.state_dir / "simulator"
    found = [*world.glob(f"plugged/*/{VM}/*"), *world.glob(f"layers/{VM}/*@*")]
    return [path.name for path in found]


async def failure(daemon: InlineDaemon, call: calls.Call[Any]) -> Any:
    """The class of the error that a call, or its task, ends with."""
    try:
        answer = await daemon.ask(call)
    except StorageError:
        return "StorageError"
    if not isinstance(call, calls.Operation):
        return None
    return daemon.task(answer)["state"].get("error", {}).get("data", {}).get("error")


FAULTS = {
    "full": {"write": errno.ENOSPC},
    "read-only": {"*": errno.EROFS},
    "failing": {"*": errno.EIO},
}

CHANGES: dict[str, calls.Call[Any]] = {
    "pause": calls.VmPause(id=VM),
    "shutdown": calls.VmShutdown(id=VM),
    "suspend": calls.VmSuspend(id=VM),
    "set_vcpus": calls.VmSetVcpus(id=VM, vcpus=2),
    "insert": calls.VbdInsert(id=f"{VM}/cd", backend=DISC),
    "unplug": calls.VbdUnplug(id=f"{VM}/disk"),
    "set": calls.VmSet(id=VM, changes={"name": "new"}),
    "add": calls.VmAdd(vm=Vm(id="other")),
    "add a VBD": calls.VbdAdd(vbd=Vbd(id=f"{VM}/more")),
    "import": calls.VmImportMetadata(metadata=Metadata(vm=Vm(id="other"))),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_cannot_be_written_is_refused_before_any_effect(
    host: Host, fault: str, change: str
):
    call = CHANGES[change]

    async def story() -> None:
        daemon = InlineDaemon(host).start()
        await running(daemon)
        before = host.freeze()
        host.disk.faults = FAULTS[fault]
        assert await failure(daemon, call) == "StorageError"
        assert host.freeze().beside == before.beside
        assert await daemon.ask(calls.VmExists(id=VM))
        assert not await daemon.ask(calls.VmExists(id="other"))
        host.disk.faults = {}
        assert await failure(daemon, call) is None
        await daemon.close()

    asyncio.run(story())


@pytest.mark.parametrize(
    "name", ["pause", "shutdown", "suspend", "set_vcpus", "insert", "unplug"]
)
def test_an_operation_without_a_journal_fails_before_any_effect(host: Host, name: str):
    async def story() -> None:
        daemon = InlineDaemon(host).start()
        await running(daemon)
        await daemon.close()
        # Another life, which has not opened the journal yet.
        daemon = InlineDaemon(host).start()
        before = host.freeze()
        disk = host.disk
        assert isinstance(disk, OneFile)
        disk.refused = "journal"
        assert await failure(daemon, CHANGES[name]) == "StorageError"
        assert host.freeze().beside == before.beside
        assert power(host) == "running"
        disk.refused = ""
        assert await failure(daemon, CHANGES[name]) is None
        await daemon.close()

    asyncio.run(story())


@pytest.mark.parametrize("name", ["suspend", "insert", "set", "add", "add a VBD"])
def test_a_durable_change_needs_its_fsync(host: Host, name: str):
    async def story() -> None:
        daemon = InlineDaemon(host).start()
        await running(daemon)
        config = host.freeze().disk[host.state_dir / "vm" / VM / "config.json"]
        host.disk.faults = {"fsync": errno.EIO}
        assert await failure(daemon, CHANGES[name]) == "StorageError"
        assert power(host) == "running"
        assert host.freeze().disk[host.state_dir / "vm" / VM / "config.json"] == config
        assert not list((host.state_dir / "suspend").iterdir())
        drive = await daemon.ask(calls.VbdStat(id=f"{VM}/cd"))
        assert drive.state.backend_present is None
        assert not await daemon.ask(calls.VmExists(id="other"))
        host.disk.faults = {}
        assert await failure(daemon, CHANGES[name]) is None
        await daemon.close()

    asyncio.run(story())


def test_what_outlives_no_host_needs_no_fsync(host: Host):
    async def story() -> None:
        daemon = InlineDaemon(host).start()
        await running(daemon)
        host.disk.faults = {"fsync": errno.EIO, "fsync_dir": errno.EIO}
        assert await failure(daemon, calls.VmReboot(id=VM)) is None
        assert power(host) == "running"
        await daemon.close()

    asyncio.run(story())


def test_a_record_of_an_older_version_is_brought_up_to_date(
    host: Host, monkeypatch: pytest.MonkeyPatch
):
    def renamed(record: dict[str, Any]) -> dict[str, Any]:
        return {**record, "vm": {**record["vm"], "name": "from version 1"}}

    config = host.state_dir / "vm" / VM / "config.json"

    async def story() -> None:
        daemon = InlineDaemon(host).start()
        await running(daemon)
        await daemon.close()
        newer = Kind(Metadata, version=2, upgrades={1: renamed})
        monkeypatch.setitem(KINDS, "config", newer)
        daemon = InlineDaemon(host).start()
        found = await daemon.ask(calls.VmExportMetadata(id=VM))
        assert found.vm.name == "from version 1"
        assert json.loads(host.disk.read(config))["schema"] == 1
        assert await failure(daemon, calls.VmSet(id=VM, changes={"name": "new"})) is None
        assert json.loads(host.disk.read(config))["schema"] == 2
        await daemon.close()
        monkeypatch.undo()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("prepare", "call", "ends"),
    [
        pytest.param(recorded, calls.VmStart(id=VM), {"running", "halted"}, id="start"),
        pytest.param(running, calls.VmShutdown(id=VM), {"running", "halted"}, id="shutdown"),
        pytest.param(running, calls.VmReboot(id=VM), {"running", "halted"}, id="reboot"),
        pytest.param(running, calls.VmPause(id=VM), {"running", "paused"}, id="pause"),
    ],
)
def test_a_disk_that_fills_up_in_the_middle_leaves_a_sensible_vm(
    host: Host, prepare: Any, call: calls.Call[Any], ends: set[str]
):
    async def story() -> set[Any]:
        daemon = InlineDaemon(host).start()
        await prepare(daemon)
        await daemon.close()
        before = host.freeze()
        failures: set[Any] = set()
        for space in range(0, 4000, 97):
            host.thaw(before)
            daemon = InlineDaemon(host).start()
            host.disk.space = space
            failures.add(await failure(daemon, call))
            assert power(host) in ends, f"{space} bytes"
            assert power(host) != "halted" or not left_over(host), f"{space} bytes"
            await daemon.close()
            host.disk.restart()
            then = power(host)
            daemon = InlineDaemon(host).start()
            assert power(host) == then, f"{space} bytes, after a restart"
            entry = daemon.entry(VM)
            assert entry is not None
            assert entry.attention is None
            assert entry.journal.intent is None
            assert await failure(daemon, calls.VmShutdown(id=VM)) is None
            assert await failure(daemon, calls.VmRemove(id=VM)) is None
            await daemon.close()
        return failures

    assert asyncio.run(story()) == {None, "StorageError"}
