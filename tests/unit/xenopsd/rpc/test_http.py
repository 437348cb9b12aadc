import json

import pytest

from xenopsd.rpc.http import CLOSE, HttpRefused, HttpRequest, HttpWire, error_body
from xenopsd.rpc.limits import Limits

LIMITS = Limits(request=100, headers=1000)
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


def fed(*pieces: bytes) -> HttpWire:
    wire = HttpWire(LIMITS)
    for piece in pieces:
        wire.feed(piece)
    return wire


@pytest.mark.parametrize(
    ("pieces", "request_"),
    [
        pytest.param([POST], HttpRequest("POST", "/", b"{}", None), id="a body"),
        pytest.param(
            [POST[i : i + 1] for i in range(len(POST))],
            HttpRequest("POST", "/", b"{}", None),
            id="byte by byte",
        ),
        pytest.param([GET], HttpRequest("GET", "/metrics", b"", None), id="no body"),
        pytest.param(
            [b"GET /metrics?a=b HTTP/1.1\r\nHost: x\r\n\r\n"],
            HttpRequest("GET", "/metrics", b"", None),
            id="a query",
        ),
        pytest.param(
            [b"POST / HTTP/1.1\r\nHost: x\r\nTraceparent: 00-a\r\nContent-Length: 0\r\n\r\n"],
            HttpRequest("POST", "/", b"", "00-a"),
            id="a traceparent",
        ),
        pytest.param(
            [
                b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
                b"1\r\n}\r\n0\r\n\r\n",
            ],
            HttpRequest("POST", "/", b"{}", None),
            id="chunks",
        ),
    ],
)
def test_a_request_comes_whole(pieces, request_):
    assert fed(*pieces).next() == request_


def test_the_next_request_comes_after_the_answer():
    wire = fed(GET + POST)
    assert wire.next() == HttpRequest("GET", "/metrics", b"", None)
    assert wire.next() is None
    assert wire.respond(200, b"x").endswith(b"\r\n\r\nx")
    assert wire.next() == HttpRequest("POST", "/", b"{}", None)


@pytest.mark.parametrize(
    ("received", "status"),
    [
        pytest.param(b"\x00\x01\x02\r\n\r\n", 400, id="garbage"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no host"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400, id="no number"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            400,
            id="two lengths",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 101\r\n\r\n", 413, id="a long body"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n"
            + b"x" * 101
            + b"\r\n0\r\n\r\n",
            413,
            id="long chunks",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 1001 + b"\r\n\r\n",
            431,
            id="a long header",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 1001, 431, id="an endless header"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501, id="gzip"
        ),
    ],
)
def test_what_is_no_request_is_refused_with_a_status(received, status):
    wire = fed(received)
    with pytest.raises(HttpRefused) as caught:
        wire.next()
    assert caught.value.status == status
    response = wire.respond(status, error_body(caught.value.reason))
    assert response.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in response.lower()
    assert wire.ended


def test_an_end_in_the_middle_is_refused():
    wire = fed(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{}", b"")
    with pytest.raises(HttpRefused):
        wire.next()


def test_an_end_between_requests_is_the_end():
    wire = fed(GET, b"")
    wire.next()
    wire.respond(200)
    assert wire.next() is None
    assert wire.ended


def test_a_peer_that_waits_is_told_to_go_on_once():
    wire = fed(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert wire.next() is None
    assert wire.wants_continue
    assert wire.go_on() == b"HTTP/1.1 100 \r\n\r\n"
    assert not wire.wants_continue
    wire.feed(b"{}")
    assert wire.next() == HttpRequest("POST", "/", b"{}", None)


def test_http_1_0_is_answered_and_closed():
    wire = fed(b"GET /metrics HTTP/1.0\r\n\r\n")
    wire.next()
    wire.respond(200, b"x")
    assert wire.ended


def test_head_has_no_body():
    wire = fed(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
    wire.next()
    response = wire.respond(200, b"abc")
    assert b"content-length: 3" in response.lower()
    assert response.endswith(b"\r\n\r\n")
    assert wire.next() is not None


def test_no_content_has_no_length():
    wire = fed(POST)
    wire.next()
    assert b"content-length" not in wire.respond(204).lower()
    assert not wire.ended


def test_an_answer_may_be_the_last():
    wire = fed(POST + GET)
    wire.next()
    wire.respond(200, b"{}", headers=[CLOSE])
    assert wire.ended


def test_the_backlog_is_what_was_not_looked_at():
    wire = fed(GET, GET)
    assert wire.backlog == 2 * len(GET)
    wire.next()
    assert wire.backlog == len(GET)


def test_an_error_body_is_an_answer_of_json_rpc():
    assert json.loads(error_body("why"))["error"]["data"] == {
        "error": "InvalidRequest",
        "reason": "why",
    }
