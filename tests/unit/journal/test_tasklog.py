import errno
import threading
from pathlib import Path

import pytest
from msgspec import Raw

from journal.disk import RealDisk
from journal.errors import JournalUnwritable
from journal.records import Accepted, Destroyed, Ended
from journal.tasklog import LoadedTasks, TaskLog

PATH = Path("/state/tasks")


def accepted(task, created=1.0):
    return Accepted(
        id=task,
        call=Raw(b'{"method":"VM.start","params":{"id":"vm1"}}'),
        vm="vm1",
        operation="VM.start",
        object="vm1",
        debug_info=None,
        created=created,
    )


def ended(task):
    return Ended(id=task, task=Raw(b'{"id":"%b"}' % task.encode()))


@pytest.fixture
def log(disk):
    log = TaskLog(disk, PATH, keep=3)
    log.load()
    return log


def loaded(disk, keep=3):
    return TaskLog(disk, PATH, keep=keep).load()


def test_a_log_that_never_was_is_empty(disk):
    assert loaded(disk) == LoadedTasks({}, {}, ())
    assert not disk.exists(PATH)


def test_tasks_are_open_until_they_have_ended(disk, log):
    log.append([accepted("a"), accepted("b"), accepted("c")])
    log.append([ended("c"), ended("a")])
    tasks = loaded(disk)
    assert tasks.open == {"b": accepted("b")}
    assert list(tasks.ended.items()) == [
        ("c", (accepted("c"), ended("c"))),
        ("a", (accepted("a"), ended("a"))),
    ]


def test_only_the_newest_ended_ones_are_kept(disk, log):
    log.append([accepted("open")])
    for task in "abcde":
        log.append([accepted(task), ended(task)])
    tasks = loaded(disk)
    assert list(tasks.ended) == ["c", "d", "e"]
    assert list(tasks.open) == ["open"]


def test_a_destroyed_task_is_forgotten_and_its_id_free(disk, log):
    log.append([accepted("a"), ended("a"), Destroyed(id="a")])
    assert loaded(disk) == LoadedTasks({}, {}, (), frozenset({"a"}))
    log.append([accepted("a", created=2.0)])
    assert loaded(disk).gone == frozenset()
    assert loaded(disk).open == {"a": accepted("a", created=2.0)}
    log.append([ended("a")])
    assert loaded(disk).ended == {"a": (accepted("a", created=2.0), ended("a"))}


def test_an_end_whose_beginning_is_lost_is_kept(disk, log):
    log.append([ended("a"), ended("a")])
    assert loaded(disk).ended == {"a": (None, ended("a"))}


def test_a_batch_is_one_write(disk, log, monkeypatch):
    log.append([accepted("a")])
    before = len(disk.file(PATH).versions)
    log.append([accepted("b"), ended("a"), ended("b")])
    assert len(disk.file(PATH).versions) == before + 1


def test_an_empty_batch_is_nothing(disk, log):
    log.append([])
    assert loaded(disk) == LoadedTasks({}, {}, ())


def test_a_batch_that_failed_never_was(disk, log):
    log.append([accepted("a")])
    disk.space = 300
    with pytest.raises(JournalUnwritable) as failure:
        log.append([accepted("b"), accepted("c")])
    assert failure.value.path == PATH
    disk.space = None
    log.append([accepted("d")])
    assert loaded(disk) == LoadedTasks({"a": accepted("a"), "d": accepted("d")}, {}, ())


def test_a_torn_last_line_is_cut_and_no_damage(disk, log):
    log.append([accepted("a")])
    whole = disk.read(PATH)
    disk.put(PATH, whole + whole[:50])
    assert loaded(disk) == LoadedTasks({"a": accepted("a")}, {}, ())
    assert disk.read(PATH) == whole


def test_damage_in_the_middle_costs_only_its_own_line(disk, log):
    log.append([accepted("a"), accepted("b"), ended("a")])
    lines = disk.read(PATH).splitlines(keepends=True)
    disk.put(PATH, lines[0] + lines[1].replace(b"VM.start", b"VM.stop_", 1) + b"\xff\n" + lines[2])
    tasks = loaded(disk)
    assert tasks.open == {}
    assert tasks.ended == {"a": (accepted("a"), ended("a"))}
    assert [number for number, _ in tasks.damaged] == [2, 3]


