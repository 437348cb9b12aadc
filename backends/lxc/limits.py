"""What a container may use, as the kernel's control group files say it. Pure.

One place says for each limit which file of which cgroup version has which value: `config` puts
them into liblxc's configuration for the start, `backends.lxc.cgroup` writes them while it runs.
It does not know where a group is, and touches none.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from idl.vbd import VbdQos

#: A file of a control group, and what is written to it.
Setting = tuple[str, str]

#: What the kernel takes for "no limit", by file.
NO_LIMIT = "max"

#: The length of a scheduling period in microseconds: a cap is so much CPU time in each.
PERIOD = 100_000

#: What every container may open: type, major:minor. Nodes of other devices can be made (`m`)
#: where the container may make nodes at all, and open nothing.
DEVICES: Mapping[str, str] = {
    "null": "c 1:3",
    "zero": "c 1:5",
    "full": "c 1:7",
    "random": "c 1:8",
    "urandom": "c 1:9",
    "tty": "c 5:0",
    "console": "c 5:1",
    "ptmx": "c 5:2",
    "pts": "c 136:*",
}

#: What it may open only where it is asked for.
EXTRA_DEVICES: Mapping[str, str] = {"fuse": "c 10:229", "tun": "c 10:200"}

#: The controllers without which a container would have no limits.
NEEDED = frozenset({"cpu", "cpuset", "memory", "pids", "devices"})


@dataclass(frozen=True, slots=True)
class Controllers:
    """Which controllers the host has in hierarchies of version 1, and in a version 2 one.

    `swap`: whether swapped memory is counted and can be limited.
    """

    v1: frozenset[str] = frozenset()
    v2: frozenset[str] = frozenset()
    swap: bool = True

    @property
    def lacking(self) -> frozenset[str]:
        """What a container needs and the host does not have."""
        return NEEDED - self.v1 - self.v2


@dataclass(frozen=True, slots=True)
class Limits:
    """What one container may use.

    `memory` in bytes, without any swap beside it; `weight`: 256 is one share; `cap` in percent
    of one CPU, 0 is none; `pids`: tasks at most; `devices`: of EXTRA_DEVICES.
    """

    memory: int
    cpus: frozenset[int]
    pids: int
    weight: int = 256
    cap: int = 0
    devices: frozenset[str] = frozenset()


def memory(size: int, *, v2: bool, swap: bool) -> list[Setting]:
    """So many bytes, and no swap beside them: what a VM is given is what it has."""
    if v2:
        return [("memory.max", str(size)), *([("memory.swap.max", "0")] if swap else [])]
    both = [("memory.limit_in_bytes", str(size)), ("memory.memsw.limit_in_bytes", str(size))]
    return both if swap else both[:1]


def cpus(chosen: Iterable[int]) -> list[Setting]:
    """The CPUs that it may run on."""
    return [("cpuset.cpus", ",".join(map(str, sorted(chosen))))]


def weight(shares: int, *, v2: bool) -> list[Setting]:
    """256 is one share, which the kernel calls 1024 in version 1 and 100 in version 2."""
    if v2:
        return [("cpu.weight", str(min(max(round(shares * 100 / 256), 1), 10_000)))]
    return [("cpu.shares", str(max(shares * 4, 2)))]


def cap(percent: int, *, v2: bool) -> list[Setting]:
    """Percent of one CPU; 0 is no cap."""
    quota = percent * PERIOD // 100
    if v2:
        return [("cpu.max", f"{quota or NO_LIMIT} {PERIOD}")]
    return [("cpu.cfs_period_us", str(PERIOD)), ("cpu.cfs_quota_us", str(quota or -1))]


def pids(maximum: int) -> list[Setting]:
    """So many tasks at most."""
    return [("pids.max", str(maximum))]


def disk(device: str, qos: VbdQos, *, v2: bool) -> list[Setting]:
    """What a block device (MAJOR:MINOR) serves it in a second."""
    rates = {
        ("rbps", "read_bps"): qos.read_bytes,
        ("wbps", "write_bps"): qos.write_bytes,
        ("riops", "read_iops"): qos.read_iops,
        ("wiops", "write_iops"): qos.write_iops,
    }
    if v2:
        words = [f"{name}={rate or NO_LIMIT}" for (name, _), rate in rates.items()]
        return [("io.max", " ".join([device, *words]))]
    return [
        (f"blkio.throttle.{name}_device", f"{device} {rate}") for (_, name), rate in rates.items()
    ]


def devices(extra: Collection[str]) -> list[Setting]:
    """Deny all, then allow what is harmless and what was asked for."""
    allowed = [*DEVICES.values(), *(EXTRA_DEVICES[name] for name in sorted(extra))]
    nodes = [("devices.allow", f"{kind} *:* m") for kind in "cb"]
    opened = [("devices.allow", f"{device} rwm") for device in allowed]
    return [("devices.deny", "a"), *nodes, *opened]


def config(limits: Limits, host: Controllers) -> list[tuple[str, str]]:
    """The lines of liblxc's configuration that set these limits at the start.

    What a controller would limit that the host does not have is left out: see
    `Controllers.lacking`.
    """
    old = [(f"lxc.cgroup.{name}", value) for name, value in _of(limits, host, v2=False)]
    new = [(f"lxc.cgroup2.{name}", value) for name, value in _of(limits, host, v2=True)]
    return [*old, *new]


def written(limits: Limits, host: Controllers) -> list[Setting]:
    """What is written to the files of a version 2 group for these limits. Devices have none:
    liblxc filters them, and who is not root on the host can make none."""
    settings = _of(limits, host, v2=True)
    return [setting for setting in settings if not setting[0].startswith("devices.")]


def _of(limits: Limits, host: Controllers, *, v2: bool) -> Iterable[Setting]:
    """The settings in the files of one version."""
    settings = [
        *memory(limits.memory, v2=v2, swap=host.swap),
        *cpus(limits.cpus),
        *weight(limits.weight, v2=v2),
        *cap(limits.cap, v2=v2),
        *pids(limits.pids),
        *devices(limits.devices),
    ]
    here = host.v2 - host.v1 if v2 else host.v1
    return (setting for setting in settings if setting[0].split(".")[0] in here)


def cpus_for(
    vcpus: int, affinity: Sequence[Sequence[int]], online: Sequence[int], spread: int
) -> frozenset[int]:
    """The CPUs that stand for so many vCPUs: one for each, while there are enough online.

    `affinity` has for each vCPU the CPUs that it may use; left out, or none of them online:
    any. `spread` is where the choice begins, so that not every VM sits on the first CPU.
    """
    turn = spread % len(online)
    order = [*online[turn:], *online[:turn]]
    wishes = [_wish(affinity, vcpu, order) for vcpu in range(vcpus)]
    chosen: set[int] = set()
    # Those with the fewest CPUs to choose from choose first.
    for wish in sorted(wishes, key=len):
        chosen.add(next((cpu for cpu in wish if cpu not in chosen), wish[0]))
    return frozenset(chosen)


def _wish(affinity: Sequence[Sequence[int]], vcpu: int, order: list[int]) -> list[int]:
    """The CPUs that a vCPU may use."""
    allowed = affinity[vcpu] if vcpu < len(affinity) else ()
    return [cpu for cpu in order if cpu in allowed] or order


def parse_cpus(text: str) -> list[int]:
    """A list of CPUs as the kernel writes it ("0-2,5"), in order."""
    ranges = [part.partition("-") for part in text.strip().split(",") if part]
    return [cpu for low, _, high in ranges for cpu in range(int(low), int(high or low) + 1)]
