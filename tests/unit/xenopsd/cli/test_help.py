"""What `--help` says is said to its end."""

import click
import pytest
from textual.binding import Binding

from xenopsd.cli import main
from xenopsd.cli.top.app import TABS, Top

GROUPS = ("", *(name for name, found in main.commands.items() if isinstance(found, click.Group)))


@pytest.mark.parametrize("group", GROUPS)
def test_the_list_of_commands_is_cut_nowhere(xenops, group: str):
    found = xenops(*group.split(), "--help", terminal_width=80)
    assert found.exit_code == 0
    assert [line for line in found.stdout.splitlines() if line.endswith(" [ARGS]...")]
    cut = [line for line in found.stdout.splitlines() if line.endswith("...")]
    assert cut == [line for line in cut if line.startswith("Usage: ")]


def test_the_help_of_top_names_its_keys(xenops):
    told = " ".join(xenops("top", "--help").stdout.split())
    keys = [one.key for one in Top.BINDINGS if isinstance(one, Binding) and one.show]
    assert "s" in keys
    for key in keys:
        assert f" {'/' if key == 'slash' else key} " in told
    assert f"1 to {len(TABS)} choose a table" in told
