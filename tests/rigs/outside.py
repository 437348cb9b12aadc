"""What an outsider finds of a simulator's instance: its world and its state, read from disk.

Nothing here asks the daemon. `look` gathers everything that exists of one VM; `untidy` names
what should not be there whatever the VM is. The world's layout is in docs/simulator-world.md.
"""

import hashlib
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Seen:
    """Everything that there is of one VM."""

    domain: dict[str, Any] | None
    plugged: frozenset[str]
    layers: frozenset[str]
    image: bool
    claimed: bool
    config: dict[str, Any] | None
    extra: dict[str, Any]
    leftovers: tuple[str, ...] = field(default=())

    @property
    def power(self) -> str:
        """running, paused, shell, stopped, suspended, halted or absent."""
        if self.domain is not None:
            if not self.domain.get("built"):
                return "shell"
            if self.domain.get("stopped"):
                return "stopped"
            return "paused" if self.domain.get("paused", True) else "running"
        if self.config is None:
            return "absent"
        return "suspended" if self.extra.get("image") else "halted"

    @property
    def devices(self) -> frozenset[str]:
        """What is in the domain, as the ledger names it."""
        domain = self.domain or {}
        return frozenset(
            f"{kind}:{id.partition('/')[2]}@{domain['incarnation']}"
            for kind in ("vbd", "vif", "pci")
            for id in domain.get(f"{kind}s", {})
        )

    @property
    def names(self) -> frozenset[str]:
        """The names of the devices in the domain, kind:name."""
        return frozenset(entry.partition("@")[0] for entry in self.devices)


def look(state_dir: Path, run_dir: Path, vm: str, instance: str = "default") -> Seen:
    """Read it all. AssertionError where a file is not what its format says."""
    world = state_dir / "simulator"
    record = state_dir / "vm" / vm
    image = state_dir / "suspend" / f"{vm}.image"
    if image.exists():
        assert_whole(image)
    kept = {"config.json", "extra.json", "journal"}
    return Seen(
        domain=domain(world / "domains" / f"{vm}.json"),
        plugged=_names(world / "plugged" / instance / vm),
        layers=_names(world / "layers" / vm),
        image=image.exists(),
        claimed=(run_dir / "owners" / vm).exists(),
        config=document(record / "config.json"),
        extra=document(record / "extra.json") or {},
        leftovers=tuple(sorted(_names(record) - kept)),
    )


def untidy(state_dir: Path, run_dir: Path) -> list[str]:
    """Temporary files, tombstones, journals with something in them, torn images."""
    found = [
        str(path.relative_to(state_dir))
        for path in state_dir.rglob("*")
        if path.name.endswith((".tmp", ".partial"))
        or (path.name.startswith(".") and path.name != ".entry")
        or (path.name == "journal" and path.stat().st_size)
        or ".damaged-" in path.name
    ]
    found += [f"owners/{name}" for name in _names(run_dir / "owners") if name.startswith(".")]
    return sorted(found)


def nothing_of(state_dir: Path, run_dir: Path, vm: str, instance: str = "default") -> list[str]:
    """Paths that still tell of a VM that was removed."""
    world = state_dir / "simulator"
    places = (
        state_dir / "vm" / vm,
        state_dir / "suspend" / f"{vm}.image",
        run_dir / "owners" / vm,
        world / "domains" / f"{vm}.json",
        world / "plugged" / instance / vm,
        world / "layers" / vm,
    )
    return [str(place) for place in places if place.exists()]


def domain(path: Path) -> dict[str, Any] | None:
    """The domain in a file of the world, its checksum held against its bytes."""
    line = path.read_bytes().strip() if path.exists() else b""
    if not line:
        return None
    head, _, tail = line.partition(b',"domain":')
    body = tail[:-1]
    expected = json.loads(head + b"}")["checksum"]
    assert expected == f"crc32:{zlib.crc32(body):08x}", f"{path} has a checksum that fails"
    found: dict[str, Any] | None = json.loads(body)
    return found


def document(path: Path) -> dict[str, Any] | None:
    """The record in a file of the store, its checksum held against its bytes."""
    if not path.exists():
        return None
    text = path.read_bytes()
    found = json.loads(text)
    start = text.index(b'"record": ') + len(b'"record": ')
    body = text[start : text.rindex(b"\n}")]
    assert found["checksum"] == f"crc32:{zlib.crc32(body):08x}", f"{path} is damaged"
    record: dict[str, Any] = found["record"]
    return record


def assert_whole(image: Path) -> None:
    """AssertionError unless an image is what its header vouches for."""
    header, _, payload = image.read_bytes().partition(b"\n")
    payload = payload.removesuffix(b"\n")
    vouched = json.loads(header)
    assert vouched["size"] == len(payload), f"{image} is cut short"
    assert vouched["sha256"] == hashlib.sha256(payload).hexdigest(), f"{image} is damaged"


def _names(directory: Path) -> frozenset[str]:
    return frozenset(p.name for p in directory.iterdir()) if directory.is_dir() else frozenset()
