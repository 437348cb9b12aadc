"""Control groups that are directories of files: what is read, what is written, in each version."""

import threading
import time
from pathlib import Path

import pytest

from backends.lxc.cgroup import Cgroups, DiskCounters, Group, MemoryInUse
from backends.lxc.hierarchy import Hierarchy
from idl.errors import DeadlineExceeded

PATH = "xenopsd/host/vm/incarnation/c"


def _soon() -> float:
    return time.monotonic() + 5


@pytest.fixture
def trees(tmp_path):
    """Make a group with files in a hierarchy; the group as it is seen."""
    found: list[Hierarchy] = []

    def make(name: str, files: dict[str, str], *, controllers: str = "", v2: bool = False) -> Path:
        found.append(Hierarchy(tmp_path / name, frozenset(controllers.split()), v2))
        directory = tmp_path / name / PATH
        directory.mkdir(parents=True)
        for file, content in files.items():
            (directory / file).write_text(content)
        return directory

    make.group = lambda: Cgroups(found).group(PATH)
    return make


@pytest.fixture
def absent(tmp_path) -> Group:
    names = frozenset({"cpu", "cpuset", "memory", "pids", "freezer"})
    return Cgroups([Hierarchy(tmp_path, names), Hierarchy(tmp_path, names, v2=True)]).group(PATH)


def test_a_group_that_does_not_exist_is_let_be(absent):
    absent.freeze(_soon())
    absent.thaw(_soon())
    absent.set_memory(1)
    absent.set_cpus(frozenset({0}))
    absent.set_weight(256)
    absent.set_cap(0)
    absent.set_pids(1)
    assert absent.kill(_soon())
    assert absent.remove(_soon())
    assert not absent.exists
    assert not absent.populated()
    assert not absent.frozen()


def test_a_group_that_does_not_exist_has_used_nothing(absent):
    assert absent.pids() == []
    assert absent.cpu_seconds() == absent.memory_used() == absent.pids_used() == 0
    assert absent.disk_counters() == {}


def test_processes_below_it_are_its_own(trees):
    top = trees("memory", {"cgroup.procs": ""}, controllers="memory")
    (top / "i/nested").mkdir(parents=True)
    (top / "i/cgroup.procs").write_text("12\n7\n")
    (top / "i/nested/cgroup.procs").write_text("9\n0\n")
    trees("pids", {"cgroup.procs": "7\n8\n"}, controllers="pids")
    assert trees.group().pids() == [7, 8, 9, 12]
    assert trees.group().populated()


def test_what_a_version_2_group_says(trees):
    trees(
        "unified",
        {
            "cgroup.procs": "",
            "cgroup.events": "populated 1\nfrozen 1\n",
            "cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
            "memory.current": "4096\n",
            "pids.current": "3\n",
            "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16 \n",
        },
        controllers="memory pids io",
        v2=True,
    )
    group = trees.group()
    assert group.populated() and group.frozen()
    assert (group.cpu_seconds(), group.memory_used(), group.pids_used()) == (2.5, 4096, 3)
    assert group.disk_counters() == {"8:0": DiskCounters(1, 2, 3, 4), "8:16": DiskCounters()}


def test_what_version_1_groups_say(trees):
    trees("cpuacct", {"cpuacct.usage": "2500000000\n"}, controllers="cpuacct")
    trees("memory", {"memory.usage_in_bytes": "4096\n"}, controllers="memory")
    trees("freezer", {"freezer.state": "FREEZING\n"}, controllers="freezer")
    served = "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n"
    asked = served.replace("1", "10")
    trees(
        "blkio",
        {
            "blkio.throttle.io_service_bytes_recursive": served,
            "blkio.throttle.io_serviced_recursive": asked,
        },
        controllers="blkio",
    )
    group = trees.group()
    assert (group.cpu_seconds(), group.memory_used()) == (2.5, 4096)
    assert group.disk_counters() == {"8:0": DiskCounters(1, 2, 10, 2)}
    assert not group.frozen()


def test_what_never_stands_is_told_of(trees):
    trees("unified", {"cgroup.freeze": "0", "cgroup.events": "populated 1\nfrozen 0\n"}, v2=True)
    with pytest.raises(DeadlineExceeded):
        trees.group().freeze(time.monotonic() + 0.01)


def test_what_cannot_die_is_told_of(trees):
    trees("unified", {"cgroup.kill": "", "cgroup.events": "populated 1\nfrozen 0\n"}, v2=True)
    assert not trees.group().kill(time.monotonic() + 0.01)
    assert not trees.group().remove(time.monotonic() + 0.01)


