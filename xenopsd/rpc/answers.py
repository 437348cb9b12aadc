"""What goes back: a result, an error, or a wait for either; and how each is encoded.

A stray exception becomes an `InternalError` here and its text goes to the log alone.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw

from idl.errors import XenopsError
from xenopsd.incident import incident

_ENCODER = msgspec.json.Encoder()


@dataclass(slots=True)
class Pending:
    """A result that is not there yet; a `withdrawn` one is cancelled when nobody waits."""

    future: "asyncio.Future[Any]"
    method: str
    withdrawn: bool

    def forget(self) -> None:
        """Nobody waits for it any more."""
        self.future.add_done_callback(_overheard)
        if self.withdrawn:
            self.future.cancel()


def _overheard(future: "asyncio.Future[Any]") -> None:
    # Taken, so that asyncio does not complain of an exception that nobody has seen.
    if not future.cancelled():
        future.exception()


@dataclass(slots=True)
class Answer:
    """The answer to the request `id` (as it stands on the wire): a result, or a Pending, or
    an error object. After a `fatal` one the connection is closed.
    """

    id: bytes
    result: Any = None
    error: Any = None
    fatal: bool = False


def refusal(id: bytes, error: XenopsError, *, fatal: bool = False) -> Answer:
    """The answer that is an error."""
    return Answer(id, error=error.error_object(), fatal=fatal)


def settled(id: bytes, pending: Pending) -> Answer:
    """The answer once the future is done."""
    try:
        return Answer(id, pending.future.result())
    except XenopsError as exc:
        return refusal(id, exc)
    except (Exception, asyncio.CancelledError) as exc:  # noqa: BLE001 -- told by its incident
        return refusal(id, incident(exc, method=pending.method))


def encoded(answer: Answer) -> bytes:
    """The response object, on one line without its end."""
    try:
        if answer.error is not None:
            return _error(answer)
        result = answer.result
        value = result if isinstance(result, Raw) else _ENCODER.encode(result)
        return b"".join((b'{"jsonrpc":"2.0","result":', value, b',"id":', answer.id, b"}"))
    except Exception as exc:  # noqa: BLE001 -- a result that cannot be encoded
        return _error(refusal(answer.id, incident(exc)))


def _error(answer: Answer) -> bytes:
    error = _ENCODER.encode(answer.error)
    return b"".join((b'{"jsonrpc":"2.0","error":', error, b',"id":', answer.id, b"}"))


def notification(method: str, params: Raw) -> bytes:
    """A notification from the daemon, on one line without its end."""
    name = _ENCODER.encode(method)
    return b"".join((b'{"jsonrpc":"2.0","method":', name, b',"params":', params, b"}"))
