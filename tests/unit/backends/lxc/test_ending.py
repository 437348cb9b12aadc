"""Word of processes that end."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from backends.lxc.apart import locks
from backends.lxc.ending import Watch
from backends.lxc.places import Place

LIMIT = 30.0


class Told:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.vms: list[str] = []

    def tell(self, vm: str) -> None:
        with self.changed:
            self.vms.append(vm)
            self.changed.notify_all()

    def times(self, count: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: len(self.vms) >= count, LIMIT)


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def watch(told):
    found = Watch(told.tell)
    yield found
    found.close()
    found.close()


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def sleeper() -> subprocess.Popen:
    return subprocess.Popen(["sleep", "1000"])


def test_a_first_process_that_ends_is_told_of(watch, told, place):
    lock = locks.take(str(place.keeper))
    locks.sign(lock)
    with sleeper() as init:
        place.init.write_text(f"{init.pid}\n")
        watch.add("web", place)
        assert told.vms == []
        init.kill()
        assert told.times(1)
        assert told.vms == ["web"]
    os.close(lock)


def test_a_console_that_ends_is_told_of(watch, told, place):
    locked = [locks.take(str(path)) for path in (place.keeper, place.console_server)]
    locks.sign(locked[0])
    with sleeper() as console:
        place.init.write_text(f"{os.getpid()}\n")
        place.console_server.write_text(str(console.pid))
        watch.add("web", place)
        console.kill()
        assert told.times(1)
        assert told.vms == ["web"]
    for lock in locked:
        os.close(lock)


def test_one_that_has_ended_before_is_told_of_at_once(watch, told, place):
    watch.add("web", place)
    assert told.vms == ["web"]


def test_nothing_watched_is_left_open(told, place):
    before = len(list(Path("/proc/self/fd").iterdir()))
    found = Watch(told.tell)
    with sleeper() as init:
        place.init.write_text(str(init.pid))
        found.add("web", place)
        found.close()
        init.kill()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_keeper_that_hangs_is_killed_once_its_container_has_ended(told, place):
    watch = Watch(told.tell, grace=0.1)
    lock = locks.take(str(place.keeper))
    pid = os.fork()
    if pid == 0:
        locks.sign(lock)
        signal.pause()
    os.close(lock)
    deadline = time.monotonic() + LIMIT
    while not place.keeper.read_text():
        assert time.monotonic() < deadline
    with sleeper() as init:
        place.init.write_text(f"{init.pid}\n")
        watch.add("web", place)
        init.kill()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert told.times(2)
    watch.close()
