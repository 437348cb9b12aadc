import asyncio
import json
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from idl.calls import CALLS, Debug, Read, VmStat
from idl.errors import DoesNotExist
from xenopsd.rpc.answers import Pending, encoded, settled
from xenopsd.rpc.dispatch import Context, Dispatcher


def request(method="VM.stat", params='{"id":"a"}', id="1", extra=""):
    ident = f',"id":{id}' if id else ""
    return f'{{"jsonrpc":"2.0","method":"{method}","params":{params}{ident}{extra}}}'.encode()


def told(answer):
    return json.loads(encoded(answer))


def error_of(answer):
    return told(answer)["error"]["data"]["error"]


def test_a_call_is_answered_under_its_id(service, dispatcher, context):
    service.answers["VM.stat"] = {"x": 1}
    reply = told(dispatcher.answer(request(id='"i"'), context))
    assert reply == {"jsonrpc": "2.0", "result": {"x": 1}, "id": "i"}
    assert service.seen == [(VmStat(id="a"), context.caller)]


def test_params_may_be_absent(service, dispatcher, context):
    service.answers["VM.list"] = []
    message = b'{"jsonrpc":"2.0","method":"VM.list","id":1}'
    assert told(dispatcher.answer(message, context))["result"] == []


@pytest.mark.parametrize("name", ["context", "request", "self", "args", "call", "message"])
def test_no_parameter_collides_with_our_own_names(dispatcher, context, name):
    answer = dispatcher.answer(request(params=f'{{"id":"a","{name}":1}}'), context)
    assert told(answer)["error"]["data"]["reason"] == f"{name}: unknown parameter"


def test_an_error_carries_its_facts(service, dispatcher, context):
    def missing(call):
        raise DoesNotExist(kind="VM", id=call.id)

    service.answers["VM.stat"] = missing
    error = told(dispatcher.answer(request(), context))["error"]
    assert error["code"] == 1002
    assert error["data"] == {"error": "DoesNotExist", "kind": "VM", "id": "a"}


@pytest.mark.parametrize(
    ("message", "error", "id"),
    [
        (request("VM.nothing"), "MethodNotFound", 1),
        (request("__missing__"), "MethodNotFound", 1),
        (request("VM.nothing", params='"x"'), "InvalidRequest", 1),
        (request("VM.nothing", params='["\\ud800"]'), "ParseError", None),
        (request(params="{}"), "InvalidParams", 1),
        (request(params='{"id":1e999}'), "ParseError", None),
        (request(params="5"), "InvalidRequest", 1),
        (request(id="true"), "InvalidRequest", None),
        (request(id="[]"), "InvalidRequest", None),
        (request(id="{}"), "InvalidRequest", None),
        (request(id="1e999"), "ParseError", None),
        (request(extra=',"x":1'), "InvalidRequest", 1),
        (b"{", "ParseError", None),
        (b"7", "InvalidRequest", None),
        (b"[1]", "InvalidRequest", None),
        (request("DEBUG.shutdown", params="{}"), "MethodNotFound", 1),
    ],
)
def test_what_is_wrong_is_told_in_our_words(dispatcher, context, message, error, id):
    reply = told(dispatcher.answer(message, context))
    assert reply["error"]["data"]["error"] == error
    assert reply["id"] == id
    assert reply["error"]["message"].startswith(("The message", "Not a valid", "There", "Invalid"))


def test_deep_nesting_is_fatal(dispatcher, context):
    answer = dispatcher.answer(request(params="[" * 10_000), context)
    assert error_of(answer) == "ParseError"
    assert answer.fatal


def test_a_stray_exception_stays_in_the_log(service, dispatcher, context):
    def stray(call):
        raise KeyError("secret")

    service.answers["VM.stat"] = stray
    with capture_logs() as logs:
        reply = encoded(dispatcher.answer(request(), context))
    assert b"secret" not in reply
    data = json.loads(reply)["error"]["data"]
    assert data["error"] == "InternalError"
    assert [(log["incident"], log["method"]) for log in logs] == [(data["incident"], "VM.stat")]
    assert "secret" in repr(logs[0]["exc_info"])


def test_a_result_that_cannot_be_encoded_is_an_incident(service, dispatcher, context):
    service.answers["VM.stat"] = object()
    with capture_logs() as logs:
        assert error_of(dispatcher.answer(request(), context)) == "InternalError"
    assert len(logs) == 1


@pytest.mark.parametrize(
    "message",
    [
        request(id=""),
        request("VM.nothing", id=""),
        request(params="{}", id=""),
        request("DEBUG.shutdown", id=""),
    ],
)
def test_a_notification_has_no_answer(service, dispatcher, context, message):
    assert dispatcher.answer(message, context) is None


