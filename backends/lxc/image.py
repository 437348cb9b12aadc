"""Suspend images: what CRIU wrote of a container, and what we know of it, in one file.

A line that says what it is, a line of JSON (`Facts`), CRIU's files as a tar, and a line with the
checksum of everything before it. Written to `IMAGE.partial`, fsynced, renamed, directory fsynced:
under its own name an image is complete. What the memory means is CRIU's business.
"""

import hashlib
import os
import shutil
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol, cast

import msgspec

from backends.durable import sync
from backends.lxc.record import Record
from idl.decoding import decoder
from idl.errors import ImageInvalid

MAGIC = b"xenopsd-lxc-image "
VERSION = b"1\n"

#: Bytes of the checksum's line, of a block, and of the longest line of facts.
_SEAL = 65
_BLOCK = 1 << 20
_FACTS = 1 << 24

#: Told how many bytes are done; may raise to break off.
Tick = Callable[[int], None]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a suspended container: its record, CRIU's names for the terminals that
    are its console's, and at which path inside it each of its VBDs was (by CRIU's name)."""

    record: Record
    terminals: list[str]
    mounts: dict[str, str]


class _Reader(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...


class _Sealing:
    """A file that is written once, front to end, with the checksum of what was written."""

    def __init__(self, file: IO[bytes], tick: Tick) -> None:
        self._file, self._tick = file, tick
        self._hash = hashlib.sha256()
        self._done = 0

    def write(self, block: bytes) -> int:
        self._hash.update(block)
        self._done += len(block)
        self._tick(self._done)
        return self._file.write(block)

    def seal(self) -> None:
        self._file.write(self._hash.hexdigest().encode() + b"\n")


class _Sealed:
    """The part of a file that its last line vouches for, read front to end."""

    def __init__(self, file: IO[bytes], tick: Tick) -> None:
        self._file, self._tick = file, tick
        self._hash = hashlib.sha256()
        self._left = os.fstat(file.fileno()).st_size - _SEAL
        self._done = 0

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        block = self._file.read(max(wanted, 0))
        self._hash.update(block)
        self._left -= len(block)
        self._done += len(block)
        self._tick(self._done)
        return block

    def line(self, limit: int) -> bytes:
        block = self._file.readline(max(min(limit, self._left), 0))
        self._hash.update(block)
        self._left -= len(block)
        return block

    def require_seal(self) -> None:
        """Read on to the end. Raises ValueError where the seal is another."""
        while self._left > 0 and self.read(_BLOCK):
            pass
        if self._left != 0 or self._file.read() != self._hash.hexdigest().encode() + b"\n":
            raise ValueError("it is cut short or damaged")


def write(path: Path, facts: Facts, directory: Path, tick: Tick) -> None:
    """Write the image of what CRIU left in a directory; durable when this returns.

    Raises ImageInvalid, and what `tick` raises."""
    partial = _partial(path)
    try:
        with partial.open("wb") as file:
            sealing = _Sealing(file, tick)
            sealing.write(MAGIC + VERSION + msgspec.json.encode(facts) + b"\n")
            _pack(directory, sealing)
            sealing.seal()
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync(path.parent)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            raise _invalid(path, error) from error
        raise


def _pack(directory: Path, out: _Sealing) -> None:
    with tarfile.open(fileobj=cast("IO[bytes]", out), mode="w|", bufsize=_BLOCK) as tar:
        for path in sorted(directory.iterdir()):
            if path.suffix != ".log":
                tar.add(path, path.name, recursive=False)


def check(path: Path, vm: str, tick: Tick) -> Facts:
    """What is known of the container of this VM in an image.

    Raises ImageInvalid unless that is whole and this VM's; what `tick` raises."""
    return _opened(path, vm, tick, lambda _: None)


def unpack(path: Path, vm: str, to: Path, tick: Tick) -> Facts:
    """The same, and put CRIU's files into the directory `to`, which is made anew in one that is
    root's alone: there is either all of it or nothing. Raises ImageInvalid, OSError."""
    partial = to.with_name(f".{to.name}.partial")
    for former in (partial, to):
        shutil.rmtree(former, ignore_errors=True)
    to.parent.mkdir(parents=True, exist_ok=True)
    to.parent.chmod(0o700)
    partial.mkdir()
    # Read by processes that are already the container's, but for the way there.
    partial.chmod(0o755)
    try:
        facts = _opened(path, vm, tick, lambda reader: _extract(reader, partial))
        partial.rename(to)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return facts


def _extract(reader: _Reader, to: Path) -> None:
    # Plain files beside each other: nothing else is in an image of ours.
    with tarfile.open(fileobj=cast("IO[bytes]", reader), mode="r|", bufsize=_BLOCK) as tar:
        for member in tar:
            if not member.isreg() or "/" in member.name or member.name.startswith("."):
                raise ValueError("it is damaged")
            content = tar.extractfile(member)
            assert content is not None, "it is a plain file"
            # Not `extract`: what it may trust depends on the version of Python.
            with content, (to / member.name).open("wb") as out:
                os.fchmod(out.fileno(), 0o644)
                shutil.copyfileobj(content, out, _BLOCK)


def _opened(path: Path, vm: str, tick: Tick, use: Callable[[_Reader], None]) -> Facts:
    try:
        file = path.open("rb")
    except OSError as error:
        raise _invalid(path, error) from error
    with file:
        try:
            return _read(_Sealed(file, tick), vm, use)
        except (ValueError, tarfile.TarError) as error:
            raise _invalid(path, error) from error


def _read(sealed: _Sealed, vm: str, use: Callable[[_Reader], None]) -> Facts:
    magic = sealed.line(len(MAGIC + VERSION) + 16)
    if not magic.startswith(MAGIC):
        raise ValueError("it is no image of a container")
    if magic != MAGIC + VERSION:
        raise ValueError("it is of another version, or damaged")
    line = sealed.line(_FACTS)
    facts = _decoded(line)
    if facts.record.vm != vm:
        sealed.require_seal()
        raise ValueError(f"it is of VM {facts.record.vm}")
    use(sealed)
    sealed.require_seal()
    return facts


def _decoded(line: bytes) -> Facts:
    try:
        facts: Facts = decoder(Facts).decode(line)
    except ValueError as error:
        raise ValueError("it is cut short or damaged") from error
    return facts


def _invalid(path: Path, error: Exception) -> ImageInvalid:
    reason = str(error)
    if isinstance(error, OSError):
        reason = error.strerror or reason
    elif isinstance(error, tarfile.TarError):
        reason = "it is damaged"
    return ImageInvalid(path=str(path), reason=reason)


def require_writable(path: Path) -> None:
    """Raises ImageInvalid where something is that is no image."""
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                reason = "it is no image, and is not overwritten"
                raise ImageInvalid(path=str(path), reason=reason)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _invalid(path, error) from error


def drop(path: Path) -> None:
    """Remove an image and what a cut save left beside it; what is no image is let be.
    Raises OSError."""
    _partial(path).unlink(missing_ok=True)
    with suppress(ImageInvalid):
        require_writable(path)
        path.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")
