"""What `--help` says is said to its end."""

import click
import pytest

from xenopsd.cli import main

GROUPS = ("", *(name for name, found in main.commands.items() if isinstance(found, click.Group)))


@pytest.mark.parametrize("group", GROUPS)
def test_the_list_of_commands_is_cut_nowhere(xenops, group: str):
    found = xenops(*group.split(), "--help", terminal_width=80)
    assert found.exit_code == 0
    assert [line for line in found.stdout.splitlines() if line.endswith(" [ARGS]...")]
    cut = [line for line in found.stdout.splitlines() if line.endswith("...")]
    assert cut == [line for line in cut if line.startswith("Usage: ")]
