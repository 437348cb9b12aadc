"""Files that processes hold locked."""

import os
import signal

from backends.lxc.apart import locks


def test_a_lock_is_had_by_one(tmp_path):
    path = str(tmp_path / "lock")
    assert not locks.held(path)
    lock = locks.take(path)
    assert lock is not None
    assert locks.take(path) is None
    os.close(lock)
    assert not locks.held(path)


def test_looking_at_a_lock_does_not_take_it(tmp_path):
    path = str(tmp_path / "lock")
    lock = locks.take(path)
    assert locks.held(path)
    assert locks.held(path)
    os.close(lock)
    again = locks.take(path)
    assert again is not None
    os.close(again)


def test_a_child_holds_what_its_parent_took(tmp_path):
    path = str(tmp_path / "lock")
    lock = locks.take(path)
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        locks.sign(lock)
        os.write(theirs, b"x")
        signal.pause()
    assert os.read(ours, 1) == b"x"
    os.close(lock)
    assert locks.held(path)
    holder = locks.holder(path)
    assert holder is not None
    os.close(holder)
    locks.kill(path)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert not locks.held(path)
    locks.kill(path)
    os.close(ours)
    os.close(theirs)


def test_the_dead_leader_of_a_session_that_lives_on_is_not_found(tmp_path):
    path = str(tmp_path / "lock")
    ours, theirs = os.pipe()
    keeper = os.fork()
    if keeper == 0:
        os.setsid()
        lock = locks.take(path)
        locks.sign(lock)
        os.close(lock)
        if os.fork() == 0:
            os.close(theirs)
            os.read(ours, 1)
        os._exit(0)
    os.close(ours)
    os.waitpid(keeper, 0)
    try:
        assert locks.holder(path) is None
    finally:
        # Its child reads the end.
        os.close(theirs)


def test_who_has_not_signed_is_not_found(tmp_path):
    path = str(tmp_path / "lock")
    lock = locks.take(path)
    assert locks.holder(path) is None
    os.close(lock)


def test_the_end_of_a_holder_is_waited_for(tmp_path):
    path = str(tmp_path / "lock")
    assert locks.await_release(path, 0.0)
    lock = locks.take(path)
    assert lock is not None
    assert not locks.await_release(path, 0.0)
    locks.sign(lock)
    assert not locks.await_release(path, 0.01)
    os.close(lock)
    assert locks.await_release(path, 0.0)
