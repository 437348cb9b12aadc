"""Processes of this test's own."""

import os
import select
import subprocess
import sys
import time

from backends.lxc.apart.processes import cannot_be_stopped, executed


def test_a_fork_that_runs_no_program_is_not_executed():
    assert executed(os.getpid())
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    try:
        assert not executed(child)
    finally:
        os.close(reading)
        os.close(writing)
        os.waitpid(child, 0)
    assert not executed(child)


def test_who_waits_for_a_child_of_its_vfork_cannot_be_stopped(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    # The child opens it before it executes anything, and nobody else has it open yet.
    opens = f"(os.POSIX_SPAWN_OPEN, 9, {str(tmp_path / 'fifo')!r}, os.O_RDONLY, 0)"
    spawns = f"import os; os.posix_spawn('/bin/true', ['true'], {{}}, file_actions=[{opens}])"
    with subprocess.Popen([sys.executable, "-c", spawns]) as parent:
        deadline = time.monotonic() + 20.0
        while not cannot_be_stopped(parent.pid):
            assert parent.poll() is None and time.monotonic() < deadline
            select.select([], [], [], 0.01)
        assert not cannot_be_stopped(os.getpid())
        os.close(os.open(tmp_path / "fifo", os.O_WRONLY))
        assert parent.wait(20.0) == 0
    assert not cannot_be_stopped(parent.pid)
