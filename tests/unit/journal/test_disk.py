import os
import stat

import pytest

from journal.disk import (
    RealDisk,
    is_temporary,
    name_aside,
    remove_leftover,
    replace_file,
    temporary_of,
)

DISK = RealDisk()


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_appends_land_at_the_end_wherever_the_file_was_cut(tmp_path):
    path = tmp_path / "log"
    file = DISK.open_append(path)
    assert file.write(b"one\ntwo\n") == 8
    file.truncate(4)
    file.write(b"three\n")
    file.fsync()
    file.close()
    assert DISK.read(path) == b"one\nthree\n"
    assert mode(path) == 0o600


def test_opening_keeps_the_content_unless_told(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"old")
    DISK.open_append(path).close()
    assert DISK.read(path) == b"old"
    DISK.open_append(path, empty=True).close()
    assert DISK.read(path) == b""


def test_a_descriptor_is_not_inherited_and_closed_once(tmp_path):
    file = DISK.open_append(tmp_path / "log")
    assert not os.get_inheritable(file._fd)
    file.close()
    file.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.write(b"x")


def test_chunks_make_up_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr("journal.disk.CHUNK", 7)
    path = tmp_path / "log"
    path.write_bytes(bytes(range(100)))
    chunks = list(DISK.chunks(path))
    assert len(chunks) == 15
    assert b"".join(chunks) == DISK.read(path) == bytes(range(100))


def test_directories_are_private_and_made_with_their_parents(tmp_path):
    path = tmp_path / "a" / "b"
    DISK.mkdir(path)
    DISK.mkdir(path)
    assert mode(path) == 0o700
    assert DISK.is_directory(path)
    DISK.fsync_dir(path)
    (path / "file").write_bytes(b"")
    assert not DISK.is_directory(path / "file")
    assert DISK.names(tmp_path / "a") == ["b"]
    DISK.rmtree(tmp_path / "a")
    assert not DISK.exists(tmp_path / "a")


def test_a_link_is_a_second_name_and_never_replaces(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    DISK.link(one, two)
    assert two.read_bytes() == b"1"
    with pytest.raises(FileExistsError):
        DISK.link(one, two)
    DISK.remove(one)
    DISK.remove(one)
    assert DISK.names(tmp_path) == ["two"]


@pytest.mark.parametrize("durable", [False, True])
def test_replacing_leaves_the_new_content_and_nothing_else(tmp_path, durable):
    path = tmp_path / "file"
    for content in (b"old", b"new" * 1000):
        replace_file(DISK, path, content, durable=durable)
        assert path.read_bytes() == content
    assert DISK.names(tmp_path) == ["file"]
    assert mode(path) == 0o600


def test_a_temporary_file_is_known_by_its_name(tmp_path):
    assert is_temporary(temporary_of(tmp_path / "vm.json").name)
    assert not is_temporary("vm.json")
    assert not is_temporary(".tmp-of-mine")


def test_a_name_aside_is_always_free(tmp_path):
    path = tmp_path / "vm.json"
    names = []
    for _ in range(3):
        aside = name_aside(DISK, path)
        aside.write_bytes(b"")
        names.append(aside.name)
    assert names == ["vm.json.damaged-1", "vm.json.damaged-2", "vm.json.damaged-3"]


@pytest.mark.parametrize("fault", ["open", "write", "fsync", "rename"])
def test_a_failing_replacement_leaves_the_old_content(disk, disks, fault):
    path = disks.Path("/state/file")
    disk.put(path, b"old")
    disk.faults[fault] = 5
    with pytest.raises(OSError, match="EIO"):
        replace_file(disk, path, b"new", durable=True)
    assert disk.read(path) == b"old"
    assert disk.names(path.parent) == ["file"]
    assert disk.open_files == 0


def test_a_leftover_that_cannot_be_removed_is_left(disk, disks):
    path = disks.Path("/state/.file.tmp")
    disk.put(path, b"x")
    disk.faults["remove"] = 30
    remove_leftover(disk, path)
    assert disk.exists(path)
