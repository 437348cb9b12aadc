"""Where the host's hierarchies of control groups are mounted. Pure.

It reads what the kernel says of mounts and of the first process, and looks at no group.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A tree of groups: where the group of the host's first process is, and its controllers."""

    base: Path
    controllers: frozenset[str]
    v2: bool = False


def hierarchies(mountinfo: str, membership: str) -> list[Hierarchy]:
    """The mounted hierarchies; those of version 2 without their controllers.

    `mountinfo` is what /proc/self/mountinfo says, `membership` what /proc/1/cgroup does:
    liblxc counts the paths in `lxc.cgroup.dir.*` from the group of the first process, and from
    the one above where that is systemd's `init.scope`.
    """
    mounts = list(_mounts(mountinfo))
    found = []
    for line in membership.splitlines():
        _, names, path = line.split(":", 2)
        wanted = frozenset(names.split(",")) if names else frozenset[str]()
        for mount in mounts:
            if mount.v2 == (not wanted) and wanted <= mount.options:
                found.append(Hierarchy(mount.place(path), wanted, mount.v2))
                break
    return found


@dataclass(frozen=True, slots=True)
class _Mount:
    """A mounted hierarchy: `root` is the group that is seen at `point`."""

    root: str
    point: Path
    options: frozenset[str]
    v2: bool

    def place(self, path: str) -> Path:
        """Where a group is seen, which is not `init.scope`."""
        group = Path(path.removesuffix("/init.scope"))
        within = group.relative_to(self.root) if group.is_relative_to(self.root) else group
        return self.point / str(within).lstrip("/")


def _mounts(mountinfo: str) -> Iterator[_Mount]:
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ")[:3]
        if kind in ("cgroup", "cgroup2"):
            root, point = (_plain(word) for word in before.split(" ")[3:5])
            yield _Mount(root, Path(point), frozenset(options.split(",")), kind == "cgroup2")


def _plain(word: str) -> str:
    r"""A word of mountinfo without its escapes (`\040` is a blank)."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)
