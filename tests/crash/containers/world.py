"""What an outsider finds of an instance's containers: processes, groups, mounts, interfaces,
rules, ids, files. Nothing here asks the daemon."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rigs.container import Init, inits_among
from rigs.outside import document

from backends.lxc.places import Names

_TABLE = re.compile(r'^table netdev (\S+) \{\n\s*comment "([^"]*)"', re.MULTILINE)


@dataclass(frozen=True)
class Link:
    """An interface of the host with an instance's mark."""

    name: str
    incarnation: str
    vif: str
    bridge: str | None
    up: bool


@dataclass(frozen=True)
class Seen:
    """Everything that there is of one VM. `disks` are the names of what is mounted for it,
    `shown` what its container sees of that, `processes` what each pid is."""

    domain: dict[str, Any] | None
    config: dict[str, Any] | None
    extra: dict[str, Any]
    claimed: bool
    inits: tuple[Init, ...]
    frozen: bool
    processes: dict[int, str]
    groups: frozenset[str]
    mounts: tuple[str, ...]
    disks: frozenset[str]
    shown: frozenset[str]
    links: tuple[Link, ...]
    inside: frozenset[str]
    tables: frozenset[str]
    ranges: tuple[str, ...]
    place: tuple[str, ...] | None
    layers: frozenset[str]
    images: tuple[Path, ...]
    leftovers: tuple[str, ...]

    @property
    def init(self) -> Init | None:
        """Its container's first process."""
        return next(iter(self.inits), None)

    @property
    def power(self) -> str:
        """running, paused, shell, stopped, suspended, halted or absent."""
        if self.init is not None:
            return "paused" if self.frozen else "running"
        if self.domain is None:
            if self.extra.get("image"):
                return "suspended"
            return "absent" if self.config is None else "halted"
        if not self.domain.get("built"):
            return "shell"
        return "stopped" if self.domain.get("started") else "paused"

    @property
    def names(self) -> frozenset[str]:
        """The devices that are really there, kind:name."""
        return frozenset(
            [*(f"vbd:{name}" for name in self.disks), *(f"vif:{link.vif}" for link in self.links)]
        )

    @property
    def remains(self) -> list[str]:
        """What a VM that does not run has no right to. The layers of an image stay with it until
        the VM starts anew."""
        passing = {layer for layer in self.layers if "@" in layer}
        images = self.images
        if self.power == "suspended":
            images = tuple(path for path in images if path.suffix != ".image")
        return [
            *(f"process {pid}: {what}" for pid, what in self.processes.items()),
            *(f"group {path}" for path in sorted(self.groups)),
            *(f"mount {point}" for point in self.mounts),
            *(f"interface {link.name}" for link in self.links),
            *(f"table {name}" for name in sorted(self.tables)),
            *(f"ids {name}" for name in self.ranges),
            *(f"layer {name}" for name in sorted(passing) if not name.endswith("@suspended")),
            *(f"file {path}" for path in images),
            *([] if self.place is None else [f"place with {', '.join(self.place) or 'nothing'}"]),
        ]


