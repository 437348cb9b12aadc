import errno
import stat
from pathlib import Path

import msgspec
import pytest

from journal.disk import RealDisk
from journal.documents import Kind, encode_document
from journal.errors import StoreUnwritable
from journal.store import Damage, SingleRecord, Store

ROOT = Path("/state/vms")


class Vm(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    memory: int = 0


class Extra(msgspec.Struct, frozen=True, kw_only=True):
    incarnation: str


KINDS = {"vm": Kind(Vm), "extra": Kind(Extra)}
VM = Vm(id="vm1")
OTHER = Vm(id="vm1", memory=1)
EXTRA = Extra(incarnation="i1")


@pytest.fixture
def store(disk):
    store = Store(disk, ROOT, KINDS)
    assert store.load() == {}
    return store


def records(disk):
    return {vm: loaded.records for vm, loaded in Store(disk, ROOT, KINDS).load().items()}


def test_what_was_written_is_loaded(disk, store):
    store.write("vm1", "vm", VM, durable=True)
    store.write("vm1", "extra", EXTRA, durable=False)
    store.write("vm2", "vm", Vm(id="vm2"), durable=False)
    assert records(disk) == {"vm1": {"vm": VM, "extra": EXTRA}, "vm2": {"vm": Vm(id="vm2")}}
    assert disk.names(ROOT / "vm1") == ["extra.json", "vm.json"]


def test_a_second_write_replaces_the_first(disk, store):
    store.write("vm1", "vm", VM, durable=False)
    store.write("vm1", "vm", OTHER, durable=False)
    assert records(disk) == {"vm1": {"vm": OTHER}}


def test_a_durable_write_survives_a_power_cut_and_so_does_its_directory(disk):
    store = Store(disk, ROOT, KINDS)
    store.load()
    store.write("vm1", "extra", EXTRA, durable=False)
    store.write("vm1", "vm", VM, durable=True)
    disk.power_cut(lambda n: 0)
    assert records(disk)["vm1"]["vm"] == VM


def test_a_record_can_be_deleted_alone(disk, store):
    store.write("vm1", "vm", VM, durable=False)
    store.write("vm1", "extra", EXTRA, durable=False)
    store.delete("vm1", "extra")
    store.delete("vm1", "extra")
    store.delete("vm2", "vm")
    assert records(disk) == {"vm1": {"vm": VM}}


def test_a_removed_vm_is_gone_for_good(disk, store):
    store.write("vm1", "vm", VM, durable=True)
    store.remove("vm1")
    store.remove("vm1")
    assert disk.names(ROOT) == []
    store.write("vm1", "vm", OTHER, durable=True)
    assert records(disk) == {"vm1": {"vm": OTHER}}


def test_a_removal_that_was_cut_is_finished_durably(disk, disks, store):
    store.write("vm1", "vm", VM, durable=True)
    # One unit for the renaming; the fsync after it never happens.
    disk.stop_after(1)
    with pytest.raises(disks.DiskStopped):
        store.remove("vm1")
    disk.restart()
    assert store.load() == {}
    disk.power_cut(lambda n: 0)
    assert records(disk) == {}


RUBBISH = [
    pytest.param(b"", id="empty"),
    pytest.param(b"\x93\x01rubbish", id="rubbish"),
    pytest.param(encode_document(VM, 2), id="newer schema"),
    pytest.param(encode_document(VM, 1).replace(b"vm1", b"vm9"), id="bad checksum"),
    pytest.param(encode_document(EXTRA, 1), id="another kind"),
]


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_a_damaged_record_is_reported_left_alone_and_keeps_no_other_from_loading(
    disk, store, rubbish
):
    path = ROOT / "vm1" / "vm.json"
    store.write("vm1", "extra", EXTRA, durable=True)
    store.write("vm2", "vm", Vm(id="vm2"), durable=True)
    disk.put(path, rubbish)
    loaded = store.load()
    assert loaded["vm1"].records == {"extra": EXTRA}
    assert [damage.path for damage in loaded["vm1"].damaged] == [path]
    assert loaded["vm2"].records == {"vm": Vm(id="vm2")}
    assert disk.read(path) == rubbish


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_a_repair_keeps_what_was_damaged(disk, store, rubbish):
    disk.put(ROOT / "vm1" / "vm.json", rubbish)
    store.load()
    with pytest.raises(StoreUnwritable, match="no repair"):
        store.write("vm1", "vm", VM, durable=True)
    store.write("vm1", "vm", VM, durable=True, repair=True)
    store.write("vm1", "vm", OTHER, durable=True)
    assert disk.read(ROOT / "vm1" / "vm.json.damaged-1") == rubbish
    assert records(disk) == {"vm1": {"vm": OTHER}}
    assert store.load()["vm1"].damaged == ()


def test_a_repair_of_what_is_whole_keeps_nothing_aside(disk, store):
    store.write("vm1", "vm", VM, durable=True)
    store.write("vm1", "vm", OTHER, durable=True, repair=True)
    assert disk.names(ROOT / "vm1") == ["vm.json"]


def test_a_damaged_record_can_be_removed(disk, store):
    disk.put(ROOT / "vm1" / "vm.json", b"")
    store.load()
    store.remove("vm1")
    store.write("vm1", "vm", VM, durable=True)
    assert records(disk) == {"vm1": {"vm": VM}}


def test_a_directory_that_cannot_be_listed_is_damage_not_absence(disk, store):
    store.write("vm1", "vm", VM, durable=True)
    real = disk.names
    disk.names = lambda path: fail(errno.EIO) if path.name == "vm1" else real(path)
    loaded = store.load()
    assert loaded["vm1"].damaged == (Damage(ROOT / "vm1", "EIO"),)


def fail(number):
    raise OSError(number, errno.errorcode[number])


def test_a_record_that_cannot_be_read_is_damage_not_absence(disk, store):
    store.write("vm1", "vm", VM, durable=True)
    disk.faults["read"] = errno.EIO
    assert store.load()["vm1"].damaged == (Damage(ROOT / "vm1" / "vm.json", "EIO"),)


def test_loading_clears_leftovers_and_nothing_else(disk, store):
    store.write("vm1", "vm", VM, durable=True)
    disk.put(ROOT / "vm1" / ".vm.json.tmp", b"half")
    disk.put(ROOT / "vm1" / "vm.json.damaged-1", b"evidence")
    disk.put(ROOT / ".removed-vm9-1" / "vm.json", b"x")
    disk.put(ROOT / "notes.txt", b"of the administrator")
    disk.mkdir(ROOT / "lost+found")
    disk.mkdir(ROOT / "vm2")
    assert list(store.load()) == ["vm1"]
    assert disk.names(ROOT) == ["lost+found", "notes.txt", "vm1", "vm2"]
    assert disk.names(ROOT / "vm1") == ["vm.json", "vm.json.damaged-1"]


def test_a_leftover_that_cannot_be_cleared_keeps_nothing_from_loading(disk, store):
    store.write("vm1", "vm", VM, durable=True)
    disk.put(ROOT / ".removed-vm1-1" / "vm.json", b"x")
    disk.faults["*"] = errno.EROFS
    assert records(disk) == {"vm1": {"vm": VM}}
    disk.faults.clear()
    store.remove("vm1")
    assert disk.exists(ROOT / ".removed-vm1-1")
    assert records(disk) == {}
    assert disk.names(ROOT) == []


@pytest.mark.parametrize("fault", ["open", "write", "fsync", "rename"])
def test_a_failing_write_leaves_the_old_record(disk, store, fault):
    store.write("vm1", "vm", VM, durable=True)
    disk.faults[fault] = errno.ENOSPC
    with pytest.raises(StoreUnwritable, match="ENOSPC") as failure:
        store.write("vm1", "vm", OTHER, durable=True)
    assert failure.value.path == ROOT / "vm1" / "vm.json"
    disk.faults.clear()
    assert records(disk) == {"vm1": {"vm": VM}}


def test_a_directory_that_cannot_be_made_is_told(disk, store):
    disk.faults["mkdir"] = errno.ENOSPC
    with pytest.raises(StoreUnwritable, match="ENOSPC"):
        store.write("vm1", "vm", VM, durable=True)
    disk.faults.clear()
    store.write("vm1", "vm", VM, durable=True)
    assert records(disk) == {"vm1": {"vm": VM}}


@pytest.mark.parametrize("fault", ["rename", "fsync_dir"])
def test_a_failing_removal_leaves_the_vm(disk, store, fault):
    store.write("vm1", "vm", VM, durable=True)
    disk.faults[fault] = errno.EIO
    with pytest.raises(StoreUnwritable, match="EIO"):
        store.remove("vm1")
    disk.faults.clear()
    assert records(disk) == {"vm1": {"vm": VM}}


def test_a_failing_deletion_is_told(disk, store):
    store.write("vm1", "vm", VM, durable=True)
    disk.faults["remove"] = errno.EROFS
    with pytest.raises(StoreUnwritable, match="EROFS"):
        store.delete("vm1", "vm")


def test_a_root_that_cannot_be_made_is_told(disk):
    disk.faults["*"] = errno.EROFS
    with pytest.raises(StoreUnwritable, match="EROFS"):
        Store(disk, ROOT, KINDS).load()


@pytest.mark.parametrize("vm", ["", ".", "..", "../vm1", "-vm", ".vm", "a/b", "a\n", "x" * 65])
def test_an_id_never_leads_out_of_the_root(disk, store, vm):
    for call in (
        lambda: store.write(vm, "vm", VM, durable=False),
        lambda: store.delete(vm, "vm"),
        lambda: store.remove(vm),
    ):
        with pytest.raises(ValueError, match="not the id of a VM"):
            call()


def test_a_single_record_is_none_then_itself_then_damaged(disk):
    single = SingleRecord(disk, Path("/state/settings.json"), Kind(Vm))
    assert single.read() is None
    single.write(VM, durable=True)
    assert single.read() == VM
    disk.put(single.path, b"rubbish")
    damage = single.read()
    assert isinstance(damage, Damage)
    assert damage.path == single.path
    single.write(OTHER, durable=True, repair=True)
    assert single.read() == OTHER
    assert disk.read(Path("/state/settings.json.damaged-1")) == b"rubbish"
    single.delete(durable=True)
    assert single.read() is None


def test_on_the_real_disk(tmp_path):
    root = tmp_path / "state" / "vms"
    store = Store(RealDisk(), root, KINDS)
    assert store.load() == {}
    store.write("vm1", "vm", VM, durable=True)
    store.write("vm1", "vm", OTHER, durable=False)
    (root / "vm2").mkdir()
    (root / "vm2" / "vm.json").write_bytes(b"")
    loaded = Store(RealDisk(), root, KINDS).load()
    assert loaded["vm1"].records == {"vm": OTHER}
    assert loaded["vm2"].damaged[0].reason == "the file is empty"
    assert stat.S_IMODE((root / "vm1").stat().st_mode) == 0o700
    assert stat.S_IMODE((root / "vm1" / "vm.json").stat().st_mode) == 0o600
    store.remove("vm1")
    assert sorted(path.name for path in root.iterdir()) == ["vm2"]
