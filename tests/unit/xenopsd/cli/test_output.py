"""Rows for people, pipes and programs."""

import json

import pytest

from xenopsd.cli.output import (
    Column,
    Output,
    aligned,
    details,
    drawn,
    emit,
    moment,
    size,
    written,
)

ROWS = [("a", "running"), ("long-name", "")]
COLUMNS = (
    Column("VM", lambda row: row[0]),
    Column("STATE", lambda row: row[1]),
    Column("EXTRA", lambda row: "x", wide=True),
)


def printed(capsys, output: str) -> str:
    emit(ROWS, COLUMNS, Output(output), lambda row: row[0])
    return capsys.readouterr().out


def test_a_pipe_gets_aligned_columns_with_dashes_for_nothing(capsys):
    assert printed(capsys, "table") == "VM         STATE\na          running\nlong-name  -\n"


def test_wide_has_every_column(capsys):
    assert printed(capsys, "wide").splitlines()[0].split() == ["VM", "STATE", "EXTRA"]


def test_name_has_the_names_alone(capsys):
    assert printed(capsys, "name") == "a\nlong-name\n"


def test_json_is_what_was_said(capsys):
    assert json.loads(printed(capsys, "json")) == [["a", "running"], ["long-name", ""]]


def test_no_rows_are_a_header():
    assert aligned(["VM", "STATE"], []) == "VM  STATE\n"


def test_a_terminal_gets_a_table_that_fits():
    text = drawn(["VM", "STATE"], [["a" * 30, "running"]], width=20)
    assert "running" in text
    assert max(map(len, text.splitlines())) <= 20


def test_text_of_a_vm_is_no_markup():
    assert "[bold]x" in drawn(["VM"], [["[bold]x"]], width=40)


def test_details_leave_out_what_is_empty(capsys):
    details([("vm", "a"), ("operation", ""), ("state", "running")])
    assert capsys.readouterr().out == "vm     a\nstate  running\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (None, "0 B"), (1023, "1023 B"), (512 << 20, "512 MiB"), (3 << 29, "1.5 GiB")],
)
def test_sizes(count: int | None, text: str):
    assert size(count) == text


def test_moments_are_utc():
    assert moment(0.0) == "1970-01-01 00:00:00Z"
    assert moment(None) == ""


def test_a_narrow_terminal_breaks_no_title():
    found = drawn(["VM", "STATE", "OPERATION"], [["web", "running", ""]], 12)
    assert found.splitlines()[0].split() == ["VM", "STATE", "OPERATION"]


def test_what_would_move_a_terminal_is_escaped():
    cells = [["a\nb", "\x1b[31mred", "日本"]]
    for text in (aligned(["A", "B", "C"], cells), drawn(["A", "B", "C"], cells, 80)):
        assert len(text.splitlines()) == 2
        assert "\x1b[31m" not in text
        assert all(word in text for word in ("a\\nb", "\\x1b[31mred", "日本"))


def test_a_value_is_written_as_it_is_typed():
    assert written("a,b") == "a,b"
    assert written({"cap": 50, "affinity": []}) == '{"cap": 50, "affinity": []}'
    assert written(True) == "true"
    assert written(None) == "null"


def test_an_empty_cell_is_a_dash_everywhere():
    titles, cells = ["VM", "OPERATION"], [["web", ""]]
    assert aligned(titles, cells).split() == drawn(titles, cells, 40).split()
