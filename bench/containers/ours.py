"""The daemon with its LXC backend: each call until its task has ended."""

import select
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from backends.lxc.apart import locks
from backends.lxc.cgroup import Cgroups
from backends.lxc.places import Names, Place
from bench.containers.ground import DEADLINE, Ground, unmount_below
from bench.load import operate
from bench.pinning import ALL
from bench.server import Daemon
from bench.wire import Connection

_INSTANCE = "default"


class Ours:
    """`bench.containers.Side`; `steps` are the subtasks of each start so far, in seconds."""

    def __init__(self, client: Connection, domains: Path) -> None:
        self.steps: list[dict[str, float]] = []
        self._client = client
        self._domains = domains

    def start(self, id: str) -> None:
        ended = self._ended("VM.start", id=id)
        self.steps.append(_steps(ended))

    def kill(self, id: str) -> None:
        self._ended("VM.shutdown", id=id)

    def shut_down(self, id: str) -> None:
        self._ended("VM.shutdown", id=id, timeout=DEADLINE)

    def start_all(self, ids: Sequence[str]) -> None:
        operate(self._client, "VM.start", ids)

    def kill_all(self, ids: Sequence[str]) -> None:
        operate(self._client, "VM.shutdown", ids)

    def pid(self, id: str) -> int:
        return int(Place(self._domains / id).init.read_text())

    def _ended(self, method: str, **params: Any) -> dict[str, Any]:
        task = self._client.call(method, **params)
        ended: dict[str, Any] = self._client.call("TASK.wait", id=task, timeout=DEADLINE)
        if ended["state"]["type"] != "completed":
            raise RuntimeError(f"{method} did not complete: {ended}")
        return ended


@contextmanager
def ours(ground: Ground, ids: Sequence[str], name: str = "us", **disk: Any) -> Iterator[Ours]:
    """VMs that can be started, for this while; `disk` is what else is said of the image."""
    directory = ground.directory / name
    domains = directory / "run" / "lxc" / _INSTANCE
    image = {"type": "local", "path": str(ground.image), "format": "directory", **disk}
    try:
        daemon = _daemon(ground, directory)
        try:
            with daemon.connect() as client:
                for id in ids:
                    metadata = _metadata(id, ground.bridge, image)
                    client.call("VM.import_metadata", metadata=metadata)
                yield Ours(client, domains)
        finally:
            daemon.process.kill()
    finally:
        _end(domains)
        shutil.rmtree(directory, ignore_errors=True)


def _daemon(ground: Ground, directory: Path) -> Daemon:
    config = ground.directory / "xenopsd.toml"
    config.write_text(f'[paths]\ndisks = ["{ground.directory}"]\n')
    return Daemon(directory, "--config", str(config), backend="lxc", cpus=ALL)


def _metadata(id: str, bridge: str, image: dict[str, Any]) -> dict[str, Any]:
    return {
        "vm": {"id": id, "guest": {"type": "container"}, "memory_static_max": 1 << 28},
        "vbds": [{"id": f"{id}/root", "position": 0, "backend": image}],
        "vifs": [{"id": f"{id}/nic", "backend": {"type": "bridge", "name": bridge}}],
    }


def _steps(task: dict[str, Any]) -> dict[str, float]:
    found = {step["name"]: step["duration"] for step in task["subtasks"]}
    return {**found, "all": sum(found.values())}


def _end(domains: Path) -> None:
    """What is left of containers, also where the daemon was cut off: processes, control groups,
    mounts; interfaces go with their namespaces."""
    run = domains.parent
    until = time.monotonic() + DEADLINE
    while locks.held(str(run / f".{domains.name}.jobs")) and time.monotonic() < until:
        select.select([], [], [], 0.005)  # what the daemon was at
    names = Names(run, domains.name)
    groups = Cgroups.found()
    for place in domains.iterdir() if domains.is_dir() else ():
        group = groups.group(names.group(place.name))
        group.kill(time.monotonic() + DEADLINE)
        group.remove(time.monotonic() + DEADLINE)
    groups.group(names.group()).remove(time.monotonic() + 1.0)
    with suppress(FileNotFoundError):
        unmount_below(run)
