"""JSON-RPC 2.0 as a client writes and reads it: a line each way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from idl.link import ConnectionFailed
from idl.task import ErrorObject

T = TypeVar("T")


class Request(Struct, frozen=True, kw_only=True):
    """A JSON-RPC request."""

    id: int
    method: str
    params: dict[str, Any]
    jsonrpc: str = "2.0"


class Message(Struct, frozen=True, kw_only=True):
    """What the daemon sends: an answer (with an id) or a notification (with a method)."""

    id: int | str | None = None
    result: Raw = Raw()
    error: ErrorObject | None = None
    method: str | None = None
    params: Raw = Raw()


#: What decoding raises: a DecodeError and a UnicodeDecodeError are ValueErrors.
UNREADABLE = (ValueError, RecursionError)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Message).decode


def line(request: Request) -> bytes:
    """A request as it is sent."""
    return _encode(request) + b"\n"


def message(line: bytes, path: Path) -> Message:
    """A line that was received. Raises ConnectionFailed for what is no JSON-RPC."""
    try:
        return _decode(line)
    except UNREADABLE as error:
        raise ConnectionFailed(path, f"it does not speak JSON-RPC: {error}") from error


def understood(decode: Callable[[Raw], T], answer: Raw, path: Path, method: str) -> T:
    """What was answered to a call. Raises ConnectionFailed for what is not its type."""
    try:
        return decode(answer)
    except UNREADABLE as error:
        reason = f"its answer to {method} is not understood: {error}"
        raise ConnectionFailed(path, reason, "use a client of its version") from error