def test_after_loading_the_line_numbers_go_on(disk, log):
    log.append([accepted("a"), accepted("b")])
    again = TaskLog(disk, PATH, keep=3)
    again.load()
    again.append([ended("a")])
    assert disk.read(PATH).splitlines()[-1].startswith(b'{"seq":3,')


@pytest.mark.parametrize("fault", ["read", "read and rename"])
def test_a_log_that_cannot_be_read_keeps_nothing_from_starting(disk, log, fault):
    log.append([accepted("a")])
    whole = disk.read(PATH)
    disk.faults = dict.fromkeys(fault.split(" and "), errno.EIO)
    tasks = log.load()
    assert (tasks.open, tasks.damaged) == ({}, ((0, "the log cannot be read: EIO"),))
    disk.faults = {}
    if fault == "read":
        log.append([accepted("b")])
        assert disk.read(Path("/state/tasks.damaged-1")) == whole
        assert loaded(disk).open == {"b": accepted("b")}
    else:
        with pytest.raises(JournalUnwritable, match="EIO"):
            log.append([accepted("b")])
        assert disk.read(PATH) == whole


# -- compaction


def churn(log, tasks):
    for task in tasks:
        log.append([accepted(task), ended(task)])


def test_the_file_stays_bounded_and_loses_nothing(disk, log):
    log.append([accepted("open")])
    longest = 0
    for number in range(100):
        churn(log, [str(number)])
        longest = max(longest, disk.read(PATH).count(b"\n"))
    assert longest <= 4 * 3 + 2 * 1 + 2
    tasks = loaded(disk)
    assert (list(tasks.open), list(tasks.ended)) == (["open"], ["97", "98", "99"])
    assert tasks.damaged == ()
    assert disk.names(PATH.parent) == ["tasks"]
    assert disk.open_files == 1


def test_open_tasks_are_no_reason_to_compact(disk, log):
    log.append([accepted(str(number)) for number in range(200)])
    before = disk.file(PATH)
    log.append([ended("0")])
    assert disk.file(PATH) is before


def test_a_destroyed_task_does_not_come_back_by_compacting(disk, log):
    log.append([accepted("a"), ended("a"), Destroyed(id="a"), accepted("a", created=2.0)])
    churn(log, map(str, range(20)))
    assert loaded(disk).open == {"a": accepted("a", created=2.0)}


@pytest.mark.parametrize("fault", ["read", "write", "fsync", "rename"])
def test_a_failing_compaction_loses_nothing_and_fails_no_append(disk, log, fault):
    churn(log, "abcdef")
    refuse = disk.refuse

    def refuse_on_copy(operation):
        # Only the copy: the appends themselves go through.
        if operation == fault and log_is_compacting(disk):
            raise OSError(errno.ENOSPC, "ENOSPC")
        refuse(operation)

    def log_is_compacting(disk):
        return fault in {"read", "fsync", "rename"} or disk.exists(Path("/state/.tasks.tmp"))

    disk.refuse = refuse_on_copy
    churn(log, "ghi")
    disk.refuse = refuse
    tasks = loaded(disk)
    assert list(tasks.ended) == ["g", "h", "i"]
    assert len(disk.read(PATH).splitlines()) == 18
    assert disk.names(PATH.parent) == ["tasks"]
    churn(log, map(str, range(10)))
    assert list(loaded(disk).ended) == ["7", "8", "9"]
    assert len(disk.read(PATH).splitlines()) < 18


def test_a_leftover_of_a_compaction_is_cleared(disk):
    disk.put(Path("/state/.tasks.tmp"), b"half")
    loaded(disk)
    assert disk.names(PATH.parent) == []


def test_many_threads_append_whole_batches(tmp_path):
    path = tmp_path / "tasks"
    log = TaskLog(RealDisk(), path, keep=50)
    log.load()
    threads = [
        threading.Thread(target=churn, args=(log, [f"{letter}{n}" for n in range(100)]))
        for letter in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    log.close()
    tasks = TaskLog(RealDisk(), path, keep=50).load()
    assert (tasks.open, tasks.damaged) == ({}, ())
    assert len(tasks.ended) == 50
    assert all(pair[0] is not None for pair in tasks.ended.values())
