"""Every error says the next step."""

import dataclasses

import click
import pytest

from idl import errors
from idl.vm import PowerState
from xenopsd.cli import main
from xenopsd.cli.advice import next_step
from xenopsd.cli.failure import About

ABOUT = (
    About(command="start", vm="web"),
    About(command="nic plug", vm="web"),
    About(command="call", vm="web", method="PCI.plug"),
)


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
@pytest.mark.parametrize("about", [None, *ABOUT], ids=str)
def test_every_error_says_the_next_step_in_commands_that_exist(kind, about):
    advice = next_step(example(kind), about)
    assert advice
    assert "{" not in advice
    assert "VM" not in advice or about is None
    for said in advice.split("xenops ")[1:]:
        words = said.removeprefix("--instance web ").replace(",", " ").split()
        words = [word.strip(";") for word in words if word != "--help"]
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


@pytest.mark.parametrize(
    ("about", "advice"),
    [
        pytest.param(About(command="disk remove"), "xenops disk unplug web/a", id="a disk"),
        pytest.param(About(command="nic remove"), "xenops nic unplug web/a", id="an interface"),
        pytest.param(
            About(command="call", method="PCI.remove"), "xenops pci unplug web/a", id="a call"
        ),
        pytest.param(About(command="remove"), "xenops show web", id="nobody knows"),
    ],
)
def test_the_kind_of_a_device_is_that_of_the_command(about, advice: str):
    assert next_step(errors.DeviceIsConnected(id="web/a"), about) == advice


def test_what_a_call_takes_is_said_by_the_command_that_was_typed():
    error = errors.InvalidParams(reason="id: bad")
    assert next_step(error, About(command="disk add")) == "xenops disk add --help"
    called = About(command="call", method="VM.start")
    assert next_step(error, called) == "xenops describe VM.start tells what it takes"


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("start", errors.BadPowerState(id="web", actual="running", expected=["halted"])),
        ("resume", errors.BadPowerState(id="web", actual="running", expected=["suspended"])),
        ("pause", errors.BadPowerState(id="web", actual="paused", expected=["running"])),
        ("disk plug", errors.DeviceIsConnected(id="web/a")),
        ("nic unplug", errors.DeviceNotConnected(id="web/a")),
    ],
)
def test_what_is_so_already_is_not_to_be_undone(command: str, error: errors.XenopsError):
    said = next_step(error, About(command=command)) or ""
    assert said.endswith("; there is nothing to do")
    assert said.startswith(("xenops show web", "xenops disk list web", "xenops nic list web"))


def test_a_name_in_place_of_an_id_is_looked_up():
    error = errors.InvalidParams(reason="id: 'The web' is not 1 to 64 of A-Z")
    said = next_step(error, About(command="show", vm="The web"))
    assert said == "xenops list -c vm,name tells the ids"


def test_a_start_that_a_record_prevents_is_mended_there():
    error = errors.InvalidParameter(name="vbds", reason="there is none")
    assert next_step(error, About(command="start", vm="web")) == (
        "xenops show web; mend its record, then repeat the command"
    )
    assert next_step(error, About(command="add")) == "xenops add --help"


def test_another_guest_is_advised_where_the_backend_has_not_this_one():
    error = errors.Unimplemented(what="guest type hvm", backend="lxc")
    assert next_step(error, About(command="add")) == (
        "repeat it with another --guest; xenops call HOST.query tells the backend and its features"
    )
