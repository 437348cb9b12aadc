"""HTTP on the same sockets."""

import json

import pytest
from rigs.rpcserver import LOOPS, call, error_of, running

BODY = call("VM.list", 1).rstrip()


@pytest.fixture(scope="module", params=LOOPS)
def server(request):
    with running(request.param) as found:
        yield found


@pytest.fixture
def peer(server):
    with server.peer() as found:
        yield found


def post(body: bytes, *headers: str, length: int | None = None) -> bytes:
    lines = [
        "POST / HTTP/1.1",
        "Host: x",
        f"Content-Length: {len(body) if length is None else length}",
    ]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def get(path: str, method: str = "GET", *headers: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def response(peer, *, head_only: bool = False) -> tuple[int, dict[str, str], bytes]:
    read = b""
    while b"\r\n\r\n" not in read:
        data = peer.sock.recv(1)
        if not data:
            raise EOFError(read)
        read += data
    status, *lines = read.decode().strip().split("\r\n")
    headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
    body = b""
    while not head_only and len(body) < int(headers.get("content-length", 0)):
        body += peer.sock.recv(int(headers["content-length"]) - len(body))
    return int(status.split()[1]), headers, body


def test_a_call_is_answered_and_the_connection_kept(peer):
    for id in (1, 2):
        peer.send(post(call("VM.list", id)))
        status, headers, body = response(peer)
        assert (status, headers["content-type"]) == (200, "application/json")
        assert json.loads(body) == {"jsonrpc": "2.0", "result": ["a", "b"], "id": id}


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/metrics", "text/plain", b"up 1\n"),
        ("/openrpc.json", "application/json", b'{"openrpc":"1.3.2"}'),
        ("/healthz", "application/json", b'{"well":true}'),
        ("/metrics?x=y", "text/plain", b"up 1\n"),
    ],
)
def test_what_can_be_got(peer, path, kind, body):
    peer.send(get(path) + get(path, "HEAD"))
    status, headers, found = response(peer)
    assert (status, headers["content-type"].partition(";")[0], found) == (200, kind, body)
    status, headers, _ = response(peer, head_only=True)
    assert (status, headers["content-length"]) == (200, str(len(body)))


def test_health_that_is_not_well_is_a_503(server, peer):
    server.service.debug = True
    peer.send(get("/healthz"))
    assert response(peer)[0] == 503
    server.service.debug = False


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/nothing"), 404),
        (post(BODY).replace(b"/", b"/nothing", 1), 404),
        (get("/"), 405),
        (get("/", "DELETE"), 405),
        (post(b"").replace(b"/", b"/metrics", 1), 405),
    ],
)
def test_other_places_and_methods_are_told(peer, request_, status):
    peer.send(request_ + get("/healthz"))
    found, headers, body = response(peer)
    assert found == status
    assert error_of(json.loads(body)) == "InvalidRequest"
    assert ("allow" in headers) is (status == 405)
    assert response(peer)[0] == 200


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"{", "ParseError"),
        (b"", "ParseError"),
        (b"[]", "InvalidRequest"),
        (call("VM.nothing"), "MethodNotFound"),
        (call("VM.stat"), "InvalidParams"),
        (call("UPDATES.subscribe"), "InvalidRequest"),
    ],
)
def test_a_bad_message_is_told_in_a_good_response(peer, body, error):
    peer.send(post(body) + post(BODY))
    status, _, found = response(peer)
    assert (status, error_of(json.loads(found))) == (200, error)
    assert json.loads(response(peer)[2])["id"] == 1


def test_deep_nesting_closes(peer):
    peer.send(post(b"[" * 10_000))
    status, headers, body = response(peer)
    assert (status, headers["connection"]) == (200, "close")
    assert error_of(json.loads(body)) == "ParseError"
    assert peer.rest() == b""


def test_a_notification_has_no_content(peer):
    peer.send(post(b'{"jsonrpc":"2.0","method":"VM.list"}') + post(BODY))
    assert response(peer)[0] == 204
    assert response(peer)[0] == 200


def test_a_batch_is_answered(peer):
    peer.send(post(b"[" + BODY + b"," + BODY + b"]"))
    assert [reply["id"] for reply in json.loads(response(peer)[2])] == [1, 1]


