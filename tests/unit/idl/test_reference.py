"""The reference says what the declarations say."""

import re
from enum import Enum
from typing import Annotated

import pytest
from msgspec import Meta

from idl import errors, reference
from idl.calls import CALLS
from idl.vbd import Disk
from idl.vm import PowerState, Vm

PAGES = reference.pages()


def section(page: str, anchor: str) -> str:
    """The text below a heading."""
    found = re.search(
        rf"^#+ \S+ {{ #{anchor} }}\n(.*?)(?=^##|\Z)", PAGES[page], re.MULTILINE | re.DOTALL
    )
    assert found, anchor
    return found[1]


def test_a_call_shows_parameters_defaults_and_result():
    text = section("calls.md", "vm-shutdown")
    assert text.startswith("\n**T** ")
    assert "| `id` | [VmId](types.md#vmid) |  | the VM |" in text
    assert "| `force` | bool | `false` | go the hard way where the guest does not |" in text
    assert "Result: a task, [TaskId](types.md#taskid)." in text
    assert "[DoesNotExist](errors.md#doesnotexist)" in text


@pytest.mark.parametrize("method", CALLS)
def test_every_call_has_a_section(method: str):
    assert "Result: " in section("calls.md", reference.anchor(method))


def test_a_type_shows_every_field():
    text = section("types.md", "vm")
    assert [f for f in Vm.__struct_fields__ if f"| `{f}` |" not in text] == []


@pytest.mark.parametrize("page", ["calls.md", "types.md"])
def test_every_parameter_and_field_has_words(page: str):
    rows = re.findall(r"^\| (`\w+`) \| .* \| ([^|]*) \|$", PAGES[page], re.MULTILINE)
    assert len(rows) > 100
    assert [name for name, words in rows if not words.strip() and name != "`type`"] == []


@pytest.mark.parametrize("name", errors.BY_NAME)
def test_an_error_shows_code_and_sentence(name: str):
    assert section("errors.md", reference.anchor(name)).startswith(
        f"\n{errors.BY_NAME[name].code}: “"
    )


def test_every_link_leads_to_a_heading():
    for page, text in PAGES.items():
        for target, anchor in re.findall(r"\]\((\w+\.md)?#([\w-]+)\)", text):
            assert f"{{ #{anchor} }}" in PAGES[target or page], f"{page}: {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_no_anchor_is_there_twice(page: str):
    found = re.findall(r"{ #([\w-]+) }", PAGES[page])
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (None, "null"),
        (list[int], "list of int"),
        (int | None, "int or null"),
        (dict[str, int], "object, str to int"),
        (PowerState, "[PowerState](types.md#powerstate)"),
        (Disk, "[Disk](types.md#disk)"),
        (Annotated[int, Meta(ge=7)], "int"),
    ],
)
def test_types_are_spelled_in_words(kind: object, text: str):
    assert reference.type_text(kind) == text


def test_an_enumeration_lists_its_values():
    assert issubclass(PowerState, Enum)
    assert '`"halted"`' in section("types.md", "powerstate")
