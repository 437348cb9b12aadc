"""Commands about tasks."""
# click reads the escape in docstrings.
# ruff: noqa: D301

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from xenopsd.cli import completers
from xenopsd.cli.follow import Waiting, finish, fraction, waiting
from xenopsd.cli.output import Column, Output, detail_option, emit, listing, moment, tell
from xenopsd.cli.session import Session

if TYPE_CHECKING:
    from idl.task import Task

_task = click.argument("task", metavar="TASK", shell_complete=completers.tasks)
_open_task = click.argument("task", metavar="TASK", shell_complete=completers.open_tasks)


def _state(task: "Task") -> str:
    return str(task.state.__struct_config__.tag)


def _error(task: "Task") -> str:
    from idl.task import Failed

    return task.state.error.message if isinstance(task.state, Failed) else ""


def _columns() -> "Sequence[Column[Task]]":
    return (
        Column("TASK", lambda task: task.id),
        Column("OPERATION", lambda task: task.operation),
        Column("OBJECT", lambda task: task.object),
        Column("STATE", _state),
        Column("PROGRESS", lambda task: f"{fraction(task):.0%}"),
        Column("CREATED", lambda task: moment(task.created)),
        Column("DEBUG_INFO", lambda task: task.debug_info, wide=True),
        Column("ERROR", _error, wide=True),
    )


@click.group("task")
def tasks() -> None:
    """Look at operations, wait for them, cancel them."""


@tasks.command("list")
@click.option("--all", "ended", is_flag=True, help="Those that have ended, too.")
@listing
@click.pass_obj
def list_tasks(session: Session, /, *, ended: bool, output: Output) -> None:
    """List the tasks that are queued or running.

    \b
    Examples:
      xenops task list
      xenops task list --all -o wide
    """
    found = [task for task in session.client.task.list() if ended or not task.ended]
    emit(sorted(found, key=lambda t: t.created), _columns(), output, lambda task: task.id)


@tasks.command()
@_task
@detail_option
@click.pass_obj
def show(session: Session, /, *, task: str, output: str) -> None:
    """Show a task with its micro-ops.

    \b
    Examples:
      xenops task show 5f0c
    """
    found = session.client.task.stat(task)
    tell(found, output, lambda: _pairs(found))


def _pairs(task: "Task") -> Iterator[tuple[str, str]]:
    yield from ((column.title.lower(), column.text(task)) for column in _columns())
    yield from _steps(task)


def _steps(task: "Task") -> Iterator[tuple[str, str]]:
    if task.interrupted:
        yield "interrupted", "a restart of the daemon cut it, and recovery finished it"
    for step in task.subtasks:
        took = "" if step.duration is None else f" {step.duration:.3f} s"
        yield step.name, f"{step.object} {step.state}{took}"


@tasks.command()
@_open_task
@click.pass_obj
def cancel(session: Session, /, *, task: str) -> None:
    """Ask a task to end; of an ended one nothing.

    \b
    Examples:
      xenops task cancel 5f0c
    """
    session.client.task.cancel(task)


@tasks.command()
@_open_task
@waiting
@click.pass_obj
def wait(session: Session, /, *, task: str, waiting: Waiting) -> None:
    """Wait for the end of a task; fails as the task does.

    \b
    Examples:
      xenops task wait 5f0c --wait-for 60
    """
    finish(session, task, waiting)


COMMANDS = (tasks,)