def test_what_is_no_process_any_more_is_passed_over(trees):
    """A thread's number stands for a process that is being reaped: neither can be held."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        trees("unified", {"cgroup.procs": f"{thread.native_id}\n"}, v2=True)
        assert not trees.group().kill(time.monotonic() + 0.01)
    finally:
        over.set()
        thread.join()


def test_a_version_2_limit_below_what_is_in_use_is_not_set(trees):
    files = {"memory.max": "max", "memory.high": "max", "memory.current": "4097\n"}
    top = trees("unified", files, controllers="memory", v2=True)
    with pytest.raises(MemoryInUse, match=r"4097 bytes .* 4096"):
        trees.group().set_memory(4096)
    assert (top / "memory.max").read_text() == "max"
    assert (top / "memory.high").read_text() == "max"


def test_a_version_2_limit_leaves_the_throttle_off(trees):
    files = {"memory.max": "9999", "memory.swap.max": "max", "memory.current": "4096\n"}
    top = trees("unified", {**files, "memory.high": "17"}, controllers="memory", v2=True)
    trees.group().set_memory(4096)
    found = {path.name: path.read_text().strip() for path in top.iterdir()}
    expected = {"memory.max": "4096", "memory.swap.max": "0", "memory.high": "max"}
    assert found == {**expected, "memory.current": "4096"}


def test_limits_are_written_where_their_controllers_are(trees):
    files = {"cpu.shares": "", "cpu.cfs_quota_us": "", "cpu.cfs_period_us": ""}
    v1 = trees("cpu", files, controllers="cpu")
    v2 = trees("unified", {"pids.max": "", "cpuset.cpus": ""}, controllers="pids cpuset", v2=True)
    group = trees.group()
    group.set_weight(128)
    group.set_cap(50)
    group.set_pids(10)
    group.set_cpus(frozenset({1}))
    assert (v1 / "cpu.shares").read_text() == "512"
    assert (v1 / "cpu.cfs_quota_us").read_text() == "50000"
    assert (v2 / "pids.max").read_text() == "10"
    assert (v2 / "cpuset.cpus").read_text() == "1"


def test_a_limit_that_a_group_does_not_have_is_told_of(trees):
    trees("unified", {"cgroup.procs": ""}, controllers="pids", v2=True)
    with pytest.raises(FileNotFoundError, match="no such limit"):
        trees.group().set_pids(10)


def test_removing_leaves_the_directory_of_the_instance(tmp_path):
    group = Cgroups([Hierarchy(tmp_path, frozenset())]).group(PATH)
    (tmp_path / PATH / "i").mkdir(parents=True)
    assert group.remove(_soon())
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == [
        "xenopsd",
        "xenopsd/host",
    ]


def test_removing_leaves_what_another_incarnation_has(tmp_path):
    group = Cgroups([Hierarchy(tmp_path, frozenset())]).group(PATH)
    other = tmp_path / "xenopsd/host/vm/other/c"
    for directory in (tmp_path / PATH, other):
        directory.mkdir(parents=True)
    assert group.remove(_soon())
    assert other.is_dir()


@pytest.mark.parametrize(
    ("versions", "name"),
    [((), "none"), ((False,), "v1"), ((False, True), "hybrid"), ((True,), "v2")],
)
def test_the_version_of_a_host(versions, name):
    trees = [Hierarchy(Path("/x"), frozenset(), v2) for v2 in versions]
    assert Cgroups(trees).version == name


def test_on_a_hybrid_host_limits_are_those_of_version_1():
    trees = [
        Hierarchy(Path("/x"), frozenset({"memory"})),
        Hierarchy(Path("/y"), frozenset({"hugetlb"}), v2=True),
    ]
    assert Cgroups(trees).controllers.v1 == {"memory"}
    assert Cgroups(trees).controllers.v2 == set()
    assert Cgroups(trees[1:]).controllers.v2 == {"hugetlb", "devices"}


def test_a_host_is_looked_at(tmp_path):
    (tmp_path / "group").mkdir()
    (tmp_path / "group/cgroup.controllers").write_text("cpu pids\n")
    for name in ("self", "1"):
        (tmp_path / name).mkdir()
    mount = f"29 22 0:26 / {tmp_path}/group rw - cgroup2 cgroup2 rw\n"
    (tmp_path / "self/mountinfo").write_text(mount)
    (tmp_path / "1/cgroup").write_text("0::/init.scope\n")
    host = Cgroups.found(tmp_path)
    assert host.version == "v2"
    assert host.controllers.v2 == {"cpu", "pids", "devices"}
    assert not host.controllers.swap
