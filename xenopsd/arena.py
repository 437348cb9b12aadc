"""One arena for the C library's allocator.

glibc gives every thread an arena of its own, up to eight for each CPU, and what one of them has
freed serves no other: with workers that end tasks and drop old ones in turn, resident memory
grew by half without anything being kept. Python's threads allocate one at a time anyway, so
that arenas of their own gain them nothing.
"""

import ctypes

#: `mallopt(3)`, from glibc's malloc.h.
M_ARENA_MAX = -8


def single() -> bool:
    """From now on one arena; before threads are started. False where there is no such choice."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(M_ARENA_MAX, 1))
