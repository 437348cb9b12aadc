"""The daemon on one thread, over a disk in memory: it can be stopped at any byte, and looked at
at any of its kill points as a SIGKILL there would leave it.

Everything that decides what survives a crash is the real thing: executor, operations, recovery,
journal, store, task log, simulator. In place of its threads it has `InlinePool`, which takes
step after step until nothing is left to do. The world, suspend images and claims are files below
a directory (they are written past the disk), and are frozen and thawed with it.
"""

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from fakes.disk import Directory, FaultyDisk, File

import xenopsd.daemon
import xenopsd.jobs
import xenopsd.killlane
import xenopsd.recovery
from backends.interface import Backend, Settings
from backends.simulator.plugin import Plugin
from idl.calls import Call
from xenopsd import config
from xenopsd.execution import Execution
from xenopsd.inventory import Entry
from xenopsd.queues import Lease, Queues
from xenopsd.rpc.service import Caller

CALLER: Caller = mock.sentinel.caller


class InlinePool:
    """`WorkerPool` without threads. `run` takes steps until all keys are empty; while all are
    parked it moves the clock."""

    size = 1
    busy = idle = parked = queued = written_off = 0

    def __init__(self, step: Callable[[Lease[Execution]], Any], **_options: object) -> None:
        self._step = step
        self._queues: Queues[Execution] = Queues()
        self.now = 0.0

    def run(self) -> None:
        while True:
            lease = self._queues.lease(self.now)
            if lease is not None:
                self._queues.release(lease, self._step(lease), self.now)
                continue
            deadline = self._queues.next_deadline()
            if deadline is None:
                return
            self.now = max(self.now, deadline)
            self._queues.expire(self.now)

    def push(self, key: str, item: Execution, **options: Any) -> bool:
        return self._queues.push(key, item, **options)

    def wake(self, key: str) -> bool:
        return self._queues.wake(key)

    def withdraw(self, key: str, match: Callable[[Execution], bool]) -> list[Execution]:
        return self._queues.withdraw(key, match)

    def head(self, key: str) -> Execution | None:
        return self._queues.head(key)

    def snapshots(self) -> list[Any]:
        return list(self._queues)

    def deadline(self, lease: Lease[Execution], until: float | None) -> bool:
        return True


class InlineIntake:
    """`Intake` without its thread."""

    def __init__(self, tasklog: Any, bridge: Any, *, enqueue: Any, refused: Any) -> None:
        real = xenopsd.intake.Intake.__new__(xenopsd.intake.Intake)
        real._tasklog, real._bridge = tasklog, bridge
        real._enqueue, real._refused = enqueue, refused
        self._real = real

    def submit(self, execution: Execution, accepted: Any) -> None:
        self._real._take([xenopsd.intake._Item(execution, accepted)])


class InlineErrands:
    """`Errands` made at once."""

    def __init__(self, *_arguments: object) -> None:
        pass

    def send(self, call: Callable[[], None]) -> None:
        call()


class Watch:
    """`KillPoints` that tell of each point passed instead of dying there."""

    passed: Callable[[str], None] = staticmethod(lambda _point: None)

    def __init__(self, _environ: Mapping[str, str]) -> None:
        pass

    def passing(self, point: str) -> None:
        type(self).passed(point)


class InlinePlugin(Plugin):
    """The simulator, told of its guests without a listener's thread."""

    def open(self, settings: Settings) -> Backend:
        backend: Any = super().open(settings)
        backend.watch = lambda needs: setattr(backend._machine, "tell", needs)
        opened: Backend = backend
        return opened


@dataclass(frozen=True)
class Frozen:
    """What a SIGKILL leaves: the files of the disk and those beside it."""

    disk: dict[Path, bytes | None]
    beside: dict[Path, bytes | None]


