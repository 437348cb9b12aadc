import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenopsd.rpc.framing import Lines, LineTooLong


def taken(lines: Lines) -> list[bytes]:
    found = []
    while (line := lines.pop()) is not None:
        found.append(line)
    return found


@pytest.mark.parametrize(
    ("pieces", "messages"),
    [
        pytest.param([b"{}\n"], [b"{}"], id="one line"),
        pytest.param([b"{}\n{}\n[]\n"], [b"{}", b"{}", b"[]"], id="glued lines"),
        pytest.param([b"{", b'"a"', b":1}", b"\n"], [b'{"a":1}'], id="a torn line"),
        pytest.param([b"{}\n{", b"}\n"], [b"{}", b"{}"], id="torn in the second line"),
        pytest.param([b"\n \n\t\r\n{}\n\n"], [b"{}"], id="blank lines"),
        pytest.param([b"{}\r\n"], [b"{}\r"], id="a carriage return"),
        pytest.param([b"{}"], [], id="a line that has not ended"),
        pytest.param([b""], [], id="nothing"),
    ],
)
def test_lines_come_whole_and_in_order(pieces, messages):
    lines = Lines(100)
    for piece in pieces:
        lines.feed(piece)
    assert taken(lines) == messages


@given(st.lists(st.binary(max_size=9).filter(lambda b: b"\n" not in b)), st.data())
def test_any_tearing_gives_the_same_lines(messages, data):
    stream = b"".join(message + b"\n" for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    lines = Lines(100)
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        lines.feed(stream[start:end])
    assert taken(lines) == [m for m in messages if m and not m.isspace()]
    assert lines.backlog == 0


def test_the_end_ends_the_last_line():
    lines = Lines(100)
    lines.feed(b"{}\n{")
    lines.finish()
    assert taken(lines) == [b"{}", b"{"]


def test_a_line_of_exactly_the_limit_is_taken():
    lines = Lines(4)
    lines.feed(b"1234\n")
    assert lines.pop() == b"1234"


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([b"{}\n12345\n"], id="complete"),
        pytest.param([b"{}\n12345"], id="not ended"),
        pytest.param([b"{}\n123", b"45"], id="not ended, in pieces"),
        pytest.param([b"{}\n123", b"45\n{}\n"], id="ended in a later piece"),
    ],
)
def test_a_line_over_the_limit_is_told_after_the_lines_before_it(pieces):
    lines = Lines(4)
    for piece in pieces:
        lines.feed(piece)
    assert lines.pop() == b"{}"
    with pytest.raises(LineTooLong):
        lines.pop()


def test_an_endless_line_is_not_kept():
    lines = Lines(4)
    for _ in range(100):
        lines.feed(b"x" * 1000)
    assert len(lines._tail) <= 4


def test_the_backlog_is_what_was_not_taken():
    lines = Lines(100)
    lines.feed(b"{}\n[]\n{")
    assert lines.backlog == 4
    lines.pop()
    assert lines.backlog == 2
