import errno
from pathlib import Path

import pytest
from msgspec import Raw

from journal.disk import RealDisk
from journal.errors import JournalDamaged, JournalUnwritable
from journal.intents import VmJournal
from journal.records import Begun, Done, Intent, encode_line
from journal.replay import OutOfOrder, parse

PATH = Path("/state/vm1.journal")
BEGUN = Begun(
    task="t1",
    operation="VM.start",
    params=Raw(b"{}"),
    boot="b1",
    incarnation=None,
    plan=Raw(b'["a"]'),
    at=1.0,
)
INTENT = Intent(step=0, name="a")


@pytest.fixture
def journal(disk):
    journal = VmJournal(disk, PATH)
    assert journal.open(rebooted=False) is None
    return journal


def reopened(disk, rebooted=False):
    journal = VmJournal(disk, PATH)
    journal.open(rebooted=rebooted)
    return journal


def test_opening_makes_no_file_and_takes_no_descriptor(disk, journal):
    assert not disk.exists(PATH)
    assert disk.open_files == 0


def test_what_was_appended_is_open_after_a_crash(disk, journal):
    journal.append(BEGUN, durable=False)
    journal.append(INTENT, durable=False)
    disk.restart()
    again = reopened(disk)
    assert again.intent == journal.intent
    assert again.intent.intended == 0
    again.append(Done(step=0), durable=False)
    assert reopened(disk).intent.done == 1


def test_after_the_end_nothing_is_open_and_the_file_is_kept(disk, journal):
    journal.append(BEGUN, durable=False)
    journal.end()
    assert journal.intent is None
    assert disk.read(PATH) == b""
    journal.append(BEGUN, durable=False)
    assert disk.read(PATH) == encode_line(1, BEGUN)
    assert disk.open_files == 1


def test_an_end_without_a_beginning_is_harmless(disk, journal):
    journal.end()
    assert reopened(disk).intent is None


def test_a_record_out_of_order_is_not_written(disk, journal):
    with pytest.raises(OutOfOrder):
        journal.append(INTENT, durable=False)
    assert not disk.exists(PATH)


def test_an_append_that_failed_never_was(disk, journal):
    journal.append(BEGUN, durable=False)
    disk.space = 10
    with pytest.raises(JournalUnwritable) as failure:
        journal.append(INTENT, durable=False)
    assert failure.value.path == PATH
    assert journal.intent.intended is None
    disk.space = None
    journal.append(INTENT, durable=False)
    assert parse(disk.read(PATH), rebooted=False).records == (BEGUN, INTENT)


def test_when_the_end_failed_the_next_begun_replaces_it(disk, journal):
    journal.append(BEGUN, durable=False)
    disk.faults["truncate"] = errno.EIO
    with pytest.raises(JournalUnwritable):
        journal.end()
    disk.faults.clear()
    journal.append(Begun(**{**fields(BEGUN), "task": "t2"}), durable=False)
    assert reopened(disk).intent.task == "t2"


def fields(record):
    return {name: getattr(record, name) for name in record.__struct_fields__}


def test_after_a_failed_fsync_the_next_begun_makes_the_file_anew(disk, journal):
    journal.append(BEGUN, durable=False)
    disk.faults["fsync"] = errno.EIO
    with pytest.raises(JournalUnwritable):
        journal.append(INTENT, durable=True)
    with pytest.raises(JournalUnwritable):
        journal.append(BEGUN, durable=True)
    assert reopened(disk).intent.begun == BEGUN
    disk.faults.clear()
    with pytest.raises(JournalUnwritable):
        journal.append(INTENT, durable=False)
    journal.append(BEGUN, durable=False)
    journal.append(INTENT, durable=True)
    disk.power_cut(lambda n: 0)
    assert parse(disk.read(PATH), rebooted=False).records == (BEGUN, INTENT)


def test_an_end_that_could_not_be_made_durable_blocks_no_later_operation(disk, journal):
    journal.append(BEGUN, durable=False)
    disk.faults["fsync"] = errno.EIO
    with pytest.raises(JournalUnwritable):
        journal.end(durable=True)
    disk.faults.clear()
    journal.append(BEGUN, durable=False)
    journal.end(durable=True)
    assert reopened(disk).intent is None


