import json
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal.documents import DocumentDamaged, Kind, decode_document, encode_document


class Vm(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    memory: int = 0
    devices: dict[str, list[int]] = {}


def to_two(plain: dict[str, Any]) -> dict[str, Any]:
    plain["mem"] = plain.pop("megabytes") << 20
    return plain


def to_three(plain: dict[str, Any]) -> dict[str, Any]:
    return {"id": plain["id"], "memory": plain["mem"]}


KIND = Kind(Vm, 3, {1: to_two, 2: to_three})
VM = Vm(id="vm1", memory=7, devices={"xvda": [1, 2], "xvdb": []})


def document(record: object, schema: int) -> bytes:
    body = json.dumps(record).encode()
    return b'{"schema":%d,"checksum":"crc32:%08x","record":%b}' % (schema, zlib.crc32(body), body)


def test_a_record_comes_back_from_its_document():
    assert decode_document(encode_document(VM, 3), KIND) == VM


def test_a_document_is_readable_and_its_checksum_is_of_the_text_as_it_stands():
    text = encode_document(VM, 3)
    assert json.loads(text)["record"]["devices"] == {"xvda": [1, 2], "xvdb": []}
    assert text.startswith(b'{\n  "schema": 3,\n  "checksum": "crc32:')
    assert b'\n    "memory": 7,\n' in text
    record = text[text.index(b'"record": ') + 10 : -3]
    assert json.loads(text)["checksum"] == f"crc32:{zlib.crc32(record):08x}"


@pytest.mark.parametrize(
    ("plain", "schema"),
    [
        pytest.param({"id": "vm1", "megabytes": 2}, 1, id="two steps"),
        pytest.param({"id": "vm1", "mem": 2 << 20}, 2, id="one step"),
        pytest.param({"id": "vm1", "memory": 2 << 20}, 3, id="none"),
    ],
)
def test_an_older_schema_is_upgraded_step_by_step(plain, schema):
    assert decode_document(document(plain, schema), KIND) == Vm(id="vm1", memory=2 << 20)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b"\0" * 4096, "zeros", id="zeros"),
        pytest.param(b"\xff\xfe\xfd", "malformed", id="rubbish"),
        pytest.param(b"[]", "object", id="not an object"),
        pytest.param(b"{}", "missing", id="no members"),
        pytest.param(encode_document(VM, 3)[:-5], "truncated", id="cut"),
        pytest.param(
            encode_document(VM, 3).replace(b": 7", b": 8"), "checksum", id="edited by hand"
        ),
        pytest.param(encode_document(VM, 4), "newer than 3", id="of a newer schema"),
        pytest.param(encode_document(VM, 0), "no way up from schema 0", id="of no schema"),
        pytest.param(document({"id": "vm1"}, 1), "KeyError", id="upgrade that fails"),
        pytest.param(document([1], 1), "object", id="upgrade of something else"),
        pytest.param(document({"id": 7}, 3), "expected `str`|Expected `str`", id="wrong type"),
        pytest.param(document({}, 3), "missing", id="no id"),
    ],
)
def test_what_cannot_be_believed_is_damaged(data, reason):
    with pytest.raises(DocumentDamaged, match=reason):
        decode_document(data, KIND)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_changed_byte_of_the_record_goes_unnoticed(at, flip):
    text = encode_document(VM, 3)
    at %= len(text)
    changed = text[:at] + bytes([text[at] ^ flip]) + text[at + 1 :]
    try:
        assert decode_document(changed, KIND) == VM
    except DocumentDamaged:
        pass
