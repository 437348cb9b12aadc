"""The machine is what it is there for: Debian's kernel 6.1 with nothing but cgroup v2."""

import os
from pathlib import Path


def test_the_kernel_is_debian_12s():
    assert os.uname().release.startswith("6.1.")


def test_there_is_nothing_but_cgroup_v2():
    mounted = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    assert [m[1] for m in mounted if m[2] in {"cgroup", "cgroup2"}] == ["/sys/fs/cgroup"]
    controllers = Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
    assert {"cpu", "cpuset", "io", "memory", "pids"} <= set(controllers)


def test_mounts_propagate_as_under_systemd():
    root = next(
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if " / / " in line
    )
    assert " shared:" in root