def test_a_torn_tail_is_cut_off_the_file(disk):
    whole = encode_line(1, BEGUN)
    disk.put(PATH, whole + encode_line(2, INTENT)[:20])
    journal = reopened(disk)
    assert disk.read(PATH) == whole
    assert journal.intent.begun == BEGUN
    journal.append(INTENT, durable=False)
    assert disk.read(PATH) == whole + encode_line(2, INTENT)


def test_rubbish_after_a_reboot_is_cut_off_the_file(disk):
    whole = encode_line(1, BEGUN)
    disk.put(PATH, whole + bytes(4096))
    assert reopened(disk, rebooted=True).intent.begun == BEGUN
    assert disk.read(PATH) == whole


def test_a_tail_that_cannot_be_cut_yet_does_not_hide_the_intent(disk):
    disk.put(PATH, encode_line(1, BEGUN) + b'{"seq":2')
    disk.faults["*"] = errno.EROFS
    journal = reopened(disk)
    assert journal.intent.begun == BEGUN
    with pytest.raises(JournalUnwritable, match="EROFS"):
        journal.append(INTENT, durable=False)
    disk.faults.clear()
    journal.append(INTENT, durable=False)
    assert parse(disk.read(PATH), rebooted=False).records == (BEGUN, INTENT)


def test_a_damaged_journal_is_left_as_it_is(disk):
    rubbish = encode_line(1, BEGUN) + b"rubbish\n"
    disk.put(PATH, rubbish)
    with pytest.raises(JournalDamaged) as damage:
        reopened(disk)
    assert damage.value.path == PATH
    assert damage.value.reason.startswith("line 2: ")
    assert disk.read(PATH) == rubbish


def test_a_journal_that_cannot_be_read_is_damaged(disk):
    disk.put(PATH, encode_line(1, BEGUN))
    disk.faults["read"] = errno.EIO
    with pytest.raises(JournalDamaged, match="cannot be read: EIO"):
        reopened(disk)


def test_a_damaged_journal_can_be_set_aside(disk):
    disk.put(PATH, b"rubbish\n")
    journal = VmJournal(disk, PATH)
    with pytest.raises(JournalDamaged):
        journal.open(rebooted=False)
    aside = journal.set_aside()
    assert disk.read(aside) == b"rubbish\n"
    journal.append(BEGUN, durable=True)
    assert reopened(disk).intent.begun == BEGUN


def test_setting_aside_on_a_read_only_disk_is_told(disk):
    disk.put(PATH, b"rubbish\n")
    disk.faults["*"] = errno.EROFS
    with pytest.raises(JournalUnwritable, match="EROFS"):
        VmJournal(disk, PATH).set_aside()


def test_a_discarded_journal_is_gone(disk, journal):
    journal.append(BEGUN, durable=False)
    journal.discard()
    assert not disk.exists(PATH)
    assert (journal.intent, disk.open_files) == (None, 0)
    journal.append(BEGUN, durable=False)
    assert disk.read(PATH) == encode_line(1, BEGUN)


def test_a_closed_journal_opens_itself_again(disk, journal):
    journal.append(BEGUN, durable=False)
    journal.close()
    assert disk.open_files == 0
    journal.append(INTENT, durable=False)
    assert reopened(disk).intent.intended == 0


def test_the_points_are_passed_after_an_append_and_before_an_end(disk):
    passed = []
    journal = VmJournal(
        disk, PATH, passing=lambda point: passed.append((point, len(disk.read(PATH))))
    )
    journal.open(rebooted=False)
    journal.append(BEGUN, durable=False)
    journal.end()
    length = len(encode_line(1, BEGUN))
    assert passed == [("journal:append", length), ("journal:end", length)]


def test_on_the_real_disk(tmp_path):
    path = tmp_path / "vm1.journal"
    journal = VmJournal(RealDisk(), path)
    journal.open(rebooted=False)
    journal.append(BEGUN, durable=True)
    journal.append(INTENT, durable=False)
    assert path.read_bytes() == encode_line(1, BEGUN) + encode_line(2, INTENT)
    again = VmJournal(RealDisk(), path)
    assert again.open(rebooted=True).intended == 0
    again.end(durable=True)
    assert path.read_bytes() == b""
    again.close()
    journal.close()
