"""A program on a pseudo-terminal: its keys typed, its words waited for."""

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

DEADLINE = 30.0

ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[=>()][A-Z0-9]?)")


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *argv: str | Path, env: dict[str, str], columns: int = 120) -> None:
        self.master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.process = subprocess.Popen(
            # It makes the terminal its own, so that Ctrl-C reaches it.
            ["setsid", "--ctty", *map(str, argv)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**_inherited(), "TERM": "xterm-256color", **env},
        )
        os.close(slave)
        self.raw = ""

    @property
    def text(self) -> str:
        """What it has said, without colours and movements."""
        return ESCAPES.sub("", self.raw)

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def until(self, wanted: str | Callable[[], object]) -> str:
        """What it has said, once that is in it (or holds)."""
        there = (lambda: wanted in self.text) if isinstance(wanted, str) else wanted
        deadline = time.monotonic() + DEADLINE
        while not there():
            assert self._read(deadline), f"never came: {wanted}\n{self.text}"
        return self.text

    def end(self) -> int:
        """Its exit status, once it has ended by itself and said everything."""
        deadline = time.monotonic() + DEADLINE
        while self._read(deadline):
            pass
        return self.process.wait(DEADLINE)

    def _read(self, deadline: float) -> bool:
        """False at the end of what it says."""
        ready, _, _ = select.select([self.master], [], [], max(deadline - time.monotonic(), 0))
        assert ready, f"it says nothing more and does not end: {self.text}"
        try:
            said = os.read(self.master, 1 << 16)
        except OSError:
            return False
        self.raw += said.decode(errors="replace")
        return bool(said)

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)
        os.close(self.master)


def _inherited() -> dict[str, str]:
    """The environment, without the size of another terminal."""
    return {name: v for name, v in os.environ.items() if name not in ("COLUMNS", "LINES")}
