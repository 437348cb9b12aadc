"""The control groups of a container: looking into them, freezing, killing, limits while it runs.

liblxc makes the groups when it starts a container, in every hierarchy, below the group that the
host's first process is in; this module never makes one. It serves hosts with version 1
controllers, with version 2, and hybrid ones (version 1 controllers, and a version 2 hierarchy
with few or none). On a group that does not exist every call is nothing: whether there is a
container is asked elsewhere. Which files have which values is `backends.lxc.limits`'s.
"""

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from backends.lxc import limits
from backends.lxc.apart.descent import descend
from backends.lxc.hierarchy import Hierarchy, hierarchies
from backends.lxc.limits import Controllers, Setting
from idl.errors import DeadlineExceeded
from idl.vbd import VbdQos

#: What a read of a group answers that does not exist, or ceases to while it is read.
_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ENOTDIR})

#: How long frozen processes may take to stand still before they are killed all the same, in
#: seconds. Freezing first only makes it quicker: what forks meanwhile is killed the next time.
_STILL = 0.2

#: The components of a group's path that stay: `xenopsd/INSTANCE`. Another VM's start may be
#: making its own group in there.
_KEPT = 2


class MemoryInUse(Exception):
    """A group uses more memory than it is to have, and the kernel could not take it back."""


class Cgroups:
    """The hierarchies of this host."""

    def __init__(self, hierarchies: list[Hierarchy], *, swap: bool = True) -> None:
        self.hierarchies = tuple(hierarchies)
        self._swap = swap

    @classmethod
    def found(cls, proc: Path = Path("/proc")) -> "Cgroups":
        """Look where they are. Raises OSError."""
        mountinfo = (proc / "self/mountinfo").read_text(errors="surrogateescape")
        membership = (proc / "1/cgroup").read_text(errors="surrogateescape")
        found = [_with_controllers(tree) for tree in hierarchies(mountinfo, membership)]
        return cls(found, swap=_swap_counted(found, proc))

    @property
    def version(self) -> str:
        """v1, hybrid or v2; "none" where nothing is mounted."""
        versions = {"v2" if tree.v2 else "v1" for tree in self.hierarchies}
        return "hybrid" if len(versions) > 1 else next(iter(versions), "none")

    @property
    def controllers(self) -> Controllers:
        """What liblxc can limit here.

        On a hybrid host it leaves the version 2 controllers alone; on a version 2 host it
        filters devices without a controller.
        """
        v1 = frozenset[str]().union(*(t.controllers for t in self.hierarchies if not t.v2))
        if self.version != "v2":
            return Controllers(v1=v1, swap=self._swap)
        (tree,) = self.hierarchies
        return Controllers(v2=tree.controllers | {"devices"}, swap=self._swap)

    def group(self, path: str) -> "Group":
        """The group at a path such as `xenopsd/INSTANCE/VM/INCARNATION/c`; it need not exist."""
        return Group(path, self.hierarchies, swap=self._swap)


def _with_controllers(tree: Hierarchy) -> Hierarchy:
    if not tree.v2:
        return tree
    names = (tree.base / "cgroup.controllers").read_text().split()
    return Hierarchy(tree.base, frozenset(names), v2=True)


def _swap_counted(found: list[Hierarchy], proc: Path) -> bool:
    """Whether groups have files for swapped memory; liblxc fails on one that is not there.

    The topmost group of version 2 has none in any case, so there the kernel's swap tells.
    """
    for tree in found:
        if "memory" in tree.controllers and not tree.v2:
            return (tree.base / "memory.memsw.limit_in_bytes").exists()
    return (proc / "swaps").exists()


@dataclass(frozen=True, slots=True)
class DiskCounters:
    """What went to and from one block device since the group was made: bytes, and requests."""

    read_bytes: int = 0
    write_bytes: int = 0
    reads: int = 0
    writes: int = 0


