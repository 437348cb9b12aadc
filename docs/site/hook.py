"""What mkdocs runs beside Markdown: pages that are made from the sources while the site is built.

Nothing that is made here lies in the repository, so that nothing there can grow old.
"""

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from idl import reference  # noqa: E402  # found by the line above, without an installation
from xenopsd.reconcile import TABLE, Verdict  # noqa: E402  # the same

#: Pages of the repository's root, and where they stand in the site.
FROM_ROOT = {
    "ARCHITECTURE.md": "design/architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}

VERDICTS = {
    Verdict.SETTLE: "nothing: it is sensible as it is",
    Verdict.CONTINUE: "the operation is carried on from its first step that is not done",
    Verdict.TURN_BACK: "what the operation has done is undone",
    Verdict.CLEAR: "what is left of its domain is removed: it is then halted",
    Verdict.DOUBT: "nothing is touched; `xenops attention` shows it to an administrator",
}

_RECOVERY = """# The table of recovery

When the daemon starts it asks these questions about every VM: about what is recorded, what is
observed, and what the journal leaves open. The first row that fits decides. The table is printed
from `xenopsd.reconcile`, which is what the daemon runs; `xenops explain --table` prints it, too,
and `xenops explain VM` says which row fits a VM now.

What comes of it for each operation, cut at each of its steps, was measured: see
[the sweep](../sweep.md).

"""


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the pages that are made."""
    for place, text in made().items():
        files.append(File.generated(config, place, content=text))
    return files


def made() -> dict[str, str]:
    """The text of each page that is made, by its place in the site."""
    pages = {f"reference/{name}": text for name, text in reference.pages().items()}
    pages["design/recovery.md"] = recovery()
    return pages | {place: from_root(name, place) for name, place in FROM_ROOT.items()}


def recovery() -> str:
    """The table of recovery, and what its verdicts mean."""
    rows = [f"| {n} | {words} | {verdict} |" for n, (_, verdict, words) in enumerate(TABLE, 1)]
    meanings = [f"- **{verdict}**: {VERDICTS[verdict]}." for verdict in Verdict]
    head = "| | what was found | verdict |\n| --- | --- | --- |\n"
    return _RECOVERY + head + "\n".join(rows) + "\n\n" + "\n".join(meanings) + "\n"


def from_root(name: str, place: str) -> str:
    """A page of the root, its links turned to where the site has what they mean."""
    up = "../" * place.count("/")
    text = (ROOT / name).read_text()
    for other, there in FROM_ROOT.items():
        text = text.replace(f"]({other}", f"]({up}{there}")
    return text.replace("](docs/", f"]({up}")
