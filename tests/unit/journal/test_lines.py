import errno
from pathlib import Path

import pytest

from journal.errors import JournalUnwritable
from journal.lines import LineFile

PATH = Path("/state/log")


@pytest.fixture
def file(disk):
    file = LineFile(disk, PATH)
    file.append(b"one\n", durable=False)
    return file


@pytest.mark.parametrize(
    ("fault", "number", "durable"),
    [
        pytest.param("write", errno.ENOSPC, False, id="full"),
        pytest.param("write", errno.EROFS, False, id="read-only"),
        pytest.param("write", errno.EIO, False, id="broken"),
        pytest.param("fsync", errno.EIO, True, id="fsync fails"),
        pytest.param("fsync_dir", errno.EIO, True, id="fsync of the directory fails"),
    ],
)
def test_a_failing_append_leaves_nothing(disk, file, fault, number, durable):
    disk.faults[fault] = number
    with pytest.raises(JournalUnwritable) as failure:
        file.append(b"two\n", durable=durable)
    assert failure.value.path == PATH
    assert errno.errorcode[number] in failure.value.reason
    assert disk.read(PATH) == b"one\n"
    assert file.length == 4


def test_a_short_write_is_cut_back(disk, file):
    disk.space = 2
    with pytest.raises(JournalUnwritable, match="only a part"):
        file.append(b"two\n", durable=False)
    assert disk.read(PATH) == b"one\n"
    disk.space = None
    file.append(b"two\n", durable=False)
    assert disk.read(PATH) == b"one\ntwo\n"


def test_what_could_not_be_cut_is_cut_before_the_next_append(disk, file):
    disk.space = 2
    disk.faults["truncate"] = errno.EIO
    with pytest.raises(JournalUnwritable):
        file.append(b"two\n", durable=False)
    assert disk.read(PATH) == b"one\ntw"
    disk.space = None
    with pytest.raises(JournalUnwritable, match="EIO"):
        file.append(b"three\n", durable=False)
    assert disk.read(PATH) == b"one\ntw"
    disk.faults.clear()
    file.append(b"four\n", durable=False)
    assert disk.read(PATH) == b"one\nfour\n"


def test_after_a_failed_fsync_no_append_is_believed(disk, file):
    disk.faults["fsync"] = errno.EIO
    with pytest.raises(JournalUnwritable):
        file.append(b"two\n", durable=True)
    disk.faults.clear()
    for durable in (False, True):
        with pytest.raises(JournalUnwritable, match="an fsync of this file has failed"):
            file.append(b"three\n", durable=durable)
    assert disk.read(PATH) == b"one\n"


def test_a_file_made_anew_is_believed_again(disk, file):
    disk.faults["fsync"] = errno.EIO
    with pytest.raises(JournalUnwritable):
        file.append(b"two\n", durable=True)
    disk.faults.clear()
    file.empty(durable=False)
    file.append(b"three\n", durable=True)
    disk.power_cut(lambda n: 0)
    assert disk.read(PATH) == b"three\n"


def test_the_first_durable_append_makes_the_name_durable(disk, file):
    file.append(b"two\n", durable=True)
    disk.power_cut(lambda n: 0)
    assert disk.read(PATH) == b"one\ntwo\n"


@pytest.mark.parametrize(
    ("durable", "left"),
    [pytest.param(False, b"one\n", id="not"), pytest.param(True, b"", id="is")],
)
def test_emptying_is_durable_when_told(disk, file, durable, left):
    file.append(b"", durable=True)
    file.empty(durable=durable)
    assert disk.read(PATH) == b""
    disk.power_cut(lambda n: 0)
    assert disk.read(PATH) == left


def test_a_failing_emptying_is_told(disk, file):
    disk.faults["truncate"] = errno.EROFS
    with pytest.raises(JournalUnwritable, match="EROFS"):
        file.empty(durable=False)
    disk.faults.clear()
    file.append(b"two\n", durable=False)
    assert disk.read(PATH) == b"one\ntwo\n"


def test_closing_gives_the_descriptor_back_until_the_next_append(disk, file):
    assert disk.open_files == 1
    file.close()
    assert disk.open_files == 0
    file.append(b"two\n", durable=False)
    assert disk.read(PATH) == b"one\ntwo\n"
    assert disk.open_files == 1


def test_adopting_a_ragged_file_cuts_it(disk):
    disk.put(PATH, b"one\ntw")
    file = LineFile(disk, PATH)
    file.adopt(4, ragged=True)
    assert disk.read(PATH) == b"one\n"


def test_a_removed_file_begins_anew(disk, file):
    file.remove()
    assert not disk.exists(PATH)
    file.append(b"two\n", durable=True)
    disk.power_cut(lambda n: 0)
    assert disk.read(PATH) == b"two\n"


def test_a_file_that_cannot_be_removed_is_told(disk, file):
    disk.faults["remove"] = errno.EROFS
    with pytest.raises(JournalUnwritable, match="EROFS"):
        file.remove()
