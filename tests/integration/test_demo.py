"""`make demo` does what it says, and leaves nothing behind."""

import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "docs/demo/demo.py"
DEADLINE = 60.0


@contextmanager
def told() -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The demo as a process, and the directory where it makes its own."""
    workers = os.environ.get("XENOPSD_TEST_WORKERS", "4")
    with tempfile.TemporaryDirectory(prefix="xenopsd-") as name:
        process = subprocess.Popen(
            [sys.executable, str(DEMO), "--backend", "simulator", "--workers", workers],
            env={**os.environ, "TMPDIR": name, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process, Path(name)
        finally:
            process.kill()
            process.communicate()


def processes_that_name(directory: Path) -> list[str]:
    """Command lines of whatever was told of a directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes()
        except OSError:
            continue  # it has ended meanwhile
        if os.fsencode(directory) in line:
            found.append(line.decode(errors="replace"))
    return found


def test_the_demo_keeps_its_promises_and_leaves_nothing() -> None:
    with told() as (process, directory):
        output = process.communicate(timeout=DEADLINE)[0].decode()

        assert process.returncode == 0, output
        assert "VM.start of ct completed, interrupted True" in output
        assert "VM.pause of ct failed: Interrupted" in output
        assert list(directory.iterdir()) == []
        assert processes_that_name(directory) == []


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(signal.SIGINT, id="by ctrl-c"),
        pytest.param(signal.SIGTERM, id="by sigterm"),
    ],
)
def test_a_demo_that_is_interrupted_leaves_nothing(how: signal.Signals) -> None:
    with told() as (process, directory):
        assert process.stdout is not None
        seen = b""
        while b"VM.start" not in seen:
            assert select.select([process.stdout], [], [], DEADLINE)[0], seen
            seen += os.read(process.stdout.fileno(), 4096)
        process.send_signal(how)
        process.communicate(timeout=DEADLINE)

        assert process.returncode == 130
        assert list(directory.iterdir()) == []
        assert processes_that_name(directory) == []
