"""The site builds without a dead link, and fetches nothing from another host."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from idl import errors
from idl.calls import CALLS
from xenopsd.reconcile import TABLE

ROOT = Path(__file__).parents[2]

#: What a browser fetches by itself, in HTML and in style sheets.
FETCHED = (
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?((?:https?:)?//[^\"' >]+)",
    r"<link\b(?![^>]*rel=[\"']?canonical)[^>]*\bhref=[\"']?((?:https?:)?//[^\"' >]+)",
    r"(?:@import|url\()\s*[\"']?((?:https?:)?//[^\"' )]+)",
)


def build(place: Path, source: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """What `make docs` runs, into another directory."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)],
        cwd=source,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once."""
    place = tmp_path_factory.mktemp("site")
    built = build(place)
    assert built.returncode == 0, built.stdout + built.stderr
    return place


def test_nothing_is_fetched_from_another_host(site: Path) -> None:
    pages = [*site.glob("**/*.html"), *site.glob("**/*.css")]
    assert len(pages) > 20
    for page in pages:
        for pattern in FETCHED:
            assert re.findall(pattern, page.read_text()) == [], page
        # The theme's script would fetch what draws diagrams.
        assert 'class="mermaid"' not in page.read_text(), page


def test_every_call_and_error_has_its_place(site: Path) -> None:
    calls = (site / "reference/calls.html").read_text()
    assert [c for c in CALLS if f'id="{c.lower().replace(".", "-")}"' not in calls] == []
    shown = (site / "reference/errors.html").read_text()
    assert [name for name in errors.BY_NAME if f'id="{name.lower()}"' not in shown] == []


def test_every_row_of_recovery_is_shown(site: Path) -> None:
    shown = (site / "design/recovery.html").read_text()
    assert [words for _, _, words in TABLE if f"<td>{words}</td>" not in shown] == []


def test_readers_may_choose_dark(site: Path) -> None:
    home = (site / "index.html").read_text()
    assert 'data-md-color-scheme="slate"' in home
    assert 'data-md-color-scheme="default"' in home


@pytest.mark.parametrize(
    ("page", "text", "said"),
    [
        pytest.param("tutorial.md", "[x](nowhere.md)", "nowhere.md", id="no such page"),
        pytest.param("tutorial.md", "[x](cli.md#nowhere)", "#nowhere", id="no such heading"),
        pytest.param("tutorial.md", "[x](/cli.md)", "/cli.md", id="not relative"),
        pytest.param("left-out.md", "# Left out", "left-out.md", id="not in the navigation"),
    ],
)
def test_a_dead_link_fails_the_build(page: str, text: str, said: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for file in [*ROOT.glob("*.md"), ROOT / "mkdocs.yml"]:
        shutil.copy(file, source)
    shutil.copytree(ROOT / "docs", source / "docs")
    with (source / "docs" / page).open("a") as opened:
        opened.write(f"\n{text}\n")

    built = build(tmp_path / "site", source)

    assert built.returncode != 0
    assert said in built.stdout + built.stderr
