"""The JSON-RPC 2.0 request around a call, and what to say of one that is none.

The way of a good request is one compiled decoding that leaves its params and id as they
stand on the wire. Only what that refuses is decoded again, to find out why.
"""

import re
from typing import Any, Literal

import msgspec
from msgspec import UNSET, DecodeError, Raw, Struct, UnsetType, ValidationError

from idl.errors import InvalidRequest, ParseError, ProtocolError, XenopsError
from xenopsd.rpc.limits import Limits

NULL = b"null"
MEMBERS = ("jsonrpc", "method", "params", "id", "traceparent")
_TOO_DEEP = "it is nested too deeply"
_SMALL_ID = 18  # digits that every decoder takes


class Envelope(Struct, frozen=True, forbid_unknown_fields=True):
    """A request; `id` UNSET is a notification."""

    jsonrpc: Literal["2.0"]
    method: str
    params: Raw = Raw(b"{}")
    id: Raw | UnsetType = UNSET
    traceparent: str | None = None


class _Identified(Struct, frozen=True):
    id: Raw | UnsetType = UNSET


_ENVELOPE = msgspec.json.Decoder(Envelope)
_IDENTIFIED = msgspec.json.Decoder(_Identified)
_ID = msgspec.json.Decoder(str | int | float | None)
_MEMBERS = msgspec.json.Decoder(list[Raw])


def is_fatal(error: XenopsError) -> bool:
    """Whether the connection is closed after this error: that of a message nested too deeply."""
    return isinstance(error, ParseError) and error.reason == _TOO_DEEP


def parsed(message: bytes | Raw) -> Any:
    """The message as plain values.

    Raises: ParseError with the reason.
    """
    try:
        return msgspec.json.decode(message)
    except RecursionError:
        raise ParseError(reason=_TOO_DEEP) from None
    except UnicodeDecodeError:
        raise ParseError(reason="it has text that is not UTF-8") from None
    except DecodeError as exc:
        raise ParseError(reason=_reason(str(exc))) from None


def _reason(text: str) -> str:
    if text.startswith("Input data was truncated"):
        return "it ends before it is complete"
    text = re.sub(r"^JSON is malformed: | - at `.*`$", "", text)
    return text[:1].lower() + text[1:]


def read(message: bytes | Raw, limits: Limits) -> tuple[Envelope, bytes | None]:
    """The request, and its id as it stands on the wire (None: a notification).

    Its params are as they came: neither their type nor their text is checked yet.
    Raises: some Exception; then `complaint` knows why.
    """
    envelope = _ENVELOPE.decode(message)
    if envelope.id is UNSET:
        return envelope, None
    id = bytes(envelope.id)
    if not (len(id) <= _SMALL_ID and id.isdigit()) and not _acceptable(id, limits):
        raise InvalidRequest(reason=_bad_id(limits))
    return envelope, id


def _acceptable(id: bytes, limits: Limits) -> bool:
    if len(id) > limits.id:
        return False
    try:
        _ID.decode(id)
    except ValidationError:
        return False
    return True


def _bad_id(limits: Limits) -> str:
    return f"id must be a string, a number or null, of at most {limits.id} bytes"


def complaint(message: bytes | Raw, limits: Limits) -> tuple[bytes, ProtocolError]:
    """Why `read` refused a message, and the id to answer with (null where it has none)."""
    try:
        members = parsed(message)
    except ParseError as exc:
        return NULL, exc
    if not isinstance(members, dict):
        return NULL, InvalidRequest(reason="an object is needed")
    found = _IDENTIFIED.decode(message).id
    id = NULL if found is UNSET else bytes(found)
    if not _acceptable(id, limits):
        return NULL, InvalidRequest(reason=_bad_id(limits))
    return id, InvalidRequest(reason=_fault(members))


def identity(message: bytes | Raw, limits: Limits) -> bytes | None:
    """The id of a member of a batch that is not looked at any further, as `read` gives it."""
    try:
        return read(message, limits)[1]
    except Exception:  # noqa: BLE001 -- whatever it is, it is answered without an id of its own
        return complaint(message, limits)[0]


def _fault(members: dict[str, Any]) -> str:
    for name in members:
        if name not in MEMBERS:
            return f"unknown member {name[:64]!r}"
    if members.get("jsonrpc") != "2.0":
        return 'jsonrpc must be "2.0"'
    if not isinstance(members.get("method"), str):
        return "method must be a string"
    return "traceparent must be a string"


def needs_structure(params: Any) -> None:
    """Raises: InvalidRequest unless params are what JSON-RPC allows."""
    if not isinstance(params, dict | list):
        raise InvalidRequest(reason="params must be an object or an array")


def members(message: bytes, limits: Limits) -> list[Raw]:
    """The members of a batch, in order; they share the message's memory.

    Raises: ParseError; InvalidRequest for no members, or for more than could be answered.
    """
    if message.count(b",") > limits.batch_commas:
        # Two million members would cost 150 MB before the first is looked at.
        raise InvalidRequest(reason=f"a batch has at most {limits.batch_members} members")
    try:
        found = _MEMBERS.decode(message)
    except Exception:  # noqa: BLE001 -- parsed says which
        parsed(message)
        raise InvalidRequest(reason="an array is needed") from None
    if not found:
        raise InvalidRequest(reason="a batch has at least one member")
    return found
