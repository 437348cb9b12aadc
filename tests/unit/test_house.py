"""The house around the code: what its documents and its Makefile name is there."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from xenopsd.config import KEYS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
PROGRAMS = [".ci/run", "packaging/make-venv", "packaging/run-here"]


def names(pattern: str, text: str) -> set[str]:
    """What a pattern's group finds."""
    return set(re.findall(pattern, text, re.MULTILINE))


def is_there(module: str) -> bool:
    """Whether a dotted name is a module or a package of ours."""
    path = ROOT / module.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = set(re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)[0].split())

    assert names(r"^([a-z-]+):", text) == phony
    assert names(r"^([a-z-]+):.*## ", text) == phony


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_page_names_only_what_is_there(page: Path) -> None:
    modules = names(r"`((?:idl|journal|backends|xenopsd)(?:\.[a-z_]+)+)`", page.read_text())

    # The entry points' group and a key of the configuration have such names, too.
    assert {m for m in modules if not is_there(m)} <= {"xenopsd.backends", *KEYS}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_script_can_be_run(program: str) -> None:
    path = ROOT / program

    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_the_changelog_has_a_place_for_what_comes_next() -> None:
    assert "## [Unreleased]\n" in (ROOT / "CHANGELOG.md").read_text()
