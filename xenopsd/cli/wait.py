"""Waiting for a VM to be somewhere."""
# click reads the escape in docstrings.
# ruff: noqa: D301

import shutil
import sys
import time
from typing import TYPE_CHECKING

import click

from xenopsd.cli.completers import vm_argument
from xenopsd.cli.seconds import SECONDS
from xenopsd.cli.session import Session

if TYPE_CHECKING:
    from idl.vm import VmRecord

GOALS = ("running", "halted", "paused", "suspended", "agent")

#: How long the daemon is asked to hold one question, in seconds.
_BEAT = 30.0


@click.command()
@vm_argument
@click.option(
    "--for",
    "goal",
    type=click.Choice(GOALS),
    default="running",
    show_default=True,
    help="What to wait for; agent: its guest's agent has answered.",
)
@click.option(
    "--timeout",
    type=SECONDS,
    metavar="SECONDS",
    help="How long at most; by default for ever.",
)
@click.pass_obj
def wait(session: Session, /, *, vm: str, goal: str, timeout: float | None) -> None:
    """Wait until a VM is in a power state, or its agent answers.

    It asks for nothing and changes nothing; it wakes when something about the VM changes.

    \b
    Examples:
      xenops wait web --for agent --timeout 120
      xenops shutdown web --timeout 60 --no-wait; xenops wait web --for halted
    """
    try:
        _until(session, vm, goal, timeout)
    finally:
        _say("")


def _until(session: Session, vm: str, goal: str, timeout: float | None) -> None:
    """Raises DeadlineExceeded."""
    from idl.errors import DeadlineExceeded

    deadline = None if timeout is None else time.monotonic() + timeout
    # The token is older than the first look, so that nothing falls between the two.
    since = session.client.updates.last_id()
    record = session.client.vm.stat(vm)
    while not _reached(record, goal):
        _say(_meanwhile(record, goal))
        left = _BEAT if deadline is None else max(deadline - time.monotonic(), 0.0)
        if left <= 0 and timeout is not None:
            raise DeadlineExceeded(what=_what(record, goal), seconds=timeout)
        since = session.client.updates.get(since, min(left, _BEAT)).next
        record = session.client.vm.stat(vm)


def _reached(record: "VmRecord", goal: str) -> bool:
    if goal == "agent":
        return bool(record.state.guest_agent)
    return record.state.power_state == goal


def _meanwhile(record: "VmRecord", goal: str) -> str:
    operation = record.state.operation
    doing = f", {operation.name}" if operation else ""
    doubt = ", needs attention" if record.state.attention else ""
    return f"{record.id} is {record.state.power_state}{doing}{doubt}; waiting for {goal}"


def _say(line: str) -> None:
    """On a terminal, in the place of what was said before."""
    if sys.stderr.isatty():
        # In the last column a terminal would begin another line.
        width = shutil.get_terminal_size().columns - 1
        click.echo(f"\r{line[:width]:<{width}}\r", nl=False, err=True)


def _what(record: "VmRecord", goal: str) -> str:
    attention = record.state.attention
    doubt = f", and needs attention ({attention.reason})" if attention else ""
    awaited = "its agent to answer" if goal == "agent" else f"it to be {goal}"
    return f"VM {record.id} is {record.state.power_state}{doubt}: waiting for {awaited}"


COMMANDS = (wait,)
