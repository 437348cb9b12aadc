"""Which CPU a process runs on: every server on the first one, every client on the last.

So each server, ours or another's, has one CPU for all its threads, and no client takes time from
it. On a machine with one CPU they share it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_CPUS = sorted(os.sched_getaffinity(0))
SERVER = frozenset(_CPUS[:1])
CLIENT = frozenset(_CPUS[-1:])
ALL = frozenset(_CPUS)


@contextmanager
def pinned(cpus: frozenset[int]) -> Iterator[None]:
    """This thread, and every process that it starts meanwhile, on these CPUs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def described() -> str:
    """In words."""
    if SERVER == CLIENT:
        return "servers and clients share the one CPU"
    return f"servers on CPU {min(SERVER)}, clients on CPU {min(CLIENT)}, of {len(_CPUS)}"
