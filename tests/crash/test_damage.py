"""Files that are damaged, from elsewhere or gone, on the real daemon: what is said, what is
refused, and that nothing else suffers.
"""

import itertools
import json
import os
import random
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from rigs.daemon import DaemonProcess, ended, eventually
from rigs.outside import look, nothing_of

from idl.client import Client, ConnectionFailed
from idl.errors import HypervisorError, ImageInvalid, MetadataCorrupt, StorageError
from idl.task import Completed, Failed, Task
from idl.vbd import Local, Vbd
from idl.vm import PowerState, Vm
from journal.documents import checksum_of
from journal.records import Begun, crc_of, decode_line, decode_record, encode_line

_numbers = itertools.count(1)
GARBAGE = random.Random(7).randbytes(300).replace(b"\n", b"\r")


def rewritten(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def of_schema(number: int) -> Callable[[bytes], bytes]:
    """The same record, said to be of another version; its checksum holds."""
    return lambda text: text.replace(b'"schema": 1', b'"schema": %d' % number)


def bit_flipped(text: bytes) -> bytes:
    at = len(text) // 2
    return text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :]


def of_another_shape(text: bytes) -> bytes:
    """A valid document whose record is none of a VM."""
    record = b'{"version": "one"}'
    return b'{\n  "schema": 1,\n  "checksum": "%b",\n  "record": %b\n}\n' % (
        checksum_of(record).encode(),
        record,
    )


#: By VM: the file, and what is done to it.
RECORDS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "empty": ("config.json", lambda p: p.write_bytes(b"")),
    "zeros": ("config.json", lambda p: rewritten(p, lambda text: bytes(len(text)))),
    "random": ("config.json", lambda p: p.write_bytes(GARBAGE)),
    "cut-short": ("config.json", lambda p: rewritten(p, lambda text: text[:-20])),
    "bit-flipped": ("config.json", lambda p: rewritten(p, bit_flipped)),
    "other-shape": ("config.json", lambda p: rewritten(p, of_another_shape)),
    "newer-schema": ("config.json", lambda p: rewritten(p, of_schema(99))),
    # There is no way up from a version that there never was.
    "older-schema": ("config.json", lambda p: rewritten(p, of_schema(0))),
    "gone": ("config.json", Path.unlink),
    "extra-random": ("extra.json", lambda p: p.write_bytes(GARBAGE)),
    "extra-empty": ("extra.json", lambda p: p.write_bytes(b"")),
    "extra-newer": ("extra.json", lambda p: rewritten(p, of_schema(99))),
    "journal-random": ("journal", lambda p: p.write_bytes(GARBAGE + b"\n")),
    "journal-middle": ("journal", lambda p: p.write_bytes(b'{"seq":1,"crc":"0"}\n{"seq":2')),
}


@pytest.fixture
def daemon(place: Path) -> Iterator[DaemonProcess]:
    """A daemon of the test's own."""
    process = DaemonProcess(place / f"d{next(_numbers)}")
    yield process.start()
    process.remove()


@pytest.fixture(scope="module")
def spoiled(place: Path) -> Iterator[DaemonProcess]:
    """One daemon with a VM for each kind of damage, and one VM that is whole."""
    process = DaemonProcess(place / "spoiled").start()
    with process.client() as client:
        for vm in [*RECORDS, *(f"{vm}-2" for vm in RECORDS), "whole"]:
            client.vm.add(Vm(id=vm))
            client.run(client.vm.start(vm))
            if vm != "whole":
                client.run(client.vm.shutdown(vm))
    process.kill()
    for vm, (name, damage) in RECORDS.items():
        for twin in (vm, f"{vm}-2"):
            damage(process.state_dir / "vm" / twin / name)
    process.start()
    process.recovered()
    yield process
    process.remove()


@pytest.fixture
def client(spoiled: DaemonProcess) -> Iterator[Client]:
    with spoiled.client() as client:
        yield client


@pytest.mark.parametrize("vm", RECORDS)
def test_a_damaged_record_is_shown_as_such_and_refuses_everything(client: Client, vm: str):
    stat = client.vm.stat(vm)
    assert stat.config is None
    assert stat.state.attention is not None
    assert f"{vm}/{RECORDS[vm][0]}" in stat.state.attention.reason
    assert client.vm.exists(vm)
    assert vm in {listed.id for listed in client.vm.list()}
    refused: list[Callable[[], Any]] = [
        lambda: client.vm.start(vm),
        lambda: client.vm.shutdown(vm),
        lambda: client.vm.set(vm, {"name": "x"}),
        lambda: client.vm.remove(vm),
        lambda: client.vbd.add(Vbd(id=f"{vm}/disk")),
        lambda: client.vm.export_metadata(vm),
    ]
    for call in refused:
        with pytest.raises(MetadataCorrupt, match=RECORDS[vm][0]):
            call()


