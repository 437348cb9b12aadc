"""The allocator's arenas, seen from outside: each is a mapping of its own."""

import subprocess
import sys

#: Four threads at once hold memory from malloc; then malloc_info(3) tells the arenas.
PROGRAM = """
import ctypes, threading
from xenopsd import arena
if {single}:
    assert arena.single()
held = threading.Barrier(5, timeout=30)
def hold():
    kept = [bytes(2000) for _ in range(100)]
    held.wait()
    held.wait()
for _ in range(4):
    threading.Thread(target=hold).start()
held.wait()
libc = ctypes.CDLL(None)
libc.stdout = ctypes.c_void_p.in_dll(libc, "stdout")
libc.malloc_info(0, libc.stdout)
libc.fflush(None)
held.wait()
"""


def arenas(*, single: bool) -> int:
    program = PROGRAM.format(single=single)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.count("<heap nr=")


def test_threads_share_one_arena():
    assert arenas(single=True) == 1
    assert arenas(single=False) > 1
