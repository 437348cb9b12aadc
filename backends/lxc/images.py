"""Base images that have to be unpacked: once each, shared by every VM that uses them.

`STATE/lxc/images/KEY/` holds `root` and `image.json`; KEY is of the archive's identity, so a
changed archive is another image; the old one goes when nobody has it any more. One for
privileged VMs has the archive's device nodes, and a KEY of its own.
"""

import hashlib
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import msgspec

from backends.lxc.layers import Base
from backends.lxc.sources import Identity, Source, identity
from backends.lxc.spawner import Job, Spawner
from idl.decoding import decoder
from idl.errors import StorageError

#: Seconds that the answer of a job takes which has ended.
ANSWER = 5.0


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """`image.json`: what was unpacked, and the SHA-256 of that."""

    path: str
    identity: Identity
    digest: str


@dataclass(frozen=True, slots=True)
class Image:
    """An unpacked image: the directory of its files."""

    root: Path
    digest: str


def key(identity: Identity, *, devices: bool) -> str:
    """The name of an image."""
    facts = (identity.device, identity.inode, identity.size, identity.mtime_ns)
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()
    return f"{digest}-devices" if devices else digest


def _key_at(path: str, *, devices: bool) -> str | None:
    """The name of the image of what is at a path; None where nothing is."""
    try:
        return key(identity(Path(path).stat()), devices=devices)
    except OSError:
        return None


class Images:
    """The unpacked images of an instance."""

    def __init__(self, directory: Path, spawner: Spawner) -> None:
        self._directory = directory
        self._spawner = spawner
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}

    def unpacked(self, source: Source, *, squashfs: bool, devices: bool) -> Image | None:
        """The image that a file is, with or without its device nodes; None while it is being
        unpacked, which this begins. Raises StorageError where that failed."""
        name = key(source.identity, devices=devices)
        found = self._read(name)
        if found is not None or not self._ended(name, source, squashfs=squashfs, devices=devices):
            return found
        return self._read(name)

    def unused(self, bases: Collection[Base], mounted: Collection[str]) -> list[str]:
        """Images whose archive is gone or has changed, that no layer was made over and that are
        not mounted: `mounted` are directories as mountinfo names them. Raises StorageError."""
        needed = {base.digest for base in bases} | {
            key(base.identity, devices=devices) for base in bases for devices in (False, True)
        }
        needed |= {Path(root).parent.name for root in mounted}
        found = []
        for path in self._directory.glob("[!.]*"):
            record = self._record(path.name)
            if record is not None and not needed & {path.name, record.digest}:
                devices = path.name == key(record.identity, devices=True)
                if _key_at(record.path, devices=devices) != path.name:
                    found.append(path.name)
        return found

    def close(self) -> None:
        """Break off what is under way; it is begun anew when it is wanted."""
        with self._lock:
            for name in list(self._jobs):
                self._forget(name).__exit__()

    def _read(self, name: str) -> Image | None:
        record = self._record(name)
        if record is None:
            return None
        return Image(self._directory / name / "root", record.digest)

    def _record(self, name: str) -> Record | None:
        path = self._directory / name
        try:
            found: Record = decoder(Record).decode((path / "image.json").read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            reason = f"{path}: {error}; remove it, and the image is unpacked again"
            raise StorageError(plugin="lxc", reason=reason) from error
        return found

    def _ended(self, name: str, source: Source, *, squashfs: bool, devices: bool) -> bool:
        """Whether the job has ended, which is begun where there is none."""
        with self._lock:
            job = self._jobs.get(name)
            if job is None:
                self._jobs[name] = self._begin(name, source, squashfs=squashfs, devices=devices)
            if job is None or not job.done():
                return False
            self._forget(name)
        with job:
            try:
                job.answer(time.monotonic() + ANSWER)
            except OSError as error:
                reason = f"{source.path} cannot be unpacked: {error.strerror or error}"
                raise StorageError(plugin="lxc", reason=reason) from error
        return True

    def _begin(self, name: str, source: Source, *, squashfs: bool, devices: bool) -> Job:
        # The owner is no VM: it is for all who want the image, and no cancel breaks it off.
        return self._spawner.start(
            "unpack_image",
            owner=name,
            fds=(source.fd,),
            directory=str(self._directory),
            key=name,
            squashfs=squashfs,
            devices=devices,
            record={"path": source.path, "identity": msgspec.to_builtins(source.identity)},
        )

    def _forget(self, name: str) -> Job:
        job = self._jobs.pop(name)
        self._spawner.forget(name, job)
        return job