@pytest.mark.parametrize("vm", RECORDS)
def test_a_damaged_record_is_quarantined_where_it_is(
    client: Client, spoiled: DaemonProcess, vm: str
):
    listed = {q.path for q in client.host.get_diagnostics().quarantined if q.vm == f"{vm}-2"}
    assert str(spoiled.state_dir / "vm" / f"{vm}-2" / RECORDS[vm][0]) in listed


def test_the_other_vms_load_and_work(client: Client):
    assert client.vm.stat("whole").state.power_state is PowerState.RUNNING
    client.run(client.vm.reboot("whole"))
    assert client.vm.stat("whole").state.attention is None


@pytest.mark.parametrize("vm", RECORDS)
def test_adding_it_again_repairs_a_damaged_record(
    client: Client, spoiled: DaemonProcess, vm: str
):
    assert client.vm.add(Vm(id=vm, name="again"), replace=True) == vm
    stat = client.vm.stat(vm)
    assert stat.config is not None
    assert stat.config.name == "again"
    assert stat.state.attention is None
    client.run(client.vm.start(vm))
    assert client.vm.stat(vm).state.power_state is PowerState.RUNNING
    client.run(client.vm.shutdown(vm))
    client.vm.remove(vm)
    assert nothing_of(spoiled.state_dir, spoiled.run_dir, vm) == []


@pytest.mark.parametrize("vm", RECORDS)
def test_a_damaged_record_can_be_forgotten(client: Client, spoiled: DaemonProcess, vm: str):
    vm = f"{vm}-2"
    client.run(client.vm.forget(vm))
    assert not client.vm.exists(vm)
    assert not (spoiled.state_dir / "vm" / vm).exists()
    assert client.vm.add(Vm(id=vm)) == vm


def test_a_repair_outlives_the_daemon(daemon: DaemonProcess):
    with daemon.client() as client:
        client.vm.add(Vm(id="a"))
    daemon.kill()
    (daemon.state_dir / "vm" / "a" / "config.json").write_bytes(GARBAGE)
    daemon.start()
    with daemon.client() as client:
        client.vm.add(Vm(id="a", name="again"), replace=True)
    daemon.kill()
    daemon.start()
    with daemon.client() as client:
        config = client.vm.stat("a").config
        assert config is not None
        assert config.name == "again"
        assert client.host.get_diagnostics().quarantined == []


# Journals


def test_a_running_vm_with_a_damaged_journal_is_not_touched(daemon: DaemonProcess):
    with daemon.client() as client:
        client.vm.add(Vm(id="a"))
        client.run(client.vm.start("a"))
    before = daemon.domains()["a"]
    daemon.kill()
    (daemon.state_dir / "vm" / "a" / "journal").write_bytes(GARBAGE + b"\n")
    daemon.start()
    daemon.recovered()
    assert daemon.domains()["a"] == before
    assert (daemon.state_dir / "vm" / "a" / "journal").read_bytes() == GARBAGE + b"\n"


def cut_start(daemon: DaemonProcess, point: str) -> None:
    """VM a, whose start was killed at this point."""
    with daemon.client() as client:
        client.vm.add(Vm(id="a"))
        client.vbd.add(Vbd(id="a/disk", backend=Local(path="/a.raw")))
        client.debug.trigger("kill-at", [point, "1"])
        with suppress(ConnectionFailed):
            client.vm.start("a", task="cut")
    assert daemon.wait() == -9


def test_a_torn_last_line_is_cut_off(daemon: DaemonProcess):
    cut_start(daemon, "vbd_plug:before")
    journal = daemon.state_dir / "vm" / "a" / "journal"
    number = journal.read_bytes().count(b"\n") + 1
    with journal.open("ab") as file:
        file.write(b'{"seq":%d,"crc":"0' % number)
    daemon.start()
    daemon.recovered()
    with daemon.client() as client:
        task = ended(client, "cut")
        assert isinstance(task.state, Completed)
        assert task.interrupted
        assert client.vm.stat("a").state.power_state is PowerState.RUNNING