@dataclass
class Host:
    """A directory and a disk on which daemon follows daemon."""

    directory: Path
    disk: FaultyDisk = field(default_factory=FaultyDisk)

    def __post_init__(self) -> None:
        self.state_dir = self.directory / "state"
        self.run_dir = self.directory / "run"
        options = {"state_dir": str(self.state_dir), "run_dir": str(self.run_dir), "debug": True}
        self.config = config.read(options, {}, root=True, file=None, backends=("simulator",))

    def freeze(self) -> Frozen:
        """What there is now."""
        return Frozen(
            dict(_files(self.disk.directory(self.state_dir), self.state_dir)),
            {
                path: path.read_bytes() if path.is_file() else None
                for path in sorted(self.directory.rglob("*"))
            },
        )

    def thaw(self, frozen: Frozen) -> None:
        """Have that again, and nothing else."""
        self.disk = type(self.disk)()
        for path, content in frozen.disk.items():
            if content is None:
                self.disk.mkdir(path)
            else:
                self.disk.put(path, content)
        for child in self.directory.iterdir():
            shutil.rmtree(child)
        for path, content in frozen.beside.items():
            if content is None:
                path.mkdir()
            else:
                path.write_bytes(content)

    def begin(self) -> None:
        """An empty host."""
        (self.state_dir / "suspend").mkdir(parents=True)
        self.run_dir.mkdir()
        self.disk.mkdir(self.state_dir)


class InlineDaemon:
    """One life of the daemon. Whatever it raises (`DiskStopped`) is its end."""

    def __init__(self, host: Host) -> None:
        self.daemon = xenopsd.daemon.Daemon(
            host.config, ("simulator", InlinePlugin()), [], disk=host.disk
        )
        self.pool: InlinePool = self.daemon._pool  # type: ignore[assignment]
        context = self.daemon._executor.context
        context.clock = lambda: self.pool.now

    def start(self) -> "InlineDaemon":
        """Load, and bring every VM into a sensible state."""
        self.daemon.recovery.load()
        self.daemon.recovery.run()
        self.pool.run()
        return self

    async def ask(self, call: Call[Any]) -> Any:
        """The answer to a call, once everything that it has set off is over."""
        answer = self.daemon._service.answer(call, CALLER)
        self.pool.run()
        return await answer if asyncio.isfuture(answer) else answer

    async def run(self, call: Call[Any]) -> Any:
        """The task of a call, as plain JSON."""
        task = await self.ask(call)
        return self.task(task)

    def task(self, id: str) -> Any:
        return json.loads(bytes(self.daemon._executor.context.tasks.encoded(id)))

    def tasks(self) -> list[str]:
        return self.daemon._executor.context.tasks.ids()

    def trigger(self, cmd: str, *args: str) -> None:
        """DEBUG.trigger of the simulator, and what follows from it."""
        backend = self.daemon.recovery.backend
        assert backend is not None
        backend.debug(cmd, list(args))
        self.pool.run()

    def entry(self, vm: str) -> Entry | None:
        return self.daemon._inventory.get(vm)

    async def close(self) -> None:
        """Let go of the world's descriptors, after what was posted to the loop has run."""
        await asyncio.sleep(0)
        if self.daemon.recovery.backend is not None:
            self.daemon.recovery.backend.close()


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, a `Daemon` has no threads, no OpenRPC document, and tells `Watch` its points."""
    with (
        mock.patch.object(xenopsd.daemon, "WorkerPool", InlinePool),
        mock.patch.object(xenopsd.daemon, "Intake", InlineIntake),
        mock.patch.object(xenopsd.daemon, "KillPoints", Watch),
        mock.patch.object(xenopsd.recovery, "start"),
        # What costs much and has no part in a recovery.
        mock.patch.object(xenopsd.daemon.openrpc, "document", return_value={}),
        mock.patch.object(xenopsd.daemon, "version", return_value="0"),
        mock.patch("backends.simulator.host.version", return_value="0"),
        mock.patch.object(xenopsd.killlane, "Errands", InlineErrands),
        mock.patch.object(xenopsd.jobs, "start", _at_once),
    ):
        yield


def _at_once(_name: str, target: Callable[..., None], *args: object) -> None:
    target(*args)


def _files(directory: Directory, path: Path) -> Iterator[tuple[Path, bytes | None]]:
    yield path, None
    for name, node in directory.entries.items():
        if isinstance(node, File):
            yield path / name, node.content
        else:
            yield from _files(node, path / name)
