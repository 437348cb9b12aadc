"""`make demo` on real containers, and that nothing is left of it."""

import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "docs/demo/demo.py"
DEADLINE = 120.0


@pytest.fixture
def before() -> list[str]:
    """What lay there of other demos."""
    return left()


@pytest.fixture
def process(before, tmp_path) -> Iterator[subprocess.Popen[bytes]]:
    """The demo, which makes what it keeps in an empty directory."""
    found = subprocess.Popen(
        [sys.executable, str(DEMO), "--backend", "lxc"],
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield found
    finally:
        if found.poll() is None:
            # It clears away what it has made.
            found.terminate()
        found.communicate(timeout=DEADLINE)


def left() -> list[str]:
    """Directories, mounts, bridges and processes of demos."""
    lines = [
        *(str(path) for path in Path(tempfile.gettempdir()).glob("xenopsd-demo-*")),
        *(str(path) for path in Path("/run").glob("xenopsd-demo-*")),
        *(str(path) for path in Path("/sys/class/net").glob("xd[0-9]*")),
        *Path("/proc/self/mounts").read_text().splitlines(),
    ]
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(entry.read_bytes().decode(errors="replace"))
        except OSError:
            continue  # it has ended meanwhile
    return sorted(line for line in lines if "xenopsd-demo-" in line or "/net/xd" in line)


def test_the_demo_keeps_its_promises_and_leaves_nothing(process, before, tmp_path):
    output = process.communicate(timeout=DEADLINE)[0].decode()
    assert process.returncode == 0, output
    assert "backend lxc" in output
    assert "VM.start of ct completed, interrupted True" in output
    assert "VM.pause of ct failed: Interrupted" in output
    assert list(tmp_path.iterdir()) == []
    assert left() == before


def test_a_demo_that_is_interrupted_leaves_nothing(process, before, tmp_path):
    seen = b""
    while b"VM.start of web completed" not in seen:
        assert select.select([process.stdout], [], [], DEADLINE)[0], seen
        piece = os.read(process.stdout.fileno(), 4096)
        assert piece, seen
        seen += piece
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=DEADLINE)[0].decode()
    assert process.returncode == 130, output
    assert list(tmp_path.iterdir()) == []
    assert left() == before
