"""Every error says the next step."""

import dataclasses

import click
import pytest

from idl import errors
from idl.vm import PowerState
from xenopsd.cli import main
from xenopsd.cli.advice import next_step


def example(kind: type[errors.XenopsError]) -> errors.XenopsError:
    """An error of this class with some fact in every place."""
    some = {"str": "web", "int": 1, "float": 1.0, "bool": True, "list[str]": ["halted"]}
    facts = {
        f.name: some[str(getattr(f.type, "__name__", f.type)).split(" |")[0]]
        if "list" not in str(f.type)
        else ["halted"]
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING
    }
    return kind(**facts)


def is_command(path: list[str]) -> bool:
    """Whether these words begin with a command of ours."""
    group: click.Command | None = main
    for word in path:
        if not isinstance(group, click.Group):
            return True
        group = group.commands.get(word)
        if group is None:
            return False
    return True


@pytest.mark.parametrize("kind", errors.BY_NAME.values(), ids=lambda kind: kind.__name__)
def test_every_error_says_the_next_step_in_commands_that_exist(kind):
    advice = next_step(example(kind))
    assert advice
    assert "{" not in advice
    for said in advice.split("xenops ")[1:]:
        words = said.removeprefix("--instance web ").replace(",", " ").split()
        assert is_command(words[:2]), said


@pytest.mark.parametrize("actual", PowerState)
@pytest.mark.parametrize("expected", PowerState)
def test_a_wrong_power_state_says_how_to_get_to_the_right_one(actual, expected):
    if actual == expected or (expected == "suspended" and actual != "running"):
        return
    error = errors.BadPowerState(id="web", actual=str(actual), expected=[str(expected)])
    assert next_step(error) != "xenops show web"


def test_an_error_of_a_newer_daemon_is_reported():
    assert "diag bundle" in (next_step(errors.UnknownError()) or "")
    assert next_step(ValueError()) is None
