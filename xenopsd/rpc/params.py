"""Params of a request to a call, and what is wrong with them in words that name the place.

A good call is one compiled decoding of the text as it came. Only what that refuses is taken
apart: as plain values, with msgspec's complaint put into the interface's words.
"""

from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw, ValidationError

from idl.calls import Call, parameters
from idl.complaint import explain
from idl.errors import InvalidParams
from xenopsd.rpc.envelope import needs_structure, parsed

C = TypeVar("C", bound=Call[Any])


class Reader(Generic[C]):
    """Decodes the params of one call."""

    __slots__ = ("_call", "_decoder", "_names")

    def __init__(self, call: type[C]) -> None:
        self._call = call
        self._decoder = msgspec.json.Decoder(call)
        self._names = parameters(call)

    def read(self, params: Raw) -> C:
        """The call.

        Raises: InvalidParams naming the place; InvalidRequest for params that are neither an
        object nor an array; ParseError for text that no decoder takes.
        """
        try:
            accepted: C = self._decoder.decode(params)
        except (ValueError, RecursionError):  # ValidationError and UnicodeDecodeError are ones
            return self.convert(parsed(params))
        return accepted

    def convert(self, params: Any) -> C:
        """The call from plain values: an object, or an array in positional order.

        Raises: InvalidParams, InvalidRequest.
        """
        needs_structure(params)
        named = params if isinstance(params, dict) else self._by_name(params)
        try:
            accepted: C = msgspec.convert(named, self._call)
        except ValidationError as exc:
            wrong = explain(str(exc), named, self._call, top="parameter")
            raise InvalidParams(reason=wrong) from None
        return accepted

    def _by_name(self, values: list[Any]) -> dict[str, Any]:
        if len(values) > len(self._names):
            most = len(self._names)
            names = f" ({', '.join(self._names)})" if most else ""
            raise InvalidParams(
                reason=f"[{most}]: unknown parameter: {self._call.method} takes {most}{names}"
            )
        return dict(zip(self._names, values, strict=False))