def with_unknown_micro_op(text: bytes) -> bytes:
    """The journal as a newer daemon could have written it: every checksum holds."""
    first, *others = text.splitlines(keepends=True)
    begun = decode_record(decode_line(first))
    assert isinstance(begun, Begun)
    plan = bytes(begun.plan).replace(b'"vm_unpause"', b'"vm_levitate"')
    changed = json.loads(first)["record"] | {"plan": json.loads(plan)}
    from msgspec import json as codec

    record = codec.decode(codec.encode(changed), type=Begun)
    assert record.plan != begun.plan
    assert isinstance(record.plan, Raw)
    return encode_line(1, record) + b"".join(others)


def with_unknown_record(text: bytes) -> bytes:
    first = json.loads(text.splitlines()[0])
    first["record"]["kind"] = "pondered"
    body = json.dumps(first["record"], separators=(",", ":")).encode()
    return b'{"seq":1,"crc":"%b","record":%b}\n' % (crc_of(1, body).encode(), body)


def interrupted(task: Task) -> bool:
    return isinstance(task.state, Failed) and task.state.error.data["error"] == "Interrupted"


def test_an_unknown_micro_op_in_a_journal_is_doubt_and_nothing_is_touched(daemon: DaemonProcess):
    cut_start(daemon, "vbd_plug:after")
    rewritten(daemon.state_dir / "vm" / "a" / "journal", with_unknown_micro_op)
    before = look(daemon.state_dir, daemon.run_dir, "a")
    for _ in range(2):  # also when it is started once more
        daemon.start()
        daemon.recovered()
        with daemon.client() as client:
            assert interrupted(ended(client, "cut"))
            attention = client.vm.stat("a").state.attention
            assert attention is not None
            assert "journal" in attention.reason
            with pytest.raises(HypervisorError, match="attention"):
                client.run(client.vm.unpause("a"))
        after = look(daemon.state_dir, daemon.run_dir, "a")
        assert (after.domain, after.plugged) == (before.domain, before.plugged)
        daemon.kill()


def test_a_hard_shutdown_settles_an_unknown_micro_op(daemon: DaemonProcess):
    cut_start(daemon, "vbd_plug:after")
    rewritten(daemon.state_dir / "vm" / "a" / "journal", with_unknown_micro_op)
    daemon.start()
    daemon.recovered()
    with daemon.client() as client:
        client.run(client.vm.shutdown("a"))
        assert client.vm.stat("a").state.attention is None
        client.run(client.vm.start("a"))
        client.run(client.vm.shutdown("a"))
        client.vm.remove("a")
    assert nothing_of(daemon.state_dir, daemon.run_dir, "a") == []


def test_an_unknown_kind_of_record_in_a_journal_sets_its_vm_aside(daemon: DaemonProcess):
    cut_start(daemon, "vbd_plug:after")
    rewritten(daemon.state_dir / "vm" / "a" / "journal", with_unknown_record)
    before = look(daemon.state_dir, daemon.run_dir, "a")
    daemon.start()
    daemon.recovered()
    with daemon.client() as client:
        assert interrupted(ended(client, "cut"))
        assert client.vm.stat("a").config is None
    after = look(daemon.state_dir, daemon.run_dir, "a")
    assert (after.domain, after.plugged) == (before.domain, before.plugged)


# What is the daemon's own


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        pytest.param("tasks.log", lambda p: p.write_bytes(b""), False, id="empty task log"),
        pytest.param("tasks.log", lambda p: p.write_bytes(GARBAGE), False, id="torn task log"),
        pytest.param(
            "tasks.log", lambda p: p.write_bytes(GARBAGE + b"\n"), True, id="random task log"
        ),
        pytest.param(
            "tasks.log", lambda p: rewritten(p, bit_flipped), True, id="task log with a bad line"
        ),
        pytest.param("remembered.json", lambda p: p.write_bytes(GARBAGE), None, id="memory"),
        pytest.param("remembered.json", lambda p: p.write_bytes(b""), None, id="empty memory"),
        pytest.param("lock", lambda p: p.write_bytes(GARBAGE), None, id="lock"),
    ],
)
def test_damage_to_the_daemons_own_files_costs_no_vm(
    daemon: DaemonProcess, name: str, damage: Callable[[Path], None], told: bool | None
):
    with daemon.client() as client:
        client.vm.add(Vm(id="a"))
        client.run(client.vm.start("a"))
        client.host.set_worker_pool_size(3)
        client.run(client.vm.pause("a"))
    daemon.kill()
    damage(daemon.state_dir / name)
    daemon.start()
    daemon.recovered()
    with daemon.client() as client:
        assert client.vm.stat("a").state.power_state is PowerState.PAUSED
        assert client.vm.stat("a").state.attention is None
        client.run(client.vm.unpause("a"))
        paths = {q.path for q in client.host.get_diagnostics().quarantined}
        if told is not None:
            assert (str(daemon.state_dir / name) in paths) == told


