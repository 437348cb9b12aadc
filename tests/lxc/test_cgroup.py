"""Control groups of this kernel, with processes in them."""

import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from backends.lxc.cgroup import Cgroups, Group, MemoryInUse
from backends.lxc.limits import parse_cpus
from idl.vbd import VbdQos

#: Groups in groups: more than calls of functions in calls, and more than fit a path.
DEEP = 1200

#: Forks for as long as it can, and never ends.
BOMB = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"

#: Twenty processes, each of which lives on only in its child.
HARES = """
import os
for _ in range(20):
    if not os.fork(): break
while not os.fork(): pass
"""

#: Counts for ever in the first eight bytes of a file.
COUNTER = """
import mmap, os, sys
shared = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 8)
count = 0
while True:
    count += 1
    shared[:8] = count.to_bytes(8, "little")
"""

#: Says so when it has so many bytes, and keeps them.
HOLDER = "import sys\nheld = bytearray(int(sys.argv[1]))\nprint(flush=True)\ninput()"


#: Writes so many bytes past the cache.
WRITER = """
import mmap, os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
os.write(file, mmap.mmap(-1, int(sys.argv[2])))
"""


def _soon() -> float:
    return time.monotonic() + 30


def _hosts() -> dict[str, Cgroups]:
    """This host, and it without the hierarchies of either version."""
    trees = Cgroups.found().hierarchies
    hosts = {
        "all": Cgroups(list(trees)),
        "v1": Cgroups([tree for tree in trees if not tree.v2]),
        "v2": Cgroups([tree for tree in trees if tree.v2]),
    }
    return {name: host for name, host in hosts.items() if host.hierarchies}


HOSTS = _hosts()


def _new(host: Cgroups, path: str) -> Group:
    """A group with a child in it, as liblxc makes them."""
    for tree in host.hierarchies:
        names = [*Path(path).parts, "i"]
        for depth, _ in enumerate(names):
            group = tree.base.joinpath(*names[: depth + 1])
            group.mkdir(exist_ok=True)
            if tree.v2 and depth < len(names) - 1:
                passed_on = " ".join(f"+{name}" for name in tree.controllers)
                (group.parent / "cgroup.subtree_control").write_text(passed_on)
            for file in ("cpuset.cpus", "cpuset.mems"):
                if not tree.v2 and (group / file).exists():
                    (group / file).write_text((group.parent / file).read_text())
    return host.group(path)


@pytest.fixture
def group_on(eventually) -> Iterator[Callable[..., Group]]:
    """Make a group of the test's own; whatever is in it is killed at the end."""
    top = f"xenopsd-test-{uuid.uuid4().hex[:8]}"
    with ExitStack() as after:

        def make(host: Cgroups = HOSTS["all"]) -> Group:
            after.callback(_remove, host, top)
            return _new(host, f"{top}/host/vm/incarnation/c")

        yield make


def _remove(host: Cgroups, top: str) -> None:
    whole = host.group(top)
    assert whole.kill(_soon()), "something cannot die"
    assert whole.remove(_soon()), "something is left"


@pytest.fixture
def group(group_on) -> Group:
    return group_on()


@pytest.fixture(params=sorted(HOSTS))
def any_group(request, group_on) -> Group:
    return group_on(HOSTS[request.param])


@pytest.fixture
def inside() -> Iterator[Callable[..., subprocess.Popen]]:
    """Run Python in a group."""
    with ExitStack() as after:

        def run(group: Group, program: str, *arguments: str) -> subprocess.Popen:
            command = [sys.executable, "-I", "-S", "-c", "input()\n" + program, *arguments]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            process = subprocess.Popen(command, text=True, start_new_session=True, **pipes)
            after.callback(_end, process)
            for directory in group._directories:
                (directory / "i/cgroup.procs").write_text(str(process.pid))
            process.stdin.write("\n")
            process.stdin.flush()
            return process

        yield run


def _end(process: subprocess.Popen) -> None:
    process.kill()
    with suppress(BrokenPipeError):
        process.communicate()


