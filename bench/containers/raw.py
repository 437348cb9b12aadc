"""liblxc's own programs: `lxc-start`, which returns once the container runs, and `lxc-stop`.

The configuration is what the daemon would write, as far as it makes a container what it is: an
id map of its own, an id-mapped root directory, limits, dropped capabilities, the same seccomp
policy, a veth on the bridge. `lean` is without limits, capabilities and policy.
"""

import os
import select
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from backends.lxc import config, limits
from backends.lxc.cgroup import Cgroups
from backends.lxc.plugin import IDS
from bench.containers.ground import DEADLINE, Ground, run

#: Ranges of ids that no daemon gives away by default.
FIRST_ID = 2_684_354_560
MEMORY = 1 << 28
PIDS = 4096


class Raw:
    """`bench.containers.Side`."""

    def __init__(self, ground: Ground, name: str) -> None:
        self._path = ground.directory / name
        self._lean = name == "lean"
        # As root lxc-start would ask newuidmap, if it saw it, for ids that are root's anyway.
        self._environ = {"PATH": str(self._path / "no-programs")}

    def add(self, ground: Ground, ids: Sequence[str]) -> None:
        """Make their configurations."""
        for number, id in enumerate(ids):
            place = self._path / id
            place.mkdir(parents=True)
            (place / "seccomp").write_text(config.seccomp())
            lines = [*_lean(ground, id, FIRST_ID + number * IDS)]
            if not self._lean:
                lines += _confined(place / "seccomp", number)
            text = "".join(f"{key} = {value}\n" for key, value in lines)
            (place / "config").write_text(text)

    def start(self, id: str) -> None:
        run(self._start(id), self._environ)

    def kill(self, id: str) -> None:
        run(self._stop(id, "--kill"), self._environ)

    def shut_down(self, id: str) -> None:
        run(self._stop(id, "--nokill", f"--timeout={DEADLINE:.0f}"), self._environ)

    def start_all(self, ids: Sequence[str]) -> None:
        self._each([self._start(id) for id in ids])

    def kill_all(self, ids: Sequence[str]) -> None:
        self._each([self._stop(id, "--kill") for id in ids])

    def pid(self, id: str) -> int:
        return int(run([*self._program("lxc-info"), "-n", id, "-p", "-H"]))

    def close(self, ids: Sequence[str]) -> None:
        """Stop what runs, and wait for the monitors, which remove their control groups."""
        for id in ids:
            monitor = self._monitor(id)
            if monitor is None:
                continue
            with suppress(RuntimeError):  # it has stopped
                self.kill(id)
            select.select([monitor], [], [], DEADLINE)
            os.close(monitor)

    def _start(self, id: str) -> list[str]:
        pid = str(self._path / id / "pid")
        return [*self._program("lxc-start"), "-n", id, "-d", "-p", pid]

    def _stop(self, id: str, *options: str) -> list[str]:
        return [*self._program("lxc-stop"), "-n", id, *options]

    def _program(self, name: str) -> list[str]:
        return [shutil.which(name) or name, "-P", str(self._path)]

    def _each(self, commands: Iterable[Sequence[str]]) -> None:
        environ = {**os.environ, **self._environ}
        quiet = subprocess.DEVNULL
        # None of them is left behind, whatever another one does.
        begun = [
            subprocess.Popen(c, env=environ, stdin=quiet, stdout=quiet, stderr=quiet)
            for c in commands
        ]
        codes = [process.wait(DEADLINE) for process in begun]
        if any(codes):
            raise RuntimeError(f"{begun[0].args!r} and the like: exit codes {sorted(set(codes))}")

    def _monitor(self, id: str) -> int | None:
        """A pidfd; None where there is none."""
        with suppress(OSError, ValueError):
            pid = int((self._path / id / "pid").read_text())
            monitor = os.pidfd_open(pid)
            # The number may be another's by now.
            if str(self._path) in Path(f"/proc/{pid}/cmdline").read_text():
                return monitor
            os.close(monitor)
        return None


@contextmanager
def raw(ground: Ground, ids: Sequence[str], *, lean: bool = False) -> Iterator[Raw]:
    """Containers that can be started, for this while."""
    side = Raw(ground, "lean" if lean else "raw")
    side.add(ground, ids)
    try:
        yield side
    finally:
        side.close(ids)


def _lean(ground: Ground, id: str, first_id: int) -> Iterator[tuple[str, str]]:
    yield "lxc.uts.name", id
    yield "lxc.rootfs.path", f"dir:{ground.image}"
    yield "lxc.rootfs.options", "idmap=container"
    for kind in "ug":
        yield "lxc.idmap", f"{kind} 0 {first_id} {IDS}"
    yield "lxc.net.0.type", "veth"
    yield "lxc.net.0.link", ground.bridge
    yield "lxc.net.0.flags", "up"
    yield "lxc.mount.auto", "proc:mixed sys:mixed cgroup:mixed"
    yield "lxc.tty.max", "0"


def _confined(policy: Path, number: int) -> Iterator[tuple[str, str]]:
    yield "lxc.cap.drop", " ".join(config.DROPPED)
    yield "lxc.seccomp.profile", str(policy)
    online = sorted(os.sched_getaffinity(0))
    one = limits.cpus_for(1, [], online, spread=number)
    wanted = limits.Limits(memory=MEMORY, cpus=one, pids=PIDS)
    yield from limits.config(wanted, Cgroups.found().controllers)
