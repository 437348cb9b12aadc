"""What is rendered from the commands is what stands in the checkout."""

import shutil
import subprocess

import pytest

from xenopsd.cli.completion import SCRIPTS
from xenopsd.cli.generate import MAN, ROOT, rendered

FILES = rendered()


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_is_up_to_date(path):
    assert (ROOT / path).read_text() == FILES[path], "run python -m xenopsd.cli.generate"


def test_no_man_page_is_left_of_a_command_that_is_gone():
    assert {path.relative_to(ROOT) for path in (ROOT / MAN).glob("*.1")} <= set(FILES)


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".1"], ids=str)
def test_a_man_page_has_its_parts_and_no_stray_request(path):
    text = FILES[path]
    for part in ("NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS"):
        assert f".SH {part}\n" in text
    known = {".TH", ".SH", ".PP", ".TP", ".B", ".BR", ".nh", ".nf", ".fi", ".RS", ".RE"}
    assert {line.split()[0] for line in text.splitlines() if line.startswith(".")} <= known


@pytest.mark.skipif(shutil.which("groff") is None, reason="there is no groff here")
def test_groff_reads_the_man_pages():
    pages = [str(ROOT / path) for path in FILES if path.suffix == ".1"]
    found = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z", *pages], capture_output=True, check=True
    )
    assert found.stderr == b""


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_shell_reads_its_script(shell: str):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    subprocess.run([shell, "-n"], input=SCRIPTS[shell].encode(), check=True)
