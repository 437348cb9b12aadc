"""Jobs in processes of their own: what they cost when they hang, die, or lose their server."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from crash.containers.world import children

from backends.lxc.apart import locks
from backends.lxc.spawner import Spawner
from idl.errors import Cancelled, DeadlineExceeded

LIMIT = 30.0

#: Traces a process (PTRACE_SEIZE), and lets it go when it is killed.
HOLDS = """
import ctypes, sys
ptrace = ctypes.CDLL(None).ptrace
print(ptrace(0x4206, int(sys.argv[1]), None, None), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def lock(tmp_path) -> Path:
    return tmp_path / "run" / "jobs"


@pytest.fixture
def spawner(lock) -> Iterator[Spawner]:
    found = Spawner(lock)
    found.open(LIMIT)
    yield found
    found.close()


def soon(seconds: float = LIMIT) -> float:
    return time.monotonic() + seconds


def version(spawner: Spawner) -> str:
    return spawner.run("liblxc_version", owner="web", deadline=soon())


@pytest.fixture
def endless(tmp_path) -> Iterator[dict[str, str]]:
    """What a job is asked that does not come to its end: it waits for a lock of ours."""
    directory = tmp_path / "locked"
    directory.mkdir()
    fd = os.open(directory, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield {"job": "own_mounts", "owner": "web", "directory": str(directory)}
    os.close(fd)


def server(lock: Path) -> int:
    pid = int(lock.read_text())
    assert locks.held(str(lock))
    return pid


def test_a_job_answers(spawner):
    assert version(spawner)[0].isdigit()


def test_what_a_job_is_refused_it_tells(spawner, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Not a directory|File exists") as refused:
        spawner.run(
            "own_mounts", owner="web", deadline=soon(), directory=str(tmp_path / "file" / "d")
        )
    assert refused.value.errno in (errno.ENOTDIR, errno.EEXIST)


def test_a_job_is_given_up_at_its_deadline(spawner, endless):
    with pytest.raises(DeadlineExceeded):
        spawner.run(**endless, deadline=soon(0.2))
    assert version(spawner)


def test_an_interrupted_job_is_cancelled(spawner, endless):
    told: list[BaseException] = []

    def wait() -> None:
        try:
            spawner.run(**endless, deadline=soon())
        except Cancelled as error:
            told.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    deadline = soon()
    while thread.is_alive() and time.monotonic() < deadline:
        spawner.interrupt("web")
        thread.join(0.01)
    assert len(told) == 1


def test_a_job_of_another_owner_is_not_interrupted(spawner):
    spawner.interrupt("db")
    assert version(spawner)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_server_that_dies_or_hangs_is_replaced(spawner, lock, how):
    old = server(lock)
    os.kill(old, how)
    # One that hangs has forked the process of one more job before.
    assert version(spawner)
    assert version(spawner)
    assert server(lock) != old


@pytest.fixture
def held(spawner, lock) -> Iterator[int]:
    """A server whose end comes only when another process has seen it."""
    pid = server(lock)
    with subprocess.Popen(
        [sys.executable, "-I", "-c", HOLDS, str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as tracer:
        assert tracer.stdout is not None
        assert tracer.stdout.readline() == b"0\n"
        yield pid
        tracer.kill()


def test_a_server_that_cannot_end_is_not_waited_for(spawner, held, monkeypatch):
    monkeypatch.setattr("backends.lxc.spawner.END", 0.1)
    closing = threading.Thread(target=spawner.close, daemon=True)
    closing.start()
    closing.join(LIMIT)
    assert not closing.is_alive()
    assert os.waitid(os.P_PID, held, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def test_a_process_that_dies_before_it_has_a_job_is_replaced(spawner, lock, eventually):
    own = server(lock)
    for _ in range(3):
        eventually(lambda: len(children(own)) == 1)
        os.kill(children(own)[0], signal.SIGKILL)
        assert version(spawner)
    assert server(lock) == own


def test_no_process_stays_of_jobs_that_have_ended(spawner, lock, eventually):
    for _ in range(5):
        version(spawner)
    # The one that waits for the next job.
    eventually(lambda: len(children(server(lock))) == 1)


def test_a_new_daemon_ends_what_the_former_one_left(spawner, lock, endless):
    """Also a server that stands still, and a job that does."""
    old = server(lock)
    job = spawner.start(**endless)
    os.kill(old, signal.SIGSTOP)
    with job:
        later = Spawner(lock)
        later.open(LIMIT)
        try:
            assert version(later)
            assert server(lock) != old
        finally:
            later.close()


def test_nothing_is_left_open(lock):
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    found = Spawner(lock)
    found.open(LIMIT)
    for _ in range(20):
        version(found)
    found.close()
    assert descriptors() == before
    assert not locks.held(str(lock))
