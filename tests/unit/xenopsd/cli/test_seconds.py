"""A time that is no time must never become a call without one."""

import pytest

COMMANDS = (
    "shutdown web --timeout",
    "reboot web --timeout",
    "start web --wait-for",
    "wait web --timeout",
    "top --interval",
)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("text", ["nan", "inf", "-1"])
def test_no_time_is_refused_before_anything_is_asked(daemon, xenops, command: str, text: str):
    found = xenops(*command.split(), text)
    assert (found.exit_code, daemon.seen) == (2, [])
    assert "Error: Invalid value for" in found.stderr
