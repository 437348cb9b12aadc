"""Every example of docs/cli.md is a command that `xenops` understands.

They name VMs and files that nobody has, so they are parsed and not run.
"""

import re
import shlex
from pathlib import Path

import click
import pytest

from xenopsd.cli import main

PAGE = Path(__file__).parents[2] / "docs/cli.md"


def examples() -> list[str]:
    """Each `xenops` command of the page, without what it is piped from or to."""
    lines = re.findall(r"^\$ (.*)$", PAGE.read_text(), re.MULTILINE)
    parts = [part.strip() for line in lines for part in re.split(r"[|;&]|(?<= )[<>].*$", line)]
    return list(dict.fromkeys(part for part in parts if part.startswith("xenops ")))


def understand(arguments: list[str]) -> None:
    """Raises UsageError where the command does not exist or has no such option or argument."""
    command: click.Command = main
    context = main.make_context("xenops", arguments)
    while isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command, context = found, found.make_context(name, rest, parent=context)


@pytest.mark.parametrize("example", examples())
def test_an_example_is_understood(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(example)[1:]
    for name in ("web.toml", "web.json"):
        (tmp_path / name).write_text("")
    try:
        understand(words)
    except click.BadParameter as error:
        # A file that nobody has is the reader's own.
        if not re.search(r"No such file|does not exist", error.message):
            raise


def test_there_are_examples_and_a_mistake_is_seen() -> None:
    assert len(examples()) > 80
    with pytest.raises(click.UsageError):
        understand(["start", "--nonsense", "web"])
    with pytest.raises(click.UsageError):
        understand(["commence", "web"])