@pytest.fixture
def count(tmp_path) -> Callable[[str], Callable[[], int]]:
    """A counter's file, and how far it is."""

    def make(name: str) -> Callable[[], int]:
        (tmp_path / name).write_bytes(bytes(8))
        descriptor = os.open(tmp_path / name, os.O_RDONLY)
        shared = mmap.mmap(descriptor, 8, prot=mmap.PROT_READ)
        os.close(descriptor)
        return lambda: int.from_bytes(shared[:8], "little")

    return make


@pytest.fixture
def on_disk() -> Iterator[Path]:
    """A directory that is on a block device even where /tmp is not."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as path:
        if os.major(Path(path).stat().st_dev) == 0:
            pytest.skip("/var/tmp is on no block device")
        yield Path(path)


@pytest.fixture
def device(on_disk) -> str:
    """Its device, MAJOR:MINOR; of a partition, the whole one."""
    number = on_disk.stat().st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    found = Path(f"/sys/dev/block/{name}").resolve()
    whole = found.parent if (found / "partition").exists() else found
    return (whole / "dev").read_text().strip()


def test_where_this_host_has_its_groups():
    host = HOSTS["all"]
    assert host.version in ("v1", "hybrid", "v2")
    assert not host.controllers.lacking
    assert all((tree.base / "cgroup.procs").exists() for tree in host.hierarchies)


def test_a_fork_bomb_has_its_limit_and_is_killed_wholly(group, inside, eventually):
    group.set_pids(30)
    # Without its limit it would take the machine with it.
    assert group._content("pids.max") == "30\n"
    bomb = inside(group, BOMB)
    eventually(lambda: len(group.pids()) >= 25)
    assert group.pids_used() <= 30
    assert group.kill(_soon())
    assert bomb.wait(5) == -signal.SIGKILL
    assert group.pids() == []
    assert group.remove(_soon())
    assert not group.exists


def test_what_runs_from_being_killed_is_killed_wholly(any_group, inside, eventually):
    inside(any_group, HARES)
    eventually(lambda: len(any_group.pids()) >= 10)
    assert any_group.kill(_soon())
    assert not any_group.populated()


def test_what_is_frozen_stands_still(any_group, inside, count, tmp_path, eventually):
    within, beside = count("within"), count("beside")
    inside(any_group, COUNTER, str(tmp_path / "within"))
    outside = [sys.executable, "-I", "-S", "-c", COUNTER, str(tmp_path / "beside")]
    with subprocess.Popen(outside) as other:
        eventually(within)
        any_group.freeze(_soon())
        assert any_group.frozen()
        stood, ran = within(), beside()
        eventually(lambda: beside() > ran + 10_000)
        other.kill()
    assert within() == stood
    any_group.freeze(_soon())
    any_group.thaw(_soon())
    assert not any_group.frozen()
    eventually(lambda: within() > stood)


def test_what_is_frozen_can_be_killed(any_group, inside):
    process = inside(any_group, "while True: pass")
    any_group.freeze(_soon())
    assert any_group.kill(_soon())
    assert process.wait(5) == -signal.SIGKILL
    assert not any_group.populated()


def _frozen_by_itself(group: Group, process: subprocess.Popen) -> None:
    """Put a process into a group of version 1 that its container has made, and freeze that."""
    for tree in group._with("freezer"):
        own = tree.base / group.path / "i" / "own"
        own.mkdir()
        (own / "cgroup.procs").write_text(str(process.pid))
        (own / "freezer.state").write_text("FROZEN")
        return
    pytest.skip("this host has no freezer of version 1")


def test_what_a_container_froze_by_itself_can_be_killed(any_group, inside):
    process = inside(any_group, "while True: pass")
    _frozen_by_itself(any_group, process)
    assert any_group.kill(_soon())
    assert process.wait(5) == -signal.SIGKILL
    assert not any_group.populated()


def test_what_a_container_froze_by_itself_can_be_frozen(group, inside):
    process = inside(group, "while True: pass")
    _frozen_by_itself(group, process)
    group.freeze(_soon())
    assert group.frozen()


def test_groups_deeper_than_any_path_are_removed(any_group, inside):
    process = inside(any_group, "input()")
    (directory, *_) = any_group._directories
    fd = os.open(directory / "i", os.O_RDONLY)
    for _ in range(DEEP):
        os.mkdir("deep" * 4, dir_fd=fd)
        below = os.open("deep" * 4, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    assert any_group.pids() == [process.pid]
    assert any_group.kill(_soon())
    assert any_group.remove(_soon())
    assert not any_group.exists


def test_what_slipped_out_of_one_hierarchy_is_killed_too(group, inside):
    if len(group._directories) < 2:
        pytest.skip("this host has one hierarchy")
    process = inside(group, "while True: pass")
    for tree in group._hierarchies[1:]:
        (tree.base / "cgroup.procs").write_text(str(process.pid))
    assert group.pids() == [process.pid]
    assert group.kill(_soon())
    assert process.wait(5) == -signal.SIGKILL


def test_a_group_with_a_process_is_not_removed(group, inside):
    process = inside(group, "input()")
    assert not group.remove(time.monotonic() + 0.05)
    assert group.pids() == [process.pid]


def test_a_memory_hog_dies_within_its_limit(group, inside):
    group.set_memory(2**25)
    assert inside(group, HOLDER, str(2**28)).wait(30) == -signal.SIGKILL


def test_memory_in_use_is_not_taken_away(group, inside):
    group.set_memory(2**27)
    process = inside(group, HOLDER, str(2**26))
    assert process.stdout.readline() == "\n"
    assert group.memory_used() >= 2**26
    with pytest.raises(MemoryInUse):
        group.set_memory(2**25)
    assert process.poll() is None
    group.set_memory(2**28)
    group.set_memory(2**27)


def test_cached_files_are_taken_away(group, inside, on_disk):
    (on_disk / "file").write_bytes(bytes(2**26))
    os.sync()
    with (on_disk / "file").open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    group.set_memory(2**27)
    read = "import sys\nwith open(sys.argv[1], 'rb') as file:\n  while file.read(2**16): pass"
    assert inside(group, read, str(on_disk / "file")).wait(30) == 0
    assert group.memory_used() > 2**25
    group.set_memory(2**25)
    assert group.memory_used() <= 2**25


def test_a_cap_caps(group, inside, eventually):
    group.set_cap(20)
    inside(group, "while True: pass")
    eventually(lambda: group.cpu_seconds() > 0)
    began, used = time.monotonic(), group.cpu_seconds()
    eventually(lambda: group.cpu_seconds() > used + 0.3)
    took = time.monotonic() - began
    # At most a fifth of the time, and what one period may have had at its ends.
    assert group.cpu_seconds() - used <= 0.2 * took + 0.1
    group.set_cap(0)
    used, began = group.cpu_seconds(), time.monotonic()
    eventually(lambda: group.cpu_seconds() > used + 0.3)


def test_the_cpus_of_what_runs_are_changed(group, inside):
    every = sorted(os.sched_getaffinity(0))
    process = inside(group, "while True: pass")
    for cpus in ({every[-1]}, {every[0]}, set(every), {every[0]}):
        group.set_cpus(frozenset(cpus))
        assert os.sched_getaffinity(process.pid) == cpus


def test_shares_are_set(group):
    group.set_weight(512)
    found = [group._content(name).strip() for name in ("cpu.shares", "cpu.weight")]
    assert found in (["2048", ""], ["", "200"])


def test_what_is_written_to_a_disk_is_counted(group, inside, on_disk, device):
    group.set_disk(device, VbdQos())
    assert inside(group, WRITER, str(on_disk / "file"), str(2**20)).wait(30) == 0
    assert group.disk_counters()[device].write_bytes >= 2**20
    assert group.disk_counters()[device].writes >= 1


def test_a_disk_s_rate_is_limited(group, inside, on_disk, device):
    group.set_disk(device, VbdQos(write_bytes=2**20))
    began = time.monotonic()
    assert inside(group, WRITER, str(on_disk / "file"), str(2**20)).wait(30) == 0
    assert inside(group, WRITER, str(on_disk / "file"), str(2**20)).wait(30) == 0
    assert time.monotonic() - began >= 0.9
    group.set_disk(device, VbdQos())
    assert inside(group, WRITER, str(on_disk / "file"), str(2**24)).wait(30) == 0


def test_online_cpus_are_read():
    online = parse_cpus(Path("/sys/devices/system/cpu/online").read_text())
    assert set(os.sched_getaffinity(0)) <= set(online)
