"""Decoders that threads build at once."""

import subprocess
import sys

import pytest

from idl.decoding import decoder
from idl.vm import VmRecord

#: Each in a process of its own: only what is built first can be built by halves.
BUILD = """
import sys, threading
from idl.calls import VmExportMetadata, VmList, VmStat
from idl.question import decoder
sys.setswitchinterval(1e-7)
record = b'{"id":"a","config":{"id":"a"},"state":{"power_state":"halted"},"pending":{}}'
metadata = b'{"vm":{"id":"a","guest":{"type":"hvm"}},"vbds":[{"id":"a/b"}]}'
work = [(VmStat, record), (VmList, b"[" + record + b"]"), (VmExportMetadata, metadata)] * 4
together = threading.Barrier(len(work))
def read(kind, text):
    together.wait()
    decoder(kind).decode(text)
threads = [threading.Thread(target=read, args=one) for one in work]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_the_same_type_has_one_decoder():
    assert decoder(VmRecord) is decoder(VmRecord)


@pytest.mark.parametrize("attempt", range(10))
def test_threads_that_read_at_once_build_whole_decoders(attempt: int):
    found = subprocess.run(
        [sys.executable, "-c", BUILD], capture_output=True, text=True, timeout=60, check=False
    )
    assert (found.returncode, found.stderr) == (0, ""), attempt
