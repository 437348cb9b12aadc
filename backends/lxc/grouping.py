"""Making the control groups of a container that comes back from its image, where liblxc does not:
the same ones that it would make, in a hierarchy of version 2."""

import os
from collections.abc import Sequence
from pathlib import Path

from backends.lxc.hierarchy import Hierarchy
from backends.lxc.limits import Setting

#: Controllers that are passed on, as far as the host has them.
_PASSED = ("cpu", "cpuset", "io", "memory", "pids")

#: What of its own group a container may write to, beside making groups in it.
_ITS_OWN = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")


def make(tree: Hierarchy, group: str, settings: Sequence[Setting], owner: int) -> None:
    """Make `GROUP/c` with these limits, in it `i`, which the container's root `owner` may
    divide, and beside it `m`. What is there stays. Raises OSError."""
    inner = tree.base / group / "c" / "i"
    for above in reversed(inner.relative_to(tree.base).parents):
        directory = tree.base / above
        directory.mkdir(exist_ok=True)
        _pass_on(directory)
    for name, value in settings:
        (inner.parent / name).write_text(value)
    inner.mkdir(exist_ok=True)
    for path in (inner, *(inner / name for name in _ITS_OWN)):
        os.chown(path, owner, owner)
    (tree.base / group / "m").mkdir(exist_ok=True)


def _pass_on(directory: Path) -> None:
    control = directory / "cgroup.subtree_control"
    there = (directory / "cgroup.controllers").read_text().split()
    passed = control.read_text().split()
    missing = [name for name in _PASSED if name in there and name not in passed]
    if missing:
        control.write_text(" ".join(f"+{name}" for name in missing))
