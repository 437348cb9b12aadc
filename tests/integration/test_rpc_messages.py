"""Whatever comes over a socket gets the right answer, and the daemon goes on."""

import json
import threading

import pytest
from rigs.rpcserver import LOOPS, Peer, call, error_of, running

MIB = 2**20


@pytest.fixture(scope="module", params=LOOPS)
def server(request):
    with running(request.param) as found:
        yield found


@pytest.fixture
def peer(server):
    with server.peer() as found:
        yield found


def alive(peer: Peer) -> bool:
    return peer.ask("VM.list", "alive")["id"] == "alive"


def test_a_call_is_answered(peer):
    assert peer.ask("VM.list", 7) == {"jsonrpc": "2.0", "result": ["a", "b"], "id": 7}


@pytest.mark.parametrize(
    ("line", "error"),
    [
        pytest.param(b'{"jsonrpc":"2.0",', "ParseError", id="malformed"),
        pytest.param(b"{]", "ParseError", id="no JSON"),
        pytest.param(b"{} {}", "ParseError", id="two values"),
        pytest.param(b"[1,", "ParseError", id="a batch cut short"),
        pytest.param(
            b'{"jsonrpc":"2.0","method":"VM.stat","params":{"id":NaN},"id":1}',
            "ParseError",
            id="NaN",
        ),
        pytest.param(
            b'{"jsonrpc":"2.0","method":"VM.shutdown","params":{"id":"a","timeout":Infinity},"id":1}',
            "ParseError",
            id="Infinity",
        ),
        pytest.param(
            b'{"jsonrpc":"2.0","method":"VM.shutdown","params":{"id":"a","timeout":1e999},"id":1}',
            "ParseError",
            id="a number out of range",
        ),
        pytest.param(
            b'{"jsonrpc":"2.0","method":"VM.stat","params":{"id":"\xff"},"id":1}',
            "ParseError",
            id="invalid UTF-8 in params",
        ),
        pytest.param(
            b'{"jsonrpc":"2.0","method":"\xff","id":1}',
            "ParseError",
            id="invalid UTF-8 in a method",
        ),
        pytest.param(
            b'{"jsonrpc":"2.0","method":"VM.list","id":"\xff"}',
            "ParseError",
            id="invalid UTF-8 in an id",
        ),
        pytest.param(b"[]", "InvalidRequest", id="an empty batch"),
        pytest.param(b"{}", "InvalidRequest", id="an empty object"),
        pytest.param(b'{"jsonrpc":"1.0","method":"VM.list","id":1}', "InvalidRequest", id="1.0"),
        pytest.param(
            b'{"jsonrpc":"2.0","method":"VM.list","params":"x","id":1}',
            "InvalidRequest",
            id="params that are text",
        ),
        pytest.param(
            b'{"jsonrpc":"2.0","method":"VM.list","id":1,"x":2}',
            "InvalidRequest",
            id="an unknown member",
        ),
        pytest.param(
            b'{"jsonrpc":"2.0","method":"VM.stat","params":{"id":5},"id":1}',
            "InvalidParams",
            id="a wrong type",
        ),
        pytest.param(
            b'{"jsonrpc":"2.0","method":"VM.add","params":{"vm":{"id":"a","x":1}},"id":1}',
            "InvalidParams",
            id="an unknown field",
        ),
        pytest.param(
            b'{"jsonrpc":"2.0","method":"VM.nothing","id":1}',
            "MethodNotFound",
            id="unknown method",
        ),
        pytest.param(
            b'{"jsonrpc":"2.0","method":"VM.stat","params":{"id":"none"},"id":1}',
            "DoesNotExist",
            id="an error of the call",
        ),
    ],
)
def test_a_bad_message_gets_its_error_and_harms_no_other(peer, line, error):
    before, after = call("VM.list", "before"), call("VM.list", "after")
    peer.send(before + line + b"\n" + after)
    replies = [peer.line() for _ in range(3)]
    assert [reply["id"] for reply in replies[::2]] == ["before", "after"]
    assert error_of(replies[1]) == error
    assert alive(peer)


@pytest.mark.parametrize("torn", [1, 7, 40])
def test_a_message_may_come_in_pieces(peer, torn):
    message = call("VM.list")
    for start in range(0, len(message), torn):
        peer.send(message[start : start + torn])
    assert peer.line()["result"] == ["a", "b"]


def test_blank_lines_are_nothing(peer):
    peer.send(b"\n \r\n" + call("VM.list", 1) + b"\n\n" + call("VM.list", 2))
    assert [peer.line()["id"], peer.line()["id"]] == [1, 2]


@pytest.mark.parametrize(
    "id", ["text", "", 0, -5, 1.5, 2**62, 12345678901234567890123, None], ids=repr
)
def test_an_id_comes_back_as_it_was(peer, id):
    assert peer.ask("VM.list", id) == {"jsonrpc": "2.0", "result": ["a", "b"], "id": id}


@pytest.mark.parametrize("id", [True, False, [], [1], {}, {"a": 1}], ids=repr)
def test_an_id_that_is_none_is_refused(peer, id):
    reply = peer.ask("VM.list", id)
    assert (error_of(reply), reply["id"]) == ("InvalidRequest", None)
    assert alive(peer)


def test_a_notification_is_carried_out_and_not_answered(server, peer):
    peer.send(notification("VM.start", "noted"))
    peer.send(notification("VM.stat", "none") + notification("VM.nothing", "x"))
    assert alive(peer)
    assert "noted" in [getattr(call_, "id", None) for call_, _ in server.service.seen]


