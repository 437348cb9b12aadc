"""A served document in words."""

import pytest

from idl.openrpc import document
from xenopsd.cli.openrpc import KINDS, Interface, spell

INTERFACE = Interface(document(debug=True, version="1"))


@pytest.mark.parametrize("name", INTERFACE.names())
def test_everything_that_is_served_can_be_described(name: str):
    lines = INTERFACE.of(name)
    assert lines is not None
    assert lines[0].startswith(name)
    assert "anything or" not in "\n".join(lines)


def test_a_call_has_its_parameters_result_and_errors():
    lines = INTERFACE.of("vm.shutdown") or []
    assert lines[1] == f"({KINDS['operation']})"
    assert "  force       boolean, default false" in lines
    assert any(line.startswith("Errors: DoesNotExist, ") for line in lines)


def test_every_kind_of_call_has_words():
    assert {call["x-kind"] for call in INTERFACE.calls.values()} <= set(KINDS)


def test_what_is_not_there_is_none():
    assert INTERFACE.of("VM.fly") is None


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "array", "items": {"$ref": "#/components/schemas/Vm"}}, "[Vm]"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string | null"),
        ({"enum": ["ro", "rw"]}, '"ro" | "rw"'),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "{string: string}"),
        ({"type": "integer", "minimum": 1, "maximum": 64}, "integer from 1 to 64"),
        ({"type": "integer", "minimum": 1}, "integer from 1"),
        ({}, "anything"),
    ],
)
def test_a_schema_is_spelled(schema, words: str):
    assert spell(schema) == words