class Group:
    """One group, which is a directory in every hierarchy."""

    def __init__(self, path: str, hierarchies: tuple[Hierarchy, ...], *, swap: bool) -> None:
        self.path = path
        self._hierarchies = hierarchies
        self._swap = swap

    @property
    def exists(self) -> bool:
        """Whether any hierarchy has it."""
        return any(directory.is_dir() for directory in self._directories)

    def children(self) -> list[str]:
        """The names of the groups right below it, in any hierarchy."""
        there = [d for d in self._directories if d.is_dir()]
        return sorted({child.name for d in there for child in d.iterdir() if child.is_dir()})

    def populated(self) -> bool:
        """Whether a process lives in it or below it, in any hierarchy."""
        # One file first: on a hybrid host there are ten trees to walk through.
        return self._event("populated") or any(self._processes())

    def pids(self) -> list[int]:
        """The processes in it and below it, in any hierarchy."""
        return sorted(set(self._processes()))

    def _processes(self) -> Iterator[int]:
        """The same, again for each hierarchy that has it."""
        for directory in self._directories:
            for below in _top_down(directory):
                # 0 stands for a process that cannot be seen from here.
                yield from filter(None, map(int, _read(below / "cgroup.procs").split()))

    def freeze(self, deadline: float) -> None:
        """Stop every process in it; done once all of them stand.

        Raises DeadlineExceeded at that monotonic time: then it is still being frozen.
        """

        def stands() -> bool:
            self._request_freeze()
            return self.frozen()

        self._await(stands, deadline, "freezing")

    def thaw(self, deadline: float) -> None:
        """Let them run again. Raises DeadlineExceeded."""

        def runs() -> bool:
            self._request_thaw()
            return not self.frozen()

        self._await(runs, deadline, "thawing")

    def frozen(self) -> bool:
        """Whether all of it stands."""
        trees = (tree.base / self.path for tree in self._with("freezer"))
        states = (_read(directory / "freezer.state").strip() for directory in trees)
        return self._event("frozen") or "FROZEN" in states

    def kill(self, deadline: float) -> bool:
        """Kill everything in it and below it, and what they fork meanwhile.

        Answers whether it is empty; False at that monotonic time: something cannot die.
        """

        def empty() -> bool:
            self._strike(deadline)
            return not self.populated()

        return _until(empty, deadline)

    def remove(self, deadline: float) -> bool:
        """Remove the empty groups: those below it, itself, and those above it up to the VM's.

        Answers whether it is gone; False: a process lives in it, or was dying until then.
        """

        def gone() -> bool:
            for directory in self._directories:
                for below in _bottom_up(directory):
                    _rmdir(below)
            return not self.exists

        return self._remove_above() if _until(gone, deadline) else False

    def cpu_seconds(self) -> float:
        """CPU time that it has used."""
        nanoseconds = self._content("cpuacct.usage").strip()
        if nanoseconds:
            return int(nanoseconds) / 1e9
        return int(_words(self._v2_content("cpu.stat")).get("usage_usec", 0)) / 1e6

    def memory_used(self) -> int:
        """Bytes that it has, cached files among them."""
        return self._number("memory.usage_in_bytes") or self._number("memory.current")

    def pids_used(self) -> int:
        """Tasks in it."""
        return self._number("pids.current")

    def disk_counters(self) -> dict[str, DiskCounters]:
        """By MAJOR:MINOR of the device; newer kernels with version 1 leave those out for which
        `set_disk` was not called."""
        v2 = self._content("io.stat")
        if v2:
            return {line.split()[0]: _io_stat(line) for line in v2.splitlines() if line}
        moved = _blkio(self._content("blkio.throttle.io_service_bytes_recursive"))
        asked = _blkio(self._content("blkio.throttle.io_serviced_recursive"))
        return {
            device: DiskCounters(
                read_bytes=moved.get((device, "Read"), 0),
                write_bytes=moved.get((device, "Write"), 0),
                reads=asked.get((device, "Read"), 0),
                writes=asked.get((device, "Write"), 0),
            )
            for device, _ in moved
        }

    def set_memory(self, size: int) -> None:
        """Let it have so many bytes; what it has beyond them is taken back.

        Blocks while the kernel does so. Raises MemoryInUse where it cannot: then the limit is
        what it was. No process is killed for it.
        """
        for tree in self._with("memory"):
            change = self._set_memory_v2 if tree.v2 else self._set_memory_v1
            change(tree.base / self.path, size)

    def set_cpus(self, cpus: frozenset[int]) -> None:
        """Have it run on these CPUs. Raises OSError where the kernel refuses."""
        for tree in self._with("cpuset"):
            if tree.v2:
                _write_all(tree.base / self.path, limits.cpus(cpus))
            else:
                self._set_cpus_v1(tree.base / self.path, cpus)

    def set_weight(self, weight: int) -> None:
        """Shares of the CPUs: 256 is one. Raises OSError."""
        self._set("cpu", lambda v2: limits.weight(weight, v2=v2))

    def set_cap(self, percent: int) -> None:
        """At most so much of one CPU; 0: no cap. Raises OSError."""
        self._set("cpu", lambda v2: limits.cap(percent, v2=v2))

    def set_pids(self, maximum: int) -> None:
        """At most so many tasks. Raises OSError."""
        self._set("pids", lambda _: limits.pids(maximum))

    def set_disk(self, device: str, qos: VbdQos) -> None:
        """What a block device (MAJOR:MINOR) serves it in a second. Raises OSError.

        In version 1 that is for each group below it that exists now.
        """
        self._set("io", lambda v2: limits.disk(device, qos, v2=v2))
        for tree in self._with("blkio"):
            for group in _top_down(tree.base / self.path):
                _write_all(group, limits.disk(device, qos, v2=False))

    @property
    def _directories(self) -> list[Path]:
        return [tree.base / self.path for tree in self._hierarchies]

    @property
    def _v2(self) -> Path | None:
        """Where it is in the hierarchy of version 2."""
        return next((tree.base / self.path for tree in self._hierarchies if tree.v2), None)

    def _with(self, controller: str) -> list[Hierarchy]:
        """The hierarchy that has a controller; none where the host does not have it."""
        return [tree for tree in self._hierarchies if controller in tree.controllers][:1]

    def _content(self, name: str) -> str:
        """What a file says, in the hierarchy that has its controller."""
        trees = self._with(name.partition(".")[0])
        return next((_read(tree.base / self.path / name) for tree in trees), "")

    def _v2_content(self, name: str) -> str:
        return _read(self._v2 / name) if self._v2 else ""

    def _number(self, name: str) -> int:
        return int(self._content(name).strip() or 0)

    def _event(self, name: str) -> bool:
        return _words(self._v2_content("cgroup.events")).get(name) == "1"

    def _set(self, controller: str, settings: Callable[[bool], list[Setting]]) -> None:
        for tree in self._with(controller):
            _write_all(tree.base / self.path, settings(tree.v2))

    def _await(self, what: Callable[[], bool], deadline: float, doing: str) -> None:
        limit = max(0.0, deadline - time.monotonic())
        if not _until(lambda: not self.exists or what(), deadline):
            raise DeadlineExceeded(what=f"{doing} {self.path}", seconds=limit)

    def _request_freeze(self) -> None:
        # Not both on a hybrid host: what a version 2 group froze can still be killed. A
        # version 1 group that is not frozen yet tries again at each write.
        if self._v2 and (self._v2 / "cgroup.freeze").exists():
            self._thaw_below()
            _write(self._v2 / "cgroup.freeze", "1")
            return
        for tree in self._with("freezer"):
            _write(tree.base / self.path / "freezer.state", "FROZEN")

    def _request_thaw(self) -> None:
        # Either: somebody else may have frozen it.
        for directory in self._directories:
            for name, value in (("cgroup.freeze", "0"), ("freezer.state", "THAWED")):
                if (directory / name).exists():
                    _write(directory / name, value)

    def _thaw_below(self) -> None:
        """Thaw the version 1 groups that a container has made and frozen by itself: what stands
        in them neither dies nor is stopped by version 2."""
        for tree in self._with("freezer"):
            for below in () if tree.v2 else _top_down(tree.base / self.path):
                _write(below / "freezer.state", "THAWED")

    def _strike(self, deadline: float) -> None:
        """Kill what is in it now."""
        if self._v2 and (self._v2 / "cgroup.kill").exists():
            _write(self._v2 / "cgroup.kill", "1")
        else:
            # So that nothing forks between being listed and being killed.
            with suppress(DeadlineExceeded):
                self.freeze(min(deadline, time.monotonic() + _STILL))
        for pid in self.pids():
            self._kill(pid)
        # What a version 1 group froze dies only once it is thawed.
        self._request_thaw()
        self._thaw_below()

    def _kill(self, pid: int) -> None:
        # Held first, then looked at: a number that was given anew is not in this group.
        try:
            process = os.pidfd_open(pid)
        except OSError as error:
            # It is just being reaped, or is a thread of one that is; kernels differ in how
            # they say so.
            if error.errno not in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
                raise
            return
        with os.fdopen(process), suppress(ProcessLookupError):
            lines = _read(Path(f"/proc/{pid}/cgroup")).splitlines()
            if any(f"/{self.path}/" in f"{line}/" for line in lines):
                signal.pidfd_send_signal(process, signal.SIGKILL)

    def _remove_above(self) -> bool:
        for tree in self._hierarchies:
            above = Path(self.path).parents
            for group in above[: max(0, len(above) - 1 - _KEPT)]:
                _rmdir(tree.base / group)
        return True

    def _set_cpus_v1(self, directory: Path, cpus: frozenset[int]) -> None:
        # A group's CPUs are among those of the group above it, at any time: so they are
        # widened from the top, and narrowed from the bottom.
        for group in _top_down(directory):
            had = limits.parse_cpus(_read(group / "cpuset.cpus"))
            _write_all(group, limits.cpus(cpus.union(had)))
        for group in _bottom_up(directory):
            _write_all(group, limits.cpus(cpus))

    def _set_memory_v1(self, directory: Path, size: int) -> None:
        settings = limits.memory(size, v2=False, swap=self._swap)
        # The limit with swap is never below the one without: it goes up first, and down last.
        if size > int(_read(directory / settings[-1][0]).strip() or 0):
            settings.reverse()
        try:
            _write_all(directory, settings)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise MemoryInUse(f"{self.memory_used()} bytes are in use, not {size}") from error

    def _set_memory_v2(self, directory: Path, size: int) -> None:
        # Writing memory.max below what is in use kills processes. Writing memory.high takes
        # back what can be, holds the group there meanwhile, and kills nobody. It is lifted in
        # any case, since past it a group only crawls; after a crash here the next call does.
        try:
            _write(directory / "memory.high", str(size))
            used = int(_read(directory / "memory.current").strip() or 0)
            if used > size:
                raise MemoryInUse(f"{used} bytes are in use, not {size}")
            _write_all(directory, limits.memory(size, v2=True, swap=self._swap))
        finally:
            _write(directory / "memory.high", limits.NO_LIMIT)


