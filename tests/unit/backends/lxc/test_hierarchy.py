"""Where hierarchies are, on hosts of each kind."""

from pathlib import Path

from backends.lxc.hierarchy import Hierarchy, hierarchies

V1 = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:7 - cgroup cgroup rw,cpu,cpuacct
33 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
34 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
"""
V1_MEMBERSHIP = "4:name=systemd:/init.scope\n3:memory:/\n1:cpu,cpuacct:/\n"
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
V2 = "29 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def _tree(path: str, *controllers: str, v2: bool = False) -> Hierarchy:
    return Hierarchy(Path(path), frozenset(controllers), v2)


def test_a_version_1_host_has_a_hierarchy_for_each_set_of_controllers():
    assert hierarchies(V1, V1_MEMBERSHIP) == [
        _tree("/sys/fs/cgroup/systemd", "name=systemd"),
        _tree("/sys/fs/cgroup/memory", "memory"),
        _tree("/sys/fs/cgroup/cpu,cpuacct", "cpu", "cpuacct"),
    ]


def test_a_hybrid_host_has_a_version_2_hierarchy_beside_them():
    found = hierarchies(V1 + UNIFIED, V1_MEMBERSHIP + "0::/init.scope\n")
    assert found[-1] == _tree("/sys/fs/cgroup/unified", v2=True)
    assert len(found) == 4


def test_on_a_version_2_host_groups_are_beside_those_of_services():
    assert hierarchies(V2, "0::/init.scope\n") == [_tree("/sys/fs/cgroup", v2=True)]


def test_groups_are_below_that_of_the_first_process():
    membership = "4:name=systemd:/\n3:memory:/below/here\n1:cpu,cpuacct:/\n"
    assert _tree("/sys/fs/cgroup/memory/below/here", "memory") in hierarchies(V1, membership)


def test_what_a_mount_shows_is_not_the_whole_tree():
    mount = "29 22 0:26 /box/7 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    assert hierarchies(mount, "0::/box/7/inner\n") == [_tree("/sys/fs/cgroup/inner", v2=True)]


def test_a_hierarchy_that_is_not_mounted_is_not_there():
    assert hierarchies(V1, "9:pids:/\n0::/\n") == []


def test_a_mount_point_may_have_a_blank_in_it():
    mount = "29 22 0:26 / /sys/fs/c\\040group rw - cgroup2 cgroup2 rw\n"
    assert hierarchies(mount, "0::/\n") == [_tree("/sys/fs/c group", v2=True)]