def test_a_damaged_image_is_refused_and_the_vm_stays_suspended(daemon: DaemonProcess):
    with daemon.client() as client:
        client.vm.add(Vm(id="a"))
        client.run(client.vm.start("a"))
        client.run(client.vm.suspend("a"))
        image = daemon.state_dir / "suspend" / "a.image"
        rewritten(image, bit_flipped)
        with pytest.raises(ImageInvalid):
            client.run(client.vm.resume("a"))
        assert client.vm.stat("a").state.power_state is PowerState.SUSPENDED
        assert daemon.domains().get("a") is None
        client.run(client.vm.shutdown("a"))
        assert client.vm.stat("a").state.power_state is PowerState.HALTED


def test_a_lost_image_leaves_its_vm_suspended_until_it_is_shut_down(daemon: DaemonProcess):
    with daemon.client() as client:
        client.vm.add(Vm(id="a"))
        client.run(client.vm.start("a"))
        client.run(client.vm.suspend("a"))
    daemon.kill()
    (daemon.state_dir / "suspend" / "a.image").unlink()
    daemon.start()
    with daemon.client() as client:
        with pytest.raises(ImageInvalid):
            client.run(client.vm.resume("a"))
        client.run(client.vm.shutdown("a"))
        client.run(client.vm.start("a"))


def test_a_full_state_directory_refuses_changes_and_answers_reads(
    small: Path, place: Path
):
    config = place / "full.toml"
    config.write_text(f'[simulator]\nworld = "{place / "full-world"}"\n')
    daemon = DaemonProcess(small, "--config", str(config)).start()
    # Its last write of its own: one that came later would leave room behind.
    eventually((small / "state" / "remembered.json").exists, why="the boot is remembered")
    try:
        with daemon.client() as client:
            client.vm.add(Vm(id="a"))
            client.run(client.vm.start("a"))
            # It is crossed out after its answer, which leaves room behind too.
            journal = small / "state" / "vm" / "a" / "journal"
            eventually(lambda: journal.stat().st_size == 0, why="the start is crossed out")
            before = (place / "full-world" / "domains" / "a.json").read_bytes()
            filler = small / "state" / "filler"
            fill(filler)
            for call in (
                lambda: client.run(client.vm.pause("a")),
                lambda: client.vm.set("a", {"name": "x"}),
                lambda: client.vm.add(Vm(id="b")),
            ):
                with pytest.raises(StorageError):
                    call()
            assert (place / "full-world" / "domains" / "a.json").read_bytes() == before
            assert not client.vm.exists("b")
            assert client.vm.stat("a").state.power_state is PowerState.RUNNING
            assert client.task.list()
            filler.unlink()
            client.run(client.vm.pause("a"))
            client.vm.add(Vm(id="b"))
    finally:
        daemon.remove()


def test_a_start_on_a_full_state_directory_still_answers(small: Path, place: Path):
    daemon = DaemonProcess(small).start()
    try:
        with daemon.client() as client:
            client.vm.add(Vm(id="a"))
            client.run(client.vm.start("a"))
        daemon.kill()
        fill(small / "state" / "filler")
        daemon.start()
        daemon.recovered()
        with daemon.client() as client:
            assert client.vm.stat("a").state.power_state is PowerState.RUNNING
    finally:
        daemon.remove()


def test_a_read_only_state_directory_is_refused_at_start(small: Path):
    DaemonProcess(small).start().remove()
    small.mkdir(exist_ok=True)
    (small / "state").mkdir()
    mount(small.parent, "-o", "remount,ro")
    daemon = DaemonProcess(small, "--state-dir", str(small / "state"))
    daemon.log = Path(tempfile.mkstemp()[1])
    daemon.spawn()
    assert daemon.wait() == 1
    said = daemon.log.read_text()
    daemon.log.unlink()
    assert str(small / "state" / "lock") in said
    assert "Read-only" in said
    assert "Traceback" not in said


def fill(path: Path) -> None:
    """Take every byte that is left."""
    with path.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


def mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture
def small(place: Path) -> Iterator[Path]:
    """A directory on a file system of 1 MiB; skipped for who may not mount."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    point = Path(tempfile.mkdtemp(prefix="small-"))
    try:
        mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", point)
    except (OSError, subprocess.CalledProcessError) as error:
        point.rmdir()
        pytest.skip(f"nothing can be mounted here: {error}")
    (point / "d").mkdir()
    yield point / "d"
    subprocess.run(["umount", str(point)], check=True)
    point.rmdir()