def test_a_traceparent_comes_with_the_caller(service, dispatcher, context):
    dispatcher.answer(request(extra=',"traceparent":"00-ab-cd-01"'), context)
    dispatcher.answer(request(), context)
    assert [caller.traceparent for _call, caller in service.seen] == ["00-ab-cd-01", None]


def test_the_document_comes_from_the_service(dispatcher, context):
    reply = told(dispatcher.answer(request("rpc.discover", params="{}"), context))
    assert reply["result"] == {"openrpc": "1.3.2"}


# Who may


@pytest.mark.parametrize("method", CALLS)
def test_the_read_only_socket_takes_reads_alone(debug_service, context, method):
    dispatcher = Dispatcher(debug_service)
    readonly = replace(context, caller=replace(context.caller, readonly=True))
    reply = told(dispatcher.answer(request(method, params='{"bad":0}'), readonly))
    allowed = issubclass(CALLS[method], Read)
    assert reply["error"]["data"]["error"] == ("InvalidParams" if allowed else "PermissionDenied")
    assert allowed or reply["error"]["data"]["method"] == method


@pytest.mark.parametrize("method", [name for name in CALLS if issubclass(CALLS[name], Debug)])
def test_debug_calls_are_for_root(debug_service, context, method):
    dispatcher = Dispatcher(debug_service)
    other = replace(context, caller=replace(context.caller, privileged=False))
    assert error_of(dispatcher.answer(request(method, params="5"), other)) == "PermissionDenied"
    params = '{"cmd":"x"}' if method == "DEBUG.trigger" else "{}"
    assert dispatcher.answer(request(method, params=params), context).error is None


# Futures


def test_a_future_is_answered_when_it_is_done(loop, service, dispatcher, context):
    future = loop.create_future()
    service.answers["UPDATES.get"] = lambda call: future
    answer = dispatcher.answer(request("UPDATES.get", params="{}"), context)
    assert isinstance(answer.result, Pending)
    assert answer.result.withdrawn
    future.set_result([1])
    assert told(settled(answer.id, answer.result)) == {"jsonrpc": "2.0", "result": [1], "id": 1}


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (DoesNotExist(kind="VM", id="a"), "DoesNotExist"),
        (ValueError("secret"), "InternalError"),
        (asyncio.CancelledError("secret"), "InternalError"),
    ],
)
def test_a_future_that_fails_is_told(loop, outcome, error):
    future = loop.create_future()
    future.set_exception(outcome)
    with capture_logs():
        reply = encoded(settled(b"1", Pending(future, "VM.add", withdrawn=False)))
    assert b"secret" not in reply
    assert json.loads(reply)["error"]["data"]["error"] == error


def test_a_cancelled_future_is_told(loop):
    future = loop.create_future()
    future.cancel()
    with capture_logs():
        assert error_of(settled(b"1", Pending(future, "m", withdrawn=True))) == "InternalError"


def test_where_no_more_may_wait_changes_are_not_accepted(
    loop, service, dispatcher, context, usage
):
    usage.waits = 3
    answer = dispatcher.answer(request("VM.start"), context)
    assert told(answer)["error"]["data"] == {"error": "TooManyRequests", "limit": 3, "queued": 3}
    assert service.seen == []


def test_where_no_more_may_wait_reads_that_do_not_wait_are_answered(
    loop, service, dispatcher, context, usage
):
    usage.waits = 3
    future = loop.create_future()
    service.answers |= {"VM.stat": 5, "UPDATES.get": lambda call: future}
    assert told(dispatcher.answer(request(), context))["result"] == 5
    waiting = dispatcher.answer(request("UPDATES.get", params="{}"), context)
    assert error_of(waiting) == "TooManyRequests"
    assert future.cancelled()


def test_nobody_waits_for_a_notification(loop, service, dispatcher, context):
    made = {"UPDATES.get": loop.create_future(), "VM.start": loop.create_future()}
    service.answers |= {method: (lambda call: made[call.method]) for method in made}
    dispatcher.answer(request("UPDATES.get", params="{}", id=""), context)
    dispatcher.answer(request("VM.start", id=""), context)
    assert made["UPDATES.get"].cancelled()
    assert not made["VM.start"].done()


# Updates


def test_a_subscription_answers_its_token(dispatcher, context):
    asked = []

    def subscribe(since):
        asked.append(since)
        return "token"

    with_updates = Context(context.caller, context.usage, subscribe)
    message = request("UPDATES.subscribe", params='{"since":"s"}')
    assert told(dispatcher.answer(message, with_updates))["result"] == "token"
    assert asked == ["s"]


def test_there_is_no_subscription_over_http(dispatcher, context):
    message = request("UPDATES.subscribe", params="{}")
    assert error_of(dispatcher.answer(message, context)) == "InvalidRequest"
