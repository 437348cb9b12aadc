"""Writes what is rendered from the commands: man pages, completion scripts, docs/cli.md.

`python -m xenopsd.cli.generate` in a checkout; a test compares the files with what is
rendered here.
"""

from pathlib import Path

from xenopsd.cli.app import main
from xenopsd.cli.completion import SCRIPTS
from xenopsd.cli.pages import manual, markdown, page

ROOT = Path(__file__).parents[2]

#: Where a package installs each script, and under which name shells find it.
_COMPLETION = {"bash": "xenops", "zsh": "_xenops", "fish": "xenops.fish"}
MAN = Path("packaging/man")


def rendered() -> dict[Path, str]:
    """Every file, by its path in the checkout."""
    whole = page(main, "xenops")
    files = {Path("docs/cli.md"): markdown(whole)}
    for one in (whole, *whole.commands):
        files[MAN / f"{one.name.replace(' ', '-')}.1"] = manual(one)
    for shell, name in _COMPLETION.items():
        files[Path("packaging/completion") / name] = SCRIPTS[shell]
    return files


def write() -> None:
    """Write them all; a man page of a command that is gone goes."""
    files = rendered()
    for path in (ROOT / MAN).glob("*.1"):
        if path.relative_to(ROOT) not in files:
            path.unlink()
    for path, text in files.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text)


if __name__ == "__main__":
    write()
