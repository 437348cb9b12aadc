"""What a container may use, in the words of each cgroup version."""

import pytest

from backends.lxc import limits
from backends.lxc.limits import NEEDED, Controllers, Limits
from idl.vbd import VbdQos

V1 = Controllers(v1=NEEDED | {"freezer", "blkio"})
V2 = Controllers(v2=NEEDED | {"io"})
LIMITS = Limits(memory=2**26, cpus=frozenset({0, 2}), pids=100, weight=512, cap=150)


def _lines(given: Limits, host: Controllers) -> dict[str, str]:
    return {key: value for key, value in limits.config(given, host) if "devices" not in key}


def _devices(given: Limits, host: Controllers) -> list[tuple[str, str]]:
    return [(key, value) for key, value in limits.config(given, host) if "devices" in key]


def test_limits_in_version_1():
    assert _lines(LIMITS, V1) == {
        "lxc.cgroup.memory.limit_in_bytes": "67108864",
        "lxc.cgroup.memory.memsw.limit_in_bytes": "67108864",
        "lxc.cgroup.cpuset.cpus": "0,2",
        "lxc.cgroup.cpu.shares": "2048",
        "lxc.cgroup.cpu.cfs_period_us": "100000",
        "lxc.cgroup.cpu.cfs_quota_us": "150000",
        "lxc.cgroup.pids.max": "100",
    }


def test_limits_in_version_2():
    assert _lines(LIMITS, V2) == {
        "lxc.cgroup2.memory.max": "67108864",
        "lxc.cgroup2.memory.swap.max": "0",
        "lxc.cgroup2.cpuset.cpus": "0,2",
        "lxc.cgroup2.cpu.weight": "200",
        "lxc.cgroup2.cpu.max": "150000 100000",
        "lxc.cgroup2.pids.max": "100",
    }


@pytest.mark.parametrize("host", [V1, V2])
def test_devices_are_denied_before_some_are_allowed(host):
    lines = _devices(LIMITS, host)
    assert lines[0][0].endswith("devices.deny") and lines[0][1] == "a"
    assert all(key.endswith("devices.allow") for key, _ in lines[1:])
    allowed = {value for _, value in lines if value.endswith(" rwm")}
    assert allowed == {f"{device} rwm" for device in limits.DEVICES.values()}


def test_a_device_more_is_allowed_where_it_is_asked_for():
    more = Limits(memory=1, cpus=frozenset({0}), pids=1, devices=frozenset({"fuse"}))
    assert set(_devices(more, V1)) - set(_devices(LIMITS, V1)) == {
        ("lxc.cgroup.devices.allow", "c 10:229 rwm")
    }


def test_nothing_is_said_of_what_the_host_does_not_have():
    keys = _lines(LIMITS, Controllers(v1=frozenset({"memory"}), swap=False))
    assert list(keys) == ["lxc.cgroup.memory.limit_in_bytes"]


def test_a_controller_of_a_hybrid_host_is_set_in_one_version():
    host = Controllers(v1=frozenset({"pids"}), v2=frozenset({"pids", "cpuset"}))
    assert _lines(LIMITS, host) == {
        "lxc.cgroup.pids.max": "100",
        "lxc.cgroup2.cpuset.cpus": "0,2",
    }


def test_what_is_lacking_is_told():
    assert V1.lacking == V2.lacking == set()
    assert Controllers(v1=NEEDED - {"pids", "cpu"}, v2=frozenset({"cpu"})).lacking == {"pids"}


@pytest.mark.parametrize(
    ("shares", "v1", "v2"), [(256, "1024", "100"), (1, "4", "1"), (65535, "262140", "10000")]
)
def test_weights_are_within_what_the_kernel_takes(shares, v1, v2):
    assert limits.weight(shares, v2=False) == [("cpu.shares", v1)]
    assert limits.weight(shares, v2=True) == [("cpu.weight", v2)]


def test_rates_of_a_disk():
    qos = VbdQos(read_bytes=1, write_iops=4)
    assert limits.disk("7:0", qos, v2=True) == [
        ("io.max", "7:0 rbps=1 wbps=max riops=max wiops=4")
    ]
    assert limits.disk("7:0", qos, v2=False) == [
        ("blkio.throttle.read_bps_device", "7:0 1"),
        ("blkio.throttle.write_bps_device", "7:0 0"),
        ("blkio.throttle.read_iops_device", "7:0 0"),
        ("blkio.throttle.write_iops_device", "7:0 4"),
    ]


def test_no_cap_is_said_too():
    assert ("cpu.cfs_quota_us", "-1") in limits.cap(0, v2=False)
    assert limits.cap(0, v2=True) == [("cpu.max", "max 100000")]


@pytest.mark.parametrize(
    ("vcpus", "affinity", "spread", "chosen"),
    [
        (1, [], 0, {0}),
        (1, [], 2, {2}),
        (2, [], 3, {3, 0}),
        (2, [], 7, {3, 0}),
        (9, [], 1, {0, 1, 2, 3}),
        (1, [[2, 3]], 0, {2}),
        (1, [[2, 3]], 3, {3}),
        (2, [[1, 2], [1]], 1, {1, 2}),
        (2, [[1], [1]], 0, {1}),
        (2, [[3]], 0, {0, 3}),
        (1, [[17]], 1, {1}),
    ],
)
def test_a_cpu_for_each_vcpu(vcpus, affinity, spread, chosen):
    assert limits.cpus_for(vcpus, affinity, [0, 1, 2, 3], spread) == chosen


@pytest.mark.parametrize(
    ("text", "cpus"), [("0-2,5\n", [0, 1, 2, 5]), ("3", [3]), ("\n", []), ("", [])]
)
def test_lists_of_cpus_are_read(text, cpus):
    assert limits.parse_cpus(text) == cpus
