"""No link leads nowhere: those of the pages that the build of the site does not check."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
OF_ROOT = sorted(path.name for path in ROOT.glob("*.md"))
ALL = [*OF_ROOT, *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))]


def prose(page: Path) -> str:
    """A page without its blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def links(page: Path) -> list[str]:
    """Where a page leads."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    kept = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in kept}


@pytest.mark.parametrize("name", OF_ROOT)
def test_a_link_of_the_root_leads_to_a_file_and_a_heading(name: str) -> None:
    page = ROOT / name
    for link in links(page):
        if ":" in link:
            continue
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        assert target.exists(), f"{name}: {link}"
        assert not anchor or anchor in anchors(target), f"{name}: {link}"


@pytest.mark.parametrize("name", ALL)
def test_a_link_to_another_host_is_an_address(name: str) -> None:
    for link in links(ROOT / name):
        if ":" in link:
            parts = urlsplit(link)
            assert parts.scheme == "https", f"{name}: {link}"
            assert "." in parts.netloc, f"{name}: {link}"
