"""Suspend images: a header line that vouches for the payload line below it.

The header is wholly determined by the payload, so a byte changed anywhere shows. Written to
`IMAGE.partial`, fsynced, renamed, directory fsynced: under its own name an image is complete.
"""

import hashlib
import os
from pathlib import Path

import msgspec

from backends.durable import sync
from backends.simulator.record import Record
from idl.decoding import decoder
from idl.errors import ImageInvalid, StorageError

MAGIC = "xenopsd-simulator-image"
VERSION = 1
_START = b'{"magic":"%b"' % MAGIC.encode()


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line. Whose image it is can be read without the payload."""

    magic: str = MAGIC
    version: int = VERSION
    vm: str | None
    instance: str | None
    incarnation: str | None
    domain: str
    size: int
    sha256: str


def encode(record: Record) -> bytes:
    """The image of a domain."""
    payload = msgspec.json.encode(record)
    header = Header(
        vm=record.vm,
        instance=record.instance,
        incarnation=record.incarnation,
        domain=record.id,
        size=len(payload),
        sha256=hashlib.sha256(payload).hexdigest(),
    )
    return msgspec.json.encode(header) + b"\n" + payload + b"\n"


def decode(image: bytes) -> Record:
    """The domain in an image. Raises ValueError, saying why, unless it is whole."""
    if not image.startswith(_START):
        raise ValueError("it is no image of the simulator")
    _, _, payload = image.partition(b"\n")
    try:
        record: Record = decoder(Record).decode(payload)
    except ValueError as error:
        raise ValueError("it is cut short or damaged") from error
    if encode(record) != image:
        raise ValueError("it is damaged, or of another version")
    return record


def read(path: Path) -> Record:
    """The domain in an image file. Raises ImageInvalid."""
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise ImageInvalid(path=str(path), reason=error.strerror or str(error)) from error
    except ValueError as error:
        raise ImageInvalid(path=str(path), reason=str(error)) from error


def require_writable(path: Path) -> None:
    """Raises ImageInvalid where something is that is no image."""
    try:
        with path.open("rb") as file:
            if file.read(len(_START)) != _START:
                reason = "it is no image, and is not overwritten"
                raise ImageInvalid(path=str(path), reason=reason)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ImageInvalid(path=str(path), reason=error.strerror or str(error)) from error


def write(path: Path, record: Record) -> None:
    """Write the image, complete and durable when this returns. Raises ImageInvalid."""
    try:
        _write_whole(path, encode(record))
    except OSError as error:
        raise ImageInvalid(path=str(path), reason=error.strerror or str(error)) from error


def dump(path: Path, record: Record) -> None:
    """Write what is left of a domain: its record, as JSON. Raises StorageError."""
    try:
        _write_whole(path, msgspec.json.format(msgspec.json.encode(record)) + b"\n")
    except OSError as error:
        raise StorageError(plugin="simulator", reason=f"{path}: {error.strerror}") from error


def _write_whole(path: Path, content: bytes) -> None:
    partial = _partial(path)
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync(path.parent)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def drop(path: Path) -> None:
    """Remove an image and what a cut save left beside it; what is no image is let be."""
    _partial(path).unlink(missing_ok=True)
    try:
        require_writable(path)
    except ImageInvalid:
        return
    path.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")
