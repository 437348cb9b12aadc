import pytest

from idl.errors import InvalidRequest, ParseError
from xenopsd.rpc.envelope import complaint, identity, is_fatal, members, parsed, read
from xenopsd.rpc.limits import Limits

LIMITS = Limits(id=20, batch_commas=10)


@pytest.mark.parametrize(
    ("id", "text"),
    [
        ("1", b"1"),
        ('"a"', b'"a"'),
        ("null", b"null"),
        ("1.50", b"1.50"),
        ("-1", b"-1"),
        ("1e3", b"1e3"),
        ("12345678901234567890", b"12345678901234567890"),
        (' "a" ', b'"a"'),
    ],
)
def test_an_id_is_kept_as_it_stands(id, text):
    message = f'{{"jsonrpc":"2.0","method":"m","id":{id}}}'.encode()
    assert read(message, LIMITS)[1] == text


def test_a_request_without_an_id_is_a_notification():
    assert read(b'{"jsonrpc":"2.0","method":"m"}', LIMITS)[1] is None


def test_a_traceparent_may_be_a_member():
    envelope, _id = read(b'{"jsonrpc":"2.0","method":"m","traceparent":"t"}', LIMITS)
    assert envelope.traceparent == "t"


@pytest.mark.parametrize(
    ("message", "id", "error", "word"),
    [
        pytest.param(b"{", b"null", ParseError, "complete", id="cut"),
        pytest.param(b"{]", b"null", ParseError, "must be strings", id="malformed"),
        pytest.param(b'{"id":NaN}', b"null", ParseError, "invalid", id="NaN"),
        pytest.param(b'{"id":1e999}', b"null", ParseError, "out of range", id="too large"),
        pytest.param(b'{"id":"\xff"}', b"null", ParseError, "UTF-8", id="no UTF-8"),
        pytest.param(b"5", b"null", InvalidRequest, "object", id="a number"),
        pytest.param(b"[]", b"null", InvalidRequest, "object", id="an array"),
        pytest.param(b"{}", b"null", InvalidRequest, "jsonrpc", id="empty"),
        pytest.param(b'{"jsonrpc":"1.0","id":1}', b"1", InvalidRequest, "jsonrpc", id="1.0"),
        pytest.param(b'{"jsonrpc":"2.0","id":1}', b"1", InvalidRequest, "method", id="no method"),
        pytest.param(
            b'{"jsonrpc":"2.0","method":5,"id":1}', b"1", InvalidRequest, "method", id="5"
        ),
        pytest.param(
            b'{"jsonrpc":"2.0","method":"m","id":true}',
            b"null",
            InvalidRequest,
            "id must",
            id="an id that is a bool",
        ),
        pytest.param(
            b'{"jsonrpc":"2.0","method":"m","id":"%s"}' % (b"x" * 30),
            b"null",
            InvalidRequest,
            "id must",
            id="a long id",
        ),
        pytest.param(
            b'{"jsonrpc":"2.0","method":"m","id":1,"x":1}',
            b"1",
            InvalidRequest,
            "unknown member 'x'",
            id="an unknown member",
        ),
        pytest.param(
            b'{"jsonrpc":"2.0","method":"m","id":1,"traceparent":5}',
            b"1",
            InvalidRequest,
            "traceparent",
            id="a bad traceparent",
        ),
    ],
)
def test_what_is_refused_is_told_with_its_id(message, id, error, word):
    with pytest.raises(Exception):  # noqa: B017, PT011 -- complaint knows which
        read(message, LIMITS)
    found, why = complaint(message, LIMITS)
    assert found == id
    assert type(why) is error
    assert word in why.reason, why.reason


@pytest.mark.parametrize(
    "message", [b"[" * 10_000, b'{"a":' * 10_000, b"[" * 10_000 + b"]" * 10_000]
)
def test_deep_nesting_is_told(message):
    with pytest.raises(ParseError) as caught:
        parsed(message)
    assert is_fatal(caught.value)


def test_members_are_split_as_they_stand():
    assert [bytes(m) for m in members(b' [1, {"a": 2}]', LIMITS)] == [b"1", b'{"a": 2}']


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (b"[]", InvalidRequest),
        (b"[1,", ParseError),
        (b"[NaN]", ParseError),
        (b"[" + b"1," * 11 + b"1]", InvalidRequest),
        (b"[" * 10_000, ParseError),
    ],
)
def test_a_batch_that_is_none_is_refused(message, error):
    with pytest.raises(error):
        members(message, LIMITS)


@pytest.mark.parametrize(
    ("message", "id"),
    [
        (b'{"jsonrpc":"2.0","method":"m","id":7}', b"7"),
        (b'{"jsonrpc":"2.0","method":"m"}', None),
        (b"1", b"null"),
        (b'{"id":7}', b"7"),
    ],
)
def test_a_member_is_identified_without_its_call(message, id):
    assert identity(message, LIMITS) == id