@dataclass(frozen=True)
class Outside:
    """The host, where one instance's containers are."""

    state: Path
    run: Path
    instance: str

    @property
    def lxc(self) -> Path:
        return self.run / "lxc"

    @property
    def names(self) -> Names:
        return Names(self.lxc, self.instance)

    def place(self, vm: str) -> Path:
        return self.lxc / self.instance / vm

    def look(self, vm: str) -> Seen:
        """Everything of one VM."""
        place, record = self.place(vm), self.state / "vm" / vm
        roots = [root / self.names.group(vm) for root in hierarchies()]
        groups = frozenset(str(group) for root in roots for group in _below(root))
        pids = [pid for group in groups for pid in _pids(Path(group))]
        inits = inits_among(sorted(set(pids)))
        init = next(iter(inits), None)
        mounts = tuple(point for point in points() if _is_below(point, place))
        links = tuple(self._links(vm))
        return Seen(
            domain=_json(place / "domain.json"),
            config=document(record / "config.json"),
            extra=document(record / "extra.json") or {},
            claimed=(self.run / "owners" / vm).exists(),
            inits=tuple(inits),
            frozen=init is not None and _frozen(init.pid),
            processes=self._processes(vm, place),
            groups=groups,
            mounts=mounts,
            disks=frozenset(Path(p).name for p in mounts if Path(p).parent == place / "disks"),
            shown=frozenset() if init is None else frozenset(points(init.pid)),
            links=links,
            inside=frozenset() if init is None else _interfaces(init.pid),
            tables=frozenset(
                name for name, mark in tables().items() if mark.startswith(self.names.mark(vm))
            ),
            ranges=tuple(
                f"{path.name}: {mark}" for path, mark in self._ranges() if _is_of(mark, vm)
            ),
            place=tuple(sorted(_names(place))) if place.exists() else None,
            layers=_names(self.state / "lxc" / "layers" / vm),
            images=tuple(self._images(vm)),
            leftovers=tuple(sorted(_names(record) - {"config.json", "extra.json", "journal"})),
        )

    def nothing_of(self, vm: str) -> list[str]:
        """What still tells of a VM that was removed."""
        seen = self.look(vm)
        paths = (
            self.state / "vm" / vm,
            self.run / "owners" / vm,
            self.state / "lxc" / "layers" / vm,
        )
        return [*seen.remains, *(str(path) for path in paths if path.exists())]

    def astray(self) -> list[str]:
        """What is of no VM that runs, or has no right to be there whatever VMs there are."""
        alive = {path.name for path in self._places() if (path / "domain.json").exists()}
        groups = {group.name for root in hierarchies() for group in self._groups(root)}
        return [
            *(f"place {path.name}" for path in self._places() if path.name not in alive),
            *(f"group of {vm}" for vm in groups - alive),
            *(f"mount {p}" for p in points() if self._is_astray(Path(p), alive)),
            *(f"interface of {m}" for m in self._marks() if _vm_of(m) not in alive),
            *(f"unmarked interface {n}" for n in _unmarked(self.bridge)),
            *(f"ids {mark}" for _, mark in self._ranges() if _vm_of(mark) not in alive),
            *(f"loop device {b}" for b in self._loops() if not alive),
            *(f"tombstone {name}" for name in _names(self.state / "lxc" / "tombstones")),
            *(f"partial {path}" for path in self._partial()),
        ]

    @property
    def bridge(self) -> str:
        """The bridge that every VIF of this instance is on."""
        return f"{self.instance}b"

    def apart(self) -> list[int]:
        """Processes of `backends.lxc.apart`."""
        mark = f" {self.lxc}/.{self.instance}.jobs"
        return [pid for pid in filter(_is_alive, _all()) if _cmdline(pid).endswith(mark)]

    def servers(self) -> list[int]:
        """Those of them that are no container's: the server, what waits for a job, and jobs."""
        places = self.lxc / self.instance
        return [pid for pid in self.apart() if not _is_below(_cwd(pid), places)]

    def signed(self, vm: str, role: str) -> list[int]:
        """The process of a container that has signed the file with that name."""
        signature = text(self.place(vm) / role)
        pid = int(signature) if signature.isdigit() else 0
        return [pid] if pid and _cmdline(pid).endswith(f"/.{self.instance}.jobs") else []

    def first_process(self, vm: str) -> int | None:
        """Of a VM's container, once its hook has told of it."""
        written = text(self.place(vm) / "init").strip()
        pid = int(written) if written.isdigit() else 0
        mark = f"/{self.names.group(vm)}/"
        return pid if pid and mark in text(f"/proc/{pid}/cgroup") else None

    def checkpoints(self, vm: str) -> Path:
        """Where CRIU's files are while it works."""
        return self.state / "lxc" / "checkpoints" / vm

    def _images(self, vm: str) -> Iterator[Path]:
        yield from (self.state / "suspend").glob(f"{vm}.image*")
        yield from self.checkpoints(vm).glob("*")

    def _processes(self, vm: str, place: Path) -> dict[int, str]:
        mark = f"/{self.names.group(vm)}/"
        found = {}
        for pid in filter(_is_alive, _all()):
            if mark in text(f"/proc/{pid}/cgroup") or _is_below(_cwd(pid), place):
                found[pid] = _cmdline(pid)[-80:] or text(f"/proc/{pid}/comm").strip()
        return found

    def _marks(self) -> list[str]:
        mark = f"xenopsd {self.names.whole} "
        return [found for _, found in _aliases() if found.startswith(mark)]

    def _links(self, vm: str) -> Iterator[Link]:
        for link, mark in _aliases():
            words = mark.split(" ")
            if words[:3] == ["xenopsd", self.names.whole, vm]:
                yield Link(
                    name=link["ifname"],
                    incarnation=words[3],
                    vif=words[4],
                    bridge=link.get("master"),
                    up="UP" in link["flags"],
                )

    def _ranges(self) -> list[tuple[Path, str]]:
        found = []
        for path in (self.lxc / ".ranges").glob("*"):
            with suppress(FileNotFoundError):
                found.append((path, str(path.readlink())))
        return [(path, mark) for path, mark in found if mark.split(" ")[1] == self.names.whole]

    def _places(self) -> list[Path]:
        root = self.lxc / self.instance
        return list(root.iterdir()) if root.is_dir() else []

    def _groups(self, root: Path) -> list[Path]:
        ours = root / self.names.group()
        return [path for path in ours.iterdir() if path.is_dir()] if ours.is_dir() else []

    def _is_astray(self, point: Path, alive: set[str]) -> bool:
        if not _is_below(str(point), self.lxc / self.instance):
            return False
        return point.relative_to(self.lxc / self.instance).parts[0] not in alive

    def _loops(self) -> list[str]:
        found = []
        for path in Path("/sys/block").glob("loop*/loop/backing_file"):
            with suppress(OSError):
                found.append(path.read_text().strip())
        return [path for path in found if path.startswith(f"{self.state.parent}/")]

    def _partial(self) -> list[Path]:
        roots = [*(self.state / "vm").glob("*/*"), *(self.state / "lxc").glob("*/*")]
        return [path for path in roots if path.name.endswith((".tmp", ".partial"))]


