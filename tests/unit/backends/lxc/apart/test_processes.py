"""Processes of this test's own."""

import os

from backends.lxc.apart.processes import executed


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
