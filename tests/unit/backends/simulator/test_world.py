import fcntl
import os
import threading

import pytest
from msgspec.structs import replace

from backends.simulator.record import Record
from backends.simulator.world import PAGE, prepare, reboot
from idl.errors import HypervisorError

RECORD = Record(id="1", name="vm1", created=0.0, vm="vm1")


@pytest.fixture
def world(tmp_path):
    world = prepare(tmp_path / "world")
    yield world
    world.close()


def _write(world, vm, record):
    with world.hold(vm, make=True) as held:
        held.write(record)


def test_what_is_written_is_read(world):
    _write(world, "vm1", RECORD)
    assert world.read("vm1") == RECORD
    assert list(world.records()) == [RECORD]


def test_a_missing_file_is_no_domain_and_is_not_made(world):
    with world.hold("vm1") as held:
        assert held.record is None
        held.write(RECORD)
    assert world.read("vm1") is None
    assert list(world.records()) == []


def test_a_file_is_written_in_place(world):
    _write(world, "vm1", RECORD)
    path = world.path / "domains" / "vm1.json"
    inode = path.stat().st_ino
    _write(world, "vm1", replace(RECORD, name="x" * 100))
    _write(world, "vm1", RECORD)
    _write(world, "vm1", None)
    assert path.stat().st_ino == inode
    assert world.read("vm1") is None


def test_a_record_beyond_a_page_is_replaced_whole_and_shrinks_again(world):
    large = replace(RECORD, name="x" * (3 * PAGE))
    for record in (RECORD, large, replace(large, name="y" * (2 * PAGE)), RECORD):
        _write(world, "vm1", record)
        assert world.read("vm1") == record
    assert (world.path / "domains" / "vm1.json").stat().st_size <= PAGE


def test_two_writes_under_one_lock_both_count(world):
    with world.hold("vm1", make=True) as held:
        held.write(replace(RECORD, name="x" * (2 * PAGE)))
        held.write(RECORD)
    assert world.read("vm1") == RECORD


def test_a_damaged_file_is_told_of_and_never_taken_for_none(world):
    _write(world, "vm1", RECORD)
    path = world.path / "domains" / "vm1.json"
    path.write_bytes(path.read_bytes().replace(b'"vm1"', b'"vm2"'))
    for look in (lambda: world.read("vm1"), lambda: list(world.records())):
        with pytest.raises(HypervisorError, match=r"vm1\.json"):
            look()


def test_changes_of_many_threads_are_all_there(world):
    _write(world, "vm1", RECORD)

    def add(name):
        for n in range(50):
            with world.hold("vm1") as held:
                held.write(replace(held.record, xsdata={**held.record.xsdata, f"{name}{n}": ""}))

    threads = [threading.Thread(target=add, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(world.read("vm1").xsdata) == 150


def test_who_waited_for_a_file_that_was_replaced_changes_the_new_one(world):
    _write(world, "vm1", RECORD)
    path = world.path / "domains" / "vm1.json"
    waited = threading.Thread(target=_write, args=(world, "vm1", replace(RECORD, name="last")))
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        waited.start()
        path.with_name(".new").write_bytes(path.read_bytes())
        os.replace(path.with_name(".new"), path)  # noqa: PTH105  # as a process beside does
    waited.join()
    assert world.read("vm1").name == "last"


def test_domain_ids_are_given_once_even_over_a_restart(world, tmp_path):
    ids = [world.allot_domain_id() for _ in range(12)]
    again = prepare(tmp_path / "world")
    ids.append(again.allot_domain_id())
    again.close()
    assert [int(id) for id in ids] == sorted({int(id) for id in ids})


def test_the_boot_id_lasts_until_the_host_reboots(world, tmp_path):
    before = world.boot_id()
    _write(world, "vm1", RECORD)
    highest = int(world.allot_domain_id())
    world.reboot()
    again = prepare(tmp_path / "world")
    assert again.boot_id() != before
    assert list(again.records()) == []
    assert int(again.allot_domain_id()) > highest
    again.close()


def test_what_is_written_during_the_reboot_is_gone_too(world, tmp_path):
    world.reboot()
    _write(world, "vm1", RECORD)
    again = prepare(tmp_path / "world")
    assert again.read("vm1") is None
    again.close()


def test_a_reboot_cut_short_is_finished_by_the_next_opening(world, tmp_path):
    path = tmp_path / "world"
    before = world.boot_id()
    _write(world, "vm1", RECORD)
    (path / ".dead").mkdir()
    (path / "plugged").rename(path / ".dead" / "plugged")
    again = prepare(path)
    assert again.boot_id() != before
    assert again.read("vm1") is None
    assert not (path / ".dead").exists()
    again.close()


def test_a_rebooted_world_can_reboot_again(world, tmp_path):
    reboot(tmp_path / "world")
    reboot(tmp_path / "world")
    prepare(tmp_path / "world").close()


def test_a_closed_world_refuses(world):
    world.close()
    with pytest.raises(OSError, match="descriptor"):
        world.read("vm1")