def hierarchies() -> list[Path]:
    """Where control groups are mounted."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    found = (line.split(" - ") for line in lines)
    return [Path(a.split()[4]) for a, b in found if b.split()[0] in ("cgroup", "cgroup2")]


def points(pid: int | str = "self") -> list[str]:
    """The mount points that a process sees."""
    lines = text(f"/proc/{pid}/mountinfo").splitlines()
    return [line.split()[4].removesuffix("//deleted") for line in lines]


def tables() -> dict[str, str]:
    """The nftables tables of interfaces: name and mark."""
    return dict(_TABLE.findall(_run("nft", "list", "ruleset", "netdev")))


def kill(pid: int, number: int) -> None:
    """Send a signal; nothing where it is gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def parent(pid: int) -> int:
    """Of a process; 0 where it is gone."""
    fields = text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[1]) if fields else 0


def children(pid: int) -> list[int]:
    """Of a process, in the order of their birth."""
    return [int(word) for word in text(f"/proc/{pid}/task/{pid}/children").split()]


def leads_session(pid: int) -> bool:
    """Whether a process has a session of its own."""
    with suppress(ProcessLookupError):
        return os.getsid(pid) == pid
    return False


def _aliases() -> list[tuple[dict[str, Any], str]]:
    links = json.loads(_run("ip", "-json", "-details", "link", "show") or "[]")
    return [(link, link.get("ifalias", "")) for link in links]


def _unmarked(bridge: str) -> list[str]:
    return [
        link["ifname"] for link, mark in _aliases() if link.get("master") == bridge and not mark
    ]


def _interfaces(pid: int) -> frozenset[str]:
    """Those in the namespace of a process that are up."""
    with suppress(subprocess.CalledProcessError):  # it is gone by now
        links = json.loads(_run("nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-json", "link"))
        return frozenset(link["ifname"] for link in links if "UP" in link["flags"])
    return frozenset()


def _run(*command: str) -> str:
    done = subprocess.run(command, check=True, text=True, capture_output=True)
    return done.stdout


def _frozen(pid: int) -> bool:
    """By the freezer of version 1 or of version 2, whichever says so."""
    for line in text(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for root in hierarchies():
            where = f"{root}{path}"
            if controllers == "freezer" and text(f"{where}/freezer.state").strip() == "FROZEN":
                return True
            if not controllers and "frozen 1" in text(f"{where}/cgroup.events"):
                return True
    return False


def _below(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    with suppress(FileNotFoundError):  # removed meanwhile
        return [root, *(path for path in root.rglob("*") if path.is_dir())]
    return [root]


def _pids(group: Path) -> list[int]:
    return [int(word) for word in text(group / "cgroup.procs").split()]


def _all() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _is_alive(pid: int) -> bool:
    """The dead whose parent is the host's init are only waiting for that."""
    fields = text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return bool(fields) and fields[:2] not in (["Z", "1"], ["X", "1"])


def _cmdline(pid: int) -> str:
    return text(f"/proc/{pid}/cmdline").replace("\0", " ").strip()


def _cwd(pid: int) -> str:
    with suppress(OSError):
        return str(Path(f"/proc/{pid}/cwd").readlink()).removesuffix(" (deleted)")
    return ""


def _is_below(path: str, directory: Path) -> bool:
    return f"{path}/".startswith(f"{directory}/")


def _is_of(mark: str, vm: str) -> bool:
    return _vm_of(mark) == vm


def _vm_of(mark: str) -> str:
    return mark.split(" ")[2]


def text(path: str | Path) -> str:
    """What is in a file; nothing where it cannot be read."""
    with suppress(OSError):
        return Path(path).read_text(errors="replace")
    return ""


def _json(path: Path) -> dict[str, Any] | None:
    found: dict[str, Any] | None = json.loads(text(path) or "null")
    return found


def _names(directory: Path) -> frozenset[str]:
    return frozenset(p.name for p in directory.iterdir()) if directory.is_dir() else frozenset()
