"""A metadata record <-> the text of its file; pure.

A document is readable JSON: `{"schema": 1, "checksum": "crc32:89abcdef", "record": {...}}`.
`checksum` is the CRC-32 of the bytes of `record` as they stand in the file, from its first brace
to its last. `schema` is the version of the record's type; an older one is upgraded step by step,
a newer one is refused rather than guessed at.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw, Struct

from idl.decoding import decoder

T = TypeVar("T", bound=Struct)

Upgrade = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A kind of record: its type, the version of that type, and the way up from older ones.

    `upgrades[n]` turns the plain JSON of version n into that of version n + 1.
    """

    type: type[T]
    version: int = 1
    upgrades: Mapping[int, Upgrade] = field(default_factory=dict)


class DocumentDamaged(ValueError):
    """A file does not hold a record that can be believed; the text says why."""


class _Document(Struct):
    schema: int
    checksum: str
    record: Raw


_decode_document = msgspec.json.Decoder(_Document).decode


def checksum_of(record: bytes | Raw) -> str:
    """The checksum of the bytes of a record as they stand in its file."""
    return f"crc32:{zlib.crc32(record):08x}"


def encode_document(record: Struct, version: int) -> bytes:
    """The file of a record."""
    body = msgspec.json.format(msgspec.json.encode(record), indent=2).replace(b"\n", b"\n  ")
    return b'{\n  "schema": %d,\n  "checksum": "%b",\n  "record": %b\n}\n' % (
        version,
        checksum_of(body).encode(),
        body,
    )


def decode_document(data: bytes, kind: Kind[T]) -> T:
    """The record in a file, of the present version. Raises DocumentDamaged."""
    if not data.strip(b"\0"):
        raise DocumentDamaged("the file is empty" if not data else "the file is all zeros")
    document = _decoded(_decode_document, data)
    if document.checksum != checksum_of(document.record):
        raise DocumentDamaged("the checksum does not match")
    if document.schema > kind.version:
        raise DocumentDamaged(
            f"its schema {document.schema} is newer than {kind.version}, the newest known here"
        )
    record = bytes(document.record)
    if document.schema < kind.version:
        record = _upgraded(record, document.schema, kind)
    decode: Callable[[bytes], T] = decoder(kind.type).decode
    return _decoded(decode, record)


def _upgraded(record: bytes, schema: int, kind: Kind[T]) -> bytes:
    plain = _decoded(msgspec.json.Decoder(dict[str, Any]).decode, record)
    for version in range(schema, kind.version):
        upgrade = kind.upgrades.get(version)
        if upgrade is None:
            raise DocumentDamaged(f"there is no way up from schema {version}")
        try:
            plain = upgrade(plain)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise DocumentDamaged(f"the upgrade from schema {version} failed: {error!r}") from None
    return msgspec.json.encode(plain)


R = TypeVar("R")


def _decoded(decode: Callable[[bytes], R], data: bytes) -> R:
    try:
        return decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DocumentDamaged(str(error) or type(error).__name__) from None