def notification(method: str, vm: str) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": {"id": vm}}).encode() + b"\n"


def test_a_stray_exception_is_an_incident(peer):
    peer.send(b'{"jsonrpc":"2.0","method":"VM.exists","params":["a"],"id":1}\n')
    reply = peer.line()
    assert error_of(reply) == "InternalError"
    assert "secret" not in json.dumps(reply)
    assert alive(peer)


def test_calls_are_accepted_in_the_order_sent(server, peer):
    names = [f"vm{n}" for n in range(500)]
    peer.send(
        b"".join(
            b'{"jsonrpc":"2.0","method":"VM.start","params":["%s"],"id":1}\n' % name.encode()
            for name in names
        )
    )
    tasks = [peer.line()["result"] for _ in names]
    assert len(set(tasks)) == len(names)
    seen = [getattr(found, "id", "") for found, _ in server.service.seen]
    assert [name for name in seen if name.startswith("vm")] == names
    server.service.seen.clear()


# What ends a connection


def refused(server, peer, error):
    reply = peer.line()
    assert (error_of(reply), reply["id"]) == (error, None)
    assert peer.rest() == b""
    with server.peer() as other:
        assert alive(other)


def test_a_cut_line_and_an_end_are_told(server, peer):
    peer.send(call("VM.list", 1) + call("VM.list", 2)[:-9])
    peer.end()
    assert peer.line()["id"] == 1
    refused(server, peer, "ParseError")


def test_a_last_line_needs_no_newline(peer):
    peer.send(call("VM.list", 1).rstrip())
    peer.end()
    assert peer.line()["id"] == 1
    assert peer.rest() == b""


@pytest.mark.parametrize("size", [4 * MIB + 1, 5 * MIB])
def test_a_line_that_is_too_long_is_refused(server, peer, size):
    peer.send(b'{"a":"' + b"x" * (size - 8) + b'"}\n')
    refused(server, peer, "InvalidRequest")


def test_an_endless_line_is_refused_before_it_ends(server, peer):
    peer.send(call("VM.list", 1) + b'{"a":"' + b"x" * 5 * MIB)
    assert peer.line()["id"] == 1
    refused(server, peer, "InvalidRequest")


def test_a_request_of_almost_the_limit_is_answered(peer):
    message = call("VM.list", 1).rstrip()
    peer.send(message + b" " * (4 * MIB - len(message)) + b"\n")
    assert peer.line()["id"] == 1


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"jsonrpc":"2.0","params":['])
def test_deep_nesting_is_refused(server, peer, opening):
    peer.send(opening * 10_000 + b"\n")
    refused(server, peer, "ParseError")


# Batches


def batch(*messages) -> bytes:
    return json.dumps(messages).encode() + b"\n"


def member(id, method="VM.list", /, **params):
    return {"jsonrpc": "2.0", "method": method, "params": params, "id": id}


def test_a_batch_is_answered_in_its_order(peer):
    peer.send(batch(member(1), member(2, "VM.stat", id="a")) + call("VM.list", 3))
    replies = [peer.line(), peer.line()]
    assert [reply["id"] for reply in replies[0]] == [1, 2]
    assert replies[1]["id"] == 3


def test_a_batch_of_a_thousand(peer):
    peer.send(batch(*(member(n) for n in range(1000))))
    replies = peer.line()
    assert [reply["id"] for reply in replies] == list(range(1000))
    assert all("result" in reply for reply in replies)


def test_of_a_batch_of_more_the_rest_is_turned_away(peer):
    peer.send(batch(*(member(n) for n in range(1003))))
    replies = peer.line()
    assert [reply["id"] for reply in replies] == list(range(1003))
    assert all("result" in reply for reply in replies[:1000])
    assert [reply["error"]["data"] for reply in replies[1000:]] == [
        {"error": "TooManyRequests", "limit": 1000, "queued": 1003}
    ] * 3


def test_one_bad_member_gets_its_own_error(peer):
    peer.send(batch(member(1), 5, member(2, "VM.stat", id="none"), member(3), []))
    replies = peer.line()
    assert [reply["id"] for reply in replies] == [1, None, 2, 3, None]
    assert [error_of(reply) for reply in replies if "error" in reply] == [
        "InvalidRequest",
        "DoesNotExist",
        "InvalidRequest",
    ]


def test_a_batch_of_notifications_is_not_answered(peer):
    peer.send(batch({"jsonrpc": "2.0", "method": "VM.list"}) + call("VM.list", 2))
    assert peer.line()["id"] == 2


def test_a_batch_of_millions_is_refused_as_one(peer):
    peer.send(b"[" + b"1," * MIB + b"1]\n")
    assert error_of(peer.line()) == "InvalidRequest"
    assert alive(peer)


# Many


def test_a_thousand_clients_at_once_all_get_in(server):
    peers, failed = [], []
    gate = threading.Barrier(10)

    def connect() -> None:
        gate.wait()
        try:
            for _ in range(100):
                found = server.peer()
                peers.append(found)
                found.send(call("VM.list"))
        except OSError as exc:
            failed.append(exc)

    threads = [threading.Thread(target=connect) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert [found.line()["id"] for found in peers] == [1] * 1000
    for found in peers:
        found.close()
    server.eventually(lambda: server.server.connections < 1000)