def _until(what: Callable[[], bool], deadline: float) -> bool:
    """Ask until it is so; False at that monotonic time. It is asked once in any case."""
    nothing = threading.Event()
    delay = 0.001
    while not what():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        nothing.wait(min(delay, left))
        delay = min(delay * 2, 0.02)
    return True


def _top_down(directory: Path) -> Iterator[Path]:
    """A group and all below it, as far as they exist: paths, each good until the next one. Their
    own may be too long for the kernel: a container makes groups in groups as it likes."""
    with suppress(FileNotFoundError):
        for visit in descend(str(directory)):
            if visit.left is None:
                yield Path(f"/proc/self/fd/{visit.fd}")


def _bottom_up(directory: Path) -> Iterator[Path]:
    """The same, the group itself last."""
    with suppress(FileNotFoundError):
        for visit in descend(str(directory)):
            if visit.left is not None:
                yield Path(f"/proc/self/fd/{visit.fd}/{visit.left}")
        yield directory


def _rmdir(directory: Path) -> None:
    # Busy: something lives in it, or was made in it since.
    try:
        directory.rmdir()
    except OSError as error:
        if error.errno not in (*_GONE, errno.EBUSY, errno.ENOTEMPTY):
            raise


def _read(path: Path) -> str:
    """What a file says; nothing where it is not there, or says nothing of this group."""
    try:
        return path.read_text()
    except OSError as error:
        if error.errno in (*_GONE, errno.EOPNOTSUPP, errno.ESRCH):
            return ""
        raise


def _write(path: Path, value: str) -> None:
    """Write to a file of a group; nothing where it is not there."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _GONE:
            raise


def _write_all(directory: Path, settings: list[Setting]) -> None:
    """Set limits; nothing where the group is not there. A limit that is not, because a
    controller was not passed on to the group, raises OSError: it would limit nothing."""
    for name, value in settings:
        if directory.exists() and not (directory / name).exists():
            raise FileNotFoundError(errno.ENOENT, "the group has no such limit", directory / name)
        _write(directory / name, value)


def _words(text: str) -> dict[str, str]:
    """Lines of a name and a value."""
    return dict(line.split(" ", 1) for line in text.splitlines() if " " in line)


def _io_stat(line: str) -> DiskCounters:
    found = dict(word.split("=", 1) for word in line.split()[1:])
    numbers = (int(found.get(name, 0)) for name in ("rbytes", "wbytes", "rios", "wios"))
    return DiskCounters(*numbers)


def _blkio(text: str) -> dict[tuple[str, str], int]:
    """By device and direction."""
    lines = [line.split() for line in text.splitlines()]
    return {(words[0], words[1]): int(words[2]) for words in lines if len(words) == 3}
