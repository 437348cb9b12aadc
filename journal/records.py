"""A record <-> one line: what journals and the task log are made of.

A line is `{"seq":3,"crc":"89abcdef","record":{"kind":"intent",...}}`, made to be read with `cat`.
`seq` is the number of the line in its file, from 1. `crc` is the CRC-32, in hexadecimal, of the
decimal `seq` followed by the bytes of `record` as they stand in the line.

Operations, plans, facts and tasks are raw JSON with their names: what they mean is the daemon's
business, and this package may not know it. Nothing here touches a file.

The records hold no containers, so the garbage collector need not know of them (`gc=False`).
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal

import msgspec
from msgspec import Raw, Struct

NOTHING: Final = Raw(b"null")
"""The fact that there are no facts."""

Direction = Literal["forward", "back"]


class Begun(Struct, frozen=True, kw_only=True, tag="begun", tag_field="kind", gc=False):
    """An operation has begun: `plan` is the list of micro-ops that will be carried out.

    `task` is None for operations that nobody asked for (checks, repairs). `boot` is the host's
    boot id, `incarnation` that of the VM's domain, `at` seconds since the epoch.
    """

    task: str | None
    operation: str
    params: Raw
    boot: str
    incarnation: str | None
    plan: Raw
    at: float


class Intent(Struct, frozen=True, kw_only=True, tag="intent", tag_field="kind", gc=False):
    """Micro-op number `step` of the plan is about to be carried out.

    `facts` has every name that its effect will have.
    """

    step: int
    name: str
    facts: Raw = NOTHING


class Done(Struct, frozen=True, kw_only=True, tag="done", tag_field="kind", gc=False):
    """The effect of micro-op number `step` is complete; `facts` is what only it could tell."""

    step: int
    facts: Raw = NOTHING


class Turned(Struct, frozen=True, kw_only=True, tag="turned", tag_field="kind", gc=False):
    """The operation changed direction: `plan` is carried out from now on, counted from step 0.

    `task` is None when the task has been answered and only the repair is still owed.
    """

    direction: Direction
    task: str | None
    plan: Raw
    error: Raw = NOTHING


Record = Begun | Intent | Done | Turned


class Accepted(Struct, frozen=True, kw_only=True, tag="accepted", tag_field="kind", gc=False):
    """A task was taken on. `call` is method and parameters, to recognise the call repeated."""

    id: str
    call: Raw
    vm: str | None
    operation: str
    object: str
    debug_info: str | None
    created: float


class Ended(Struct, frozen=True, kw_only=True, tag="ended", tag_field="kind", gc=False):
    """A task has ended; `task` is the final Task, as clients see it."""

    id: str
    task: Raw


class Destroyed(Struct, frozen=True, kw_only=True, tag="destroyed", tag_field="kind", gc=False):
    """A task was forgotten on request."""

    id: str


TaskRecord = Accepted | Ended | Destroyed


class Heading(Struct, frozen=True, kw_only=True, gc=False):
    """What a task record is about, without the rest."""

    kind: Literal["accepted", "ended", "destroyed"]
    id: str


class LineDamaged(ValueError):
    """A line is not what was written; the text says how it shows."""


class Line(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A line as it stands in a file."""

    seq: int
    crc: str
    record: Raw


_encode = msgspec.json.Encoder().encode
_decode_line = msgspec.json.Decoder(Line).decode
_decode_record: Callable[[Raw], Record] = msgspec.json.Decoder(Record).decode
_decode_heading = msgspec.json.Decoder(Heading).decode
_decode_task: Callable[[Raw], TaskRecord] = msgspec.json.Decoder(TaskRecord).decode


def crc_of(seq: int, body: bytes | Raw) -> str:
    """The checksum of line number `seq` with the record `body`."""
    return f"{zlib.crc32(body, zlib.crc32(b'%d' % seq)):08x}"


def line_start(seq: int) -> bytes:
    """How line number `seq` begins, whatever it records."""
    return b'{"seq":%d,"crc":"' % seq


def encode_line(seq: int, record: Record | TaskRecord) -> bytes:
    """The line, with its newline."""
    body = _encode(record)
    if b"\n" in body:
        # In JSON a bare newline can only be white space, here in raw JSON made by others.
        body = body.replace(b"\n", b" ")
    crc = zlib.crc32(body, zlib.crc32(b"%d" % seq))
    return b'{"seq":%d,"crc":"%08x","record":%b}\n' % (seq, crc, body)


def decode_line(line: bytes) -> Line:
    """The checked parts of a line. Raises LineDamaged."""
    try:
        parts = _decode_line(line)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise LineDamaged(f"not a line of ours ({error})") from None
    if parts.crc != crc_of(parts.seq, parts.record):
        raise LineDamaged("the checksum does not match")
    return parts


def decode_record(line: Line) -> Record:
    """The journal record of a line. Raises LineDamaged, for an unknown kind too."""
    try:
        return _decode_record(line.record)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise LineDamaged(f"not a journal record ({error})") from None


def decode_heading(line: Line) -> Heading:
    """What the task record of a line is about. Raises LineDamaged."""
    try:
        return _decode_heading(line.record)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise LineDamaged(f"not a task record ({error})") from None


def decode_task(line: Line) -> TaskRecord:
    """The task record of a line. Raises LineDamaged, for an unknown kind too."""
    try:
        return _decode_task(line.record)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise LineDamaged(f"not a task record ({error})") from None


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a file read piece by piece, each with its newline but perhaps the last."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line + b"\n"
    if rest:
        yield rest
