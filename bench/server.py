"""Servers under measurement: the daemon, and any other process.

They are started on the servers' CPU where nothing else is said, killed at the end, and leave
nothing.
"""

import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bench.pinning import SERVER, pinned
from bench.wire import Connection

DEADLINE = 60.0
ROOT = Path(__file__).parent.parent


class Process:
    """A server as a process of its own."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environ: Mapping[str, str] | None = None,
        cpus: frozenset[int] = SERVER,
    ) -> None:
        self.log = log
        with pinned(cpus), log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**_clean_environ(), **(environ or {})},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def say(self) -> bytes:
        """Its next line on standard output; RuntimeError with its log where it says none."""
        output = self._output()
        ready, _, _ = select.select([output], [], [], DEADLINE)
        line = output.readline() if ready else b""
        if not line:
            raise RuntimeError(f"it did not start; its log ends so:\n{self.tail()}")
        return line

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-2000:]

    def rss(self) -> float:
        """Its resident memory, in MB (1,000,000 bytes)."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.alive:
            self._process.kill()
        self._process.wait(DEADLINE)
        self._output().close()

    def _output(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout


class Daemon:
    """xenopsd, with its simulator where nothing else is said, in a directory of its own; it may
    be started many times."""

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        backend: str = "simulator",
        cpus: frozenset[int] = SERVER,
    ) -> None:
        self.directory = directory
        self._cpus = cpus
        self.socket = directory / "run" / "default.sock"
        places = ["--state-dir", str(directory / "state"), "--run-dir", str(directory / "run")]
        self._command = [
            *(sys.executable, "-m", "xenopsd", "--backend", backend),
            *(*places, *arguments),
        ]
        directory.mkdir(parents=True)
        self.process = self.spawn()
        self.process.say()
        self.wait_recovered()

    def spawn(self) -> Process:
        """Start it, and do not wait for it."""
        self.process = Process(self._command, self.directory / "log", cpus=self._cpus)
        return self.process

    def connect(self) -> Connection:
        return Connection(self.socket)

    def connect_at_once(self, deadline: float = DEADLINE) -> Connection:
        """Connect as soon as its socket answers."""
        until = time.monotonic() + deadline
        while True:
            try:
                return Connection(self.socket)
            except OSError:
                if time.monotonic() > until or not self.process.alive:
                    raise
                select.select([], [], [], 0.001)

    def wait_recovered(self, deadline: float = DEADLINE) -> None:
        """Wait until every repair has ended; TimeoutError past the deadline."""
        until = time.monotonic() + deadline
        with self.connect() as client:
            while client.call("HOST.query")["recovering"]:
                if time.monotonic() > until:
                    raise TimeoutError(f"it has not recovered in {deadline} s")
                select.select([], [], [], 0.005)

    def remove(self) -> None:
        """Kill it, and remove its directory."""
        self.process.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


@contextmanager
def serving(directory: Path, *arguments: str) -> Iterator[Daemon]:
    """A daemon for this while."""
    daemon = Daemon(directory, *arguments)
    try:
        yield daemon
    finally:
        daemon.remove()


def _clean_environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("XENOPS")}
