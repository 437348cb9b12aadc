"""What the disks under a container's VBDs serve it: limits, and figures.

The kernel knows disks, not VBDs: those of one disk share its limit, the strictest of theirs, and
its figures.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from msgspec.structs import asdict

from backends.lxc.cgroup import Group
from backends.lxc.record import ContainerVbd
from idl.vbd import VbdQos

_DEVICES = Path("/sys/dev/block")


def device(path: Path) -> str | None:
    """The disk (MAJOR:MINOR) that what is at a path lies on; None where it is on none, as in
    memory. Raises OSError."""
    number = path.stat().st_dev
    if os.major(number) == 0:
        return None
    name = f"{os.major(number)}:{os.minor(number)}"
    # A partition has no limits of its own.
    if (_DEVICES / name / "partition").exists():
        return ((_DEVICES / name).resolve().parent / "dev").read_text().strip()
    return name


def strictest(limits: Iterable[VbdQos]) -> VbdQos:
    """The least of each; 0 is none."""
    every = [asdict(one) for one in limits]
    names = VbdQos.__struct_fields__
    return VbdQos(**{name: min((q[name] for q in every if q[name]), default=0) for name in names})


def meter(group: Group, vbds: Iterable[ContainerVbd]) -> None:
    """Have a running container's disks keep to the limits of its VBDs, and be counted: in
    version 1 the kernel counts what it was told of. Raises OSError."""
    by_device: dict[str, list[VbdQos]] = {}
    for vbd in vbds:
        if vbd.device is not None:
            wished = vbd.config.qos if vbd.config is not None else None
            by_device.setdefault(vbd.device, []).append(wished or VbdQos())
    try:
        for name, limits in by_device.items():
            group.set_disk(name, strictest(limits))
    except OSError:
        # One that has ended meanwhile, as a short program does, has no limits any more.
        if group.populated():
            raise
