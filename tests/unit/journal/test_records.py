import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from journal.records import (
    Accepted,
    Begun,
    Destroyed,
    Done,
    Ended,
    Intent,
    LineDamaged,
    Turned,
    decode_heading,
    decode_line,
    decode_record,
    decode_task,
    encode_line,
    split_lines,
)

BEGUN = Begun(
    task="t1",
    operation="VM.start",
    params=Raw(b'{"id":"vm1"}'),
    boot="b1",
    incarnation="i1",
    plan=Raw(b'["vm_create"]'),
    at=1.5,
)
RECORDS = [
    BEGUN,
    Intent(step=0, name="vm_create", facts=Raw(b'{"tap":"tap0"}')),
    Intent(step=1, name="vm_build"),
    Done(step=0, facts=Raw(b'{"domid":"7"}')),
    Turned(direction="back", task=None, plan=Raw(b"[]"), error=Raw(b'{"code":1021}')),
]
TASKS = [
    Accepted(
        id="t1",
        call=Raw(b'{"method":"VM.start"}'),
        vm="vm1",
        operation="VM.start",
        object="vm1",
        debug_info=None,
        created=1.0,
    ),
    Ended(id="t1", task=Raw(b'{"id":"t1"}')),
    Destroyed(id="t1"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_journal_record_comes_back_from_its_line(record):
    assert decode_record(decode_line(encode_line(7, record))) == record


@pytest.mark.parametrize("record", TASKS, ids=lambda record: type(record).__name__)
def test_a_task_record_comes_back_from_its_line(record):
    line = decode_line(encode_line(7, record))
    assert decode_task(line) == record
    assert decode_heading(line).id == "t1"


def test_a_line_is_the_json_that_the_documentation_promises():
    line = encode_line(3, Done(step=2))
    crc = zlib.crc32(b'3{"kind":"done","step":2,"facts":null}')
    assert line.endswith(b"}\n")
    assert json.loads(line) == {
        "seq": 3,
        "crc": f"{crc:08x}",
        "record": {"kind": "done", "step": 2, "facts": None},
    }


def test_raw_json_over_many_lines_becomes_one_line():
    record = Done(step=0, facts=Raw(b'{\n  "text": "a\\nb"\n}'))
    line = encode_line(1, record)
    assert line.count(b"\n") == 1
    assert json.loads(line)["record"]["facts"] == {"text": "a\nb"}
    assert decode_line(line).seq == 1


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(at, flip):
    line = encode_line(1, BEGUN)[:-1]
    at %= len(line)
    changed = line[:at] + bytes([line[at] ^ flip]) + line[at + 1 :]
    try:
        record = decode_record(decode_line(changed))
    except LineDamaged:
        return
    # White space or the case of a hexadecimal digit, at most.
    assert record == BEGUN


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\n", id="only a newline"),
        pytest.param(b"\0" * 40, id="zeros"),
        pytest.param(b"\xff\xfe\n", id="not text"),
        pytest.param(b"[" * 100_000, id="nested without end"),
        pytest.param(b"{}\n", id="empty object"),
        pytest.param(b'{"seq":1,"crc":"00000000","record":{}}\n', id="wrong checksum"),
        pytest.param(
            encode_line(1, BEGUN)[:-2] + b',"more":1}\n', id="something after the record"
        ),
        pytest.param(encode_line(1, BEGUN) * 2, id="two lines"),
        pytest.param(encode_line(1, BEGUN).replace(b'"seq":1', b'"seq":2'), id="another number"),
    ],
)
def test_what_is_no_line_is_refused(line):
    with pytest.raises(LineDamaged):
        decode_line(line)


def test_a_kind_of_the_other_file_is_unknown():
    with pytest.raises(LineDamaged, match="not a journal record"):
        decode_record(decode_line(encode_line(1, TASKS[0])))
    for decode in (decode_task, decode_heading):
        with pytest.raises(LineDamaged, match="not a task record"):
            decode(decode_line(encode_line(1, BEGUN)))


@given(st.binary(max_size=60).map(lambda b: b.replace(b"\r", b"\n")), st.integers(1, 7))
def test_lines_do_not_depend_on_where_the_chunks_end(data, size):
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    lines = list(split_lines(chunks))
    assert b"".join(lines) == data
    assert all(line.find(b"\n") == len(line) - 1 for line in lines[:-1])
    assert b"\n" not in b"".join(lines[-1:])[:-1]
