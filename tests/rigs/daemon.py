"""The real daemon as a process of its own: started, watched, killed and looked at from outside."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from idl.client import Client
from idl.task import Task

DEADLINE = 30.0


def eventually(what: Callable[[], Any], *, deadline: float = DEADLINE, why: str = "") -> Any:
    """The first true answer of `what`; fails past the deadline."""
    until = time.monotonic() + deadline
    while True:
        found = what()
        if found:
            return found
        if time.monotonic() > until:
            raise AssertionError(f"not within {deadline} s: {why or what}")
        select.select([], [], [], 0.005)


class DaemonProcess:
    """One instance in a directory of its own; it may be started many times."""

    def __init__(self, directory: Path, *arguments: str, backend: str = "simulator") -> None:
        self.directory = directory
        self.state_dir = directory / "state"
        self.run_dir = directory / "run"
        self.socket = self.run_dir / "default.sock"
        self.readonly_socket = self.run_dir / "default-ro.sock"
        self.log = directory / "log"
        self.arguments = [
            sys.executable,
            "-m",
            "xenopsd",
            "--backend",
            backend,
            "--debug",
            "--state-dir",
            str(self.state_dir),
            "--run-dir",
            str(self.run_dir),
            *arguments,
        ]
        self.process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def world(self) -> Path:
        """The simulator's world, for looking at it from outside."""
        return self.state_dir / "simulator"

    def spawn(self, environ: Mapping[str, str] | None = None) -> None:
        """Start it, and do not wait."""
        log = self.log.open("ab")
        self.process = subprocess.Popen(
            self.arguments,
            stdout=subprocess.PIPE,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env={**_clean_environ(), **(environ or {})},
        )
        log.close()

    def start(self, environ: Mapping[str, str] | None = None) -> "DaemonProcess":
        """Start it, and wait for its one line; fails with its log when it ends before."""
        self.spawn(environ)
        assert self.process is not None
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], DEADLINE)
        line = self.process.stdout.readline() if ready else b""
        if b"ready" not in line:
            raise AssertionError(f"it did not start: {line!r}\n{self.log.read_text()[-4000:]}")
        return self

    def client(self, timeout: float = 60.0) -> Client:
        """A client on the read-write socket, which tells at once that the daemon is gone."""
        return Client(self.socket, timeout, reconnect=0.0)

    def recovered(self) -> None:
        """Wait until every repair has ended."""
        with self.client() as client:
            eventually(
                lambda: not client.host.query().recovering, why="recovery ended; see " + str(self.log)
            )

    def wait(self, deadline: float = DEADLINE) -> int:
        """Its exit status, once it has ended by itself."""
        assert self.process is not None
        status = self.process.wait(deadline)
        self._reap()
        return status

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self._reap()

    def stop(self, deadline: float = 15.0) -> int:
        """SIGTERM, and its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.wait(deadline)

    def _reap(self) -> None:
        if self.process is not None:
            self.process.wait(DEADLINE)
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process = None

    def remove(self) -> None:
        """Kill it and remove its directory."""
        self.kill()
        unmount_below(self.directory)
        shutil.rmtree(self.directory, ignore_errors=True)

    def domains(self) -> dict[str, dict[str, Any]]:
        """Every domain of the simulator's world, by file name, read as an outsider does."""
        found: dict[str, dict[str, Any]] = {}
        for path in sorted((self.world / "domains").glob("*.json")):
            found[path.stem] = json.loads(path.read_text())["domain"]
        return found


def unmount_below(directory: Path) -> None:
    """Undo every mount in there, the inner ones first. What a killed daemon has started may be
    in there for a moment longer."""
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in reversed(points):
        if Path(point).is_relative_to(directory.resolve()):
            subprocess.run(["umount", "--lazy", point], check=True)


def ended(client: Client, task: str, deadline: float = DEADLINE) -> Task:
    """The task, once it has ended."""
    until = time.monotonic() + deadline
    while True:
        found = client.task.wait(task, timeout=max(0.0, until - time.monotonic()))
        if found.ended:
            return found
        if time.monotonic() > until:
            raise AssertionError(f"task {task} has not ended: {found}")


@contextmanager
def running(directory: Path, *arguments: str) -> Iterator[DaemonProcess]:
    """A started daemon, killed and removed at the end."""
    daemon = DaemonProcess(directory, *arguments)
    try:
        yield daemon.start()
    finally:
        daemon.remove()


def _clean_environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("XENOPS")}