def test_pipelined_requests_are_answered_in_order(server, peer):
    peer.send(post(call("UPDATES.get", 1)) + post(call("VM.list", 2)) + get("/healthz"))
    server.eventually(lambda: bool(server.service.waiting))
    assert len(server.service.waiting) == 1
    server.on_loop(lambda: server.service.waiting.pop().set_result("late"))
    assert json.loads(response(peer)[2])["result"] == "late"
    assert json.loads(response(peer)[2])["id"] == 2
    assert response(peer)[2] == b'{"well":true}'


def test_many_pipelined_requests(peer):
    peer.send(post(BODY) * 500)
    assert [response(peer)[0] for _ in range(500)] == [200] * 500


def test_a_request_may_come_in_pieces(peer):
    for byte in post(BODY):
        peer.send(bytes([byte]))
    assert json.loads(response(peer)[2])["id"] == 1


def test_chunks_are_put_together(peer):
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in (BODY[:5], BODY[5:9], BODY[9:]))
    peer.send(head + chunks + b"0\r\n\r\n" + post(BODY))
    assert json.loads(response(peer)[2])["id"] == 1
    assert json.loads(response(peer)[2])["id"] == 1


def test_a_traceparent_is_handed_on(server, peer):
    server.service.seen.clear()
    peer.send(post(BODY, "traceparent: 00-ab-cd-01"))
    response(peer)
    assert server.service.seen[-1][1].traceparent == "00-ab-cd-01"


def test_a_peer_that_waits_to_send_its_body_is_told_to(peer):
    peer.send(post(BODY, "Expect: 100-continue").removesuffix(BODY))
    assert response(peer)[0] == 100
    peer.send(BODY)
    assert response(peer)[0] == 200


# What ends a connection


def refused(server, peer, status):
    found, headers, body = response(peer)
    assert (found, headers["connection"]) == (status, "close")
    assert error_of(json.loads(body)) == "InvalidRequest"
    assert peer.rest() == b""
    with server.peer() as other:
        other.send(get("/healthz"))
        assert response(other)[0] == 200


def test_a_length_that_is_too_short_spoils_what_follows(server, peer):
    peer.send(post(BODY, length=len(BODY) - 5))
    assert error_of(json.loads(response(peer)[2])) == "ParseError"
    peer.send(b"\r\n\r\n")
    refused(server, peer, 400)


def test_a_length_that_is_too_long_is_told_at_the_end(server, peer):
    peer.send(post(BODY, length=len(BODY) + 5))
    peer.end()
    refused(server, peer, 400)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(post(BODY, "Content-Length: 5"), 400, id="two lengths"),
        pytest.param(post(b"", length=2**23), 413, id="a length over the limit"),
        pytest.param(post(b"x" * 5 * 2**20), 413, id="a body over the limit"),
        pytest.param(get("/", "GET", "A: " + "a" * 100_000), 431, id="a header over the limit"),
        pytest.param(get("/", "GET", *["A: b"] * 20_000), 431, id="too many headers"),
        pytest.param(b"nonsense\r\n\r\n", 400, id="no HTTP"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no host"),
    ],
)
def test_what_is_no_request_is_refused(server, peer, request_, status):
    peer.send(request_)
    refused(server, peer, status)


def test_the_last_request_closes(peer):
    peer.send(post(BODY, "Connection: close"))
    assert response(peer)[0] == 200
    assert peer.rest() == b""


def test_http_1_0_is_answered_and_closed(peer):
    peer.send(b"GET /healthz HTTP/1.0\r\n\r\n")
    assert response(peer)[0] == 200
    assert peer.rest() == b""


def test_a_peer_that_has_ended_is_still_answered(server, peer):
    peer.send(post(call("UPDATES.get", 1)))
    peer.end()
    server.eventually(lambda: bool(server.service.waiting))
    server.on_loop(lambda: server.service.waiting.pop().set_result("late"))
    assert json.loads(response(peer)[2])["result"] == "late"
    assert peer.rest() == b""


def fill(peer, data: bytes) -> None:
    """Send until no more is taken."""
    peer.sock.setblocking(False)
    try:
        while True:
            peer.sock.send(data)
    except BlockingIOError:
        peer.sock.settimeout(20)


def test_of_a_peer_that_vanishes_the_wait_is_withdrawn(server):
    with server.peer() as peer:
        peer.send(post(call("UPDATES.get", 1)))
        server.eventually(lambda: bool(server.service.waiting))
        fill(peer, post(BODY) * 100)
    future = server.service.waiting.pop()
    server.eventually(future.cancelled)
