"""Waiting for a task: a bar on a terminal, silence in a pipe, and Ctrl-C.

Ctrl-C once asks the daemon to cancel and goes on watching; twice leaves the task to itself.
The task never depends on who watches it.
"""

import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from xenopsd.cli.failure import Detached
from xenopsd.cli.seconds import SECONDS
from xenopsd.cli.session import Session

if TYPE_CHECKING:
    from idl.task import Task

#: How often a bar moves, and how long a silent wait asks the daemon to wait, in seconds.
BEAT, SILENT_BEAT = 0.2, 30.0

Show = Callable[["Task"], None]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Whether to wait for a task, and for how many seconds at most."""

    wait: bool
    limit: float | None = None


def waiting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options --no-wait and --wait-for, as a parameter `waiting`."""

    @click.option(
        "--wait/--no-wait",
        default=True,
        help="Wait for the end (the default), or print the task id and return.",
    )
    @click.option(
        "--wait-for",
        type=SECONDS,
        metavar="SECONDS",
        help="Stop waiting after so long; the task goes on.",
    )
    @functools.wraps(command)
    def wrapped(*args: Any, wait: bool, wait_for: float | None, **options: Any) -> Any:
        return command(*args, waiting=Waiting(wait, wait_for), **options)

    return wrapped


def finish(session: Session, task: str, waiting: Waiting) -> None:
    """Wait for the end of a task as was asked. Raises its error, or Detached."""
    if not waiting.wait:
        click.echo(task)
        return
    try:
        with _bar() as show:
            try:
                _watch(session, task, waiting.limit, show)
            except KeyboardInterrupt:
                _cancel(session, task, show)
    except Detached:
        # Once the bar is gone from the line.
        click.echo(task)
        raise


def _cancel(session: Session, task: str, show: Show) -> None:
    try:
        click.echo(f"Cancelling task {task}; Ctrl-C again leaves it to itself.", err=True)
        session.renew()
        session.client.task.cancel(task)
        _watch(session, task, None, show)
    except KeyboardInterrupt:
        raise Detached(task) from None


def _watch(session: Session, task: str, limit: float | None, show: Show) -> None:
    """Until the task has ended. Raises its error, or DeadlineExceeded past the limit."""
    from idl.errors import DeadlineExceeded, from_object
    from idl.task import Failed

    deadline = None if limit is None else time.monotonic() + limit
    beat = SILENT_BEAT if show is _silent else BEAT
    while True:
        left = beat if deadline is None else max(deadline - time.monotonic(), 0.0)
        found = session.client.task.wait(task, timeout=min(beat, left))
        show(found)
        if isinstance(found.state, Failed):
            raise from_object(found.state.error)
        if found.ended:
            return
        if left <= 0 and limit is not None:
            raise DeadlineExceeded(what=f"Task {task} ({found.operation})", seconds=limit)


def _silent(task: "Task") -> None:
    """In a pipe there is nothing to say until the end."""


@contextmanager
def _bar() -> Iterator[Show]:
    if not sys.stderr.isatty():
        yield _silent
        return
    # A pipe must not pay for the import.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    # The bar is on stderr; what goes to stdout must stay there.
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as progress:
        line = progress.add_task("", total=1.0)

        def show(task: "Task") -> None:
            progress.update(line, description=description(task), completed=fraction(task))

        yield show


def description(task: "Task") -> str:
    """What a bar says: the operation, its VM, and the micro-op under way."""
    step = "" if task.ended or not task.subtasks else f": {task.subtasks[-1].name}"
    return f"{task.operation} {task.object}{step}"


def fraction(task: "Task") -> float:
    """How far a task is, from 0 to 1."""
    from idl.task import Pending

    return task.state.progress if isinstance(task.state, Pending) else 1.0
