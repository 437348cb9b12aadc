"""One message to one call, through jsonrpcserver's synchronous dispatch.

The library keeps the protocol: it reads the request, finds the method, calls it, tells
requests from notifications. What it would do slowly or say carelessly is replaced: decoding
and validation by compiled msgspec decoders, the binding by signature (which would tell the
client Python's own words) by decoding into the call's class, and every error text by ours.

A message is accepted before `answer` returns; only the result may come later.
"""

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import structlog
from jsonrpcserver import Error, Result, Success
from jsonrpcserver.main import dispatch_to_response
from jsonrpcserver.response import to_serializable_one
from msgspec import Raw

from idl.calls import CALLS, Call, Debug, Read, RpcDiscover, UpdatesSubscribe
from idl.errors import InternalError, InvalidRequest, MethodNotFound, ParseError, XenopsError
from xenopsd.incident import incident
from xenopsd.rpc.access import Rule
from xenopsd.rpc.answers import Answer, Pending, refusal
from xenopsd.rpc.envelope import NULL, complaint, is_fatal, needs_structure, parsed, read
from xenopsd.rpc.limits import DEFAULT, Limits, Usage
from xenopsd.rpc.params import Reader
from xenopsd.rpc.service import Caller, Service

_log = structlog.get_logger()
_LONGEST_METHOD = 100
_LONGEST_TRACEPARENT = 256


@dataclass(frozen=True, slots=True)
class Context:
    """Where a message came from. `subscribe` makes the connection follow the updates and
    gives the token; None where that cannot be (HTTP).
    """

    caller: Caller
    usage: Usage
    subscribe: Callable[[str | None], str] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What a method gets beside the context, as the one positional parameter."""

    method: str
    params: Raw
    traceparent: str | None
    notification: bool


Method = Callable[[Context, Request], Result]


class _AnyArguments(inspect.Signature):
    """The library asks a method's signature whether the params fit; the call's class says."""

    def bind(self, *_args: Any, **_kwargs: Any) -> Any:
        return None


class _Methods(dict[str, Method]):
    """The calls by name; any other name finds the method that says so."""

    def __missing__(self, name: str) -> Method:
        return _missing


class Dispatcher:
    """Turns messages into answers by asking the service."""

    def __init__(self, service: Service, limits: Limits = DEFAULT) -> None:
        self._service = service
        self._limits = limits
        self._methods = _Methods(
            (name, _method(call, service))
            for name, call in CALLS.items()
            if service.debug or not issubclass(call, Debug)
        )
        _as_method(_missing)

    def answer(self, message: bytes | Raw, context: Context) -> Answer | None:
        """Accept a request and answer it; None for a notification."""
        response = dispatch_to_response(
            message,  # type: ignore[arg-type]  # only the deserializer looks at it
            self._methods,
            context=context,
            deserializer=self._deserialize,  # type: ignore[arg-type]  # which takes bytes
            validator=_valid_already,
            post_process=to_serializable_one,
        )
        if not isinstance(response, dict):
            return None
        if "result" in response:
            return Answer(response["id"], response["result"])
        return self._failed(message, response)

    def _deserialize(self, message: bytes | Raw) -> dict[str, Any]:
        envelope, id = read(message, self._limits)
        request = Request(envelope.method, envelope.params, envelope.traceparent, id is None)
        members: dict[str, Any] = {"method": envelope.method, "params": [request]}
        if id is not None:
            members["id"] = id
        return members

    def _failed(self, message: bytes | Raw, response: dict[str, Any]) -> Answer:
        data = response["error"].get("data")
        if isinstance(data, XenopsError):
            id = NULL if isinstance(data, ParseError) else response["id"]
            return refusal(id, data, fatal=is_fatal(data))
        # The library's own words: of a message that `_deserialize` did not take.
        id, error = complaint(message, self._limits)
        return refusal(id, error, fatal=is_fatal(error))


def _valid_already(request: Any) -> Any:
    return request


def _as_method(method: Method) -> Method:
    vars(method)["__signature__"] = _AnyArguments()
    return method


def _method(call: type[Call[Any]], service: Service) -> Method:
    """A call as the library wants it: it never raises, and answers a Result."""
    accept = _acceptance(call, service)

    def method(context: Context, request: Request, /) -> Result:
        try:
            return Success(accept(context, request))
        except XenopsError as exc:
            return _told(request, exc)
        except Exception as exc:  # noqa: BLE001 -- a fault of ours, told by its incident
            return _told(request, incident(exc, method=request.method))

    return _as_method(method)


def _acceptance(call: type[Call[Any]], service: Service) -> Callable[[Context, Request], Any]:
    rule, reader, reads = Rule(call), Reader(call), issubclass(call, Read)
    ask = _asked(call, service)

    def accept(context: Context, request: Request) -> Any:
        rule.check(context.caller)
        if request.traceparent is not None:
            context = traced(context, request.traceparent)
        accepted = reader.read(request.params)
        if not reads and context.usage.full:
            # Before the call is accepted: afterwards nobody could be told that it was not.
            raise context.usage.too_many_waits()
        result = ask(accepted, context)
        if not asyncio.isfuture(result):
            return result
        return _pending(Pending(result, call.method, reads), context, request)

    return accept


def _asked(call: type[Call[Any]], service: Service) -> Callable[[Any, Context], Any]:
    if call is RpcDiscover:
        return lambda _call, _context: Raw(service.openrpc())
    if call is UpdatesSubscribe:
        return _subscribed
    return lambda accepted, context: service.answer(accepted, context.caller)


def _subscribed(call: UpdatesSubscribe, context: Context) -> str:
    if context.subscribe is None:
        raise InvalidRequest(reason="UPDATES.subscribe needs a connection of JSON lines, not HTTP")
    return context.subscribe(call.since)


def traced(context: Context, traceparent: str) -> Context:
    """The context of a request that came with a traceparent."""
    caller = replace(context.caller, traceparent=traceparent[:_LONGEST_TRACEPARENT])
    return replace(context, caller=caller)


def _pending(pending: Pending, context: Context, request: Request) -> Pending | None:
    """Raises: TooManyRequests for a read that would wait where no more may."""
    if not request.notification and not context.usage.full:
        return pending
    # Nobody will wait for it: nothing counts it, so nothing may keep it either.
    pending.forget()
    if not request.notification:
        raise context.usage.too_many_waits()
    return None


def _told(request: Request, error: XenopsError) -> Result:
    if request.notification and not isinstance(error, InternalError):
        _log.debug("notification_refused", method=request.method, error=type(error).__name__)
    return Error(error.code, "", error)


def _missing(_context: Context, request: Request, /) -> Result:
    try:
        needs_structure(parsed(request.params))
    except XenopsError as exc:
        return _told(request, exc)
    return _told(request, MethodNotFound(method=request.method[:_LONGEST_METHOD]))
