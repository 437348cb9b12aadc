"""Tests that share something of the host are with one worker; the others are by file."""

import ast
from pathlib import Path

import pytest
from rigs.together import HOST, together

ROOT = Path(__file__).parents[3]


def test_a_file_is_together():
    assert together("tests/a.py::test_one") == together("tests/a.py::test_two[x::y]")
    assert together("tests/a.py::test_one") != together("tests/b.py::test_one")


def test_files_that_share_the_host_are_together():
    assert {together(f"{begins}test_one") for begins in HOST} == {"host"}
    assert together("tests/docs/test_pages.py::test_a_page_does_what_it_says[README.md]") != "host"


@pytest.mark.parametrize("begins", HOST)
def test_what_is_named_is_there(begins):
    path, _, test = begins.partition("::")
    function, _, page = test.rstrip("]").partition("[")
    body = ast.parse((ROOT / path).read_text()).body
    assert function in {"", *(node.name for node in body if isinstance(node, ast.FunctionDef))}
    assert (ROOT / page).exists()


def test_every_page_with_containers_shares_the_host():
    pages = (ROOT / "tests/docs/test_pages.py").read_text()
    (line,) = [line for line in pages.splitlines() if line.startswith("CONTAINERS = ")]
    named = {begins.rstrip("]").partition("[")[2] for begins in HOST}
    assert ast.literal_eval(line.removeprefix("CONTAINERS = ")) == named - {""}
