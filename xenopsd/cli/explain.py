"""Why a VM is where it is, in words."""
# click reads the escape in docstrings.
# ruff: noqa: D301

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from xenopsd.cli import completers
from xenopsd.cli.attention import commands
from xenopsd.cli.output import Column, Output, emit
from xenopsd.cli.session import Session

if TYPE_CHECKING:
    from idl.client import Client
    from idl.task import Task
    from xenopsd.cli.story import Case


@click.command()
@completers.maybe_vm
@click.option("--table", is_flag=True, help="Print the table of recovery, without a VM.")
@click.pass_obj
def explain(session: Session, /, *, vm: str | None, table: bool) -> None:
    """Say why a VM is where it is.

    What happened to it, what goes on, what its journal says, and what would be done after a
    crash: the first row of the table of recovery that fits (--table prints it).

    \b
    Examples:
      xenops explain web
      xenops explain --table
    """
    from xenopsd.cli import story

    if (vm is None) != table:
        raise click.UsageError("Give a VM, or --table; not both.")
    if vm is None:
        _print_table(story.table())
    else:
        click.echo(session.typed(text(case(session.client, vm))), nl=False)


def _print_table(rows: list[tuple[str, str, str]]) -> None:
    columns: Sequence[Column[tuple[str, str, str]]] = (
        Column("ROW", lambda row: row[0]),
        Column("WHAT IS FOUND", lambda row: row[1]),
        Column("WHAT IS DONE", lambda row: row[2]),
    )
    emit(rows, columns, Output(), lambda row: row[0])


def case(client: "Client", vm: str) -> "Case":
    """All that the daemon tells about a VM. Raises DoesNotExist."""
    from xenopsd.cli.story import Case, recorded

    record = client.vm.stat(vm)
    operation = record.state.operation
    readable = record.config is not None
    return Case(
        record=record,
        diagnostics=client.host.get_diagnostics(),
        recovering=client.host.query().recovering,
        task=_task(client, operation.task if operation else None),
        last=_last(client, vm),
        extra=recorded(client.vm.export_metadata(vm).extra) if readable else None,
    )


def _task(client: "Client", id: str | None) -> "Task | None":
    from idl.errors import DoesNotExist

    if id is not None:
        # It may have aged out since.
        with suppress(DoesNotExist):
            return client.task.stat(id)
    return None


def _last(client: "Client", vm: str) -> "Task | None":
    ended = (task for task in client.task.list() if task.vm == vm and task.ended)
    return max(ended, key=lambda task: task.created, default=None)


def text(case: "Case") -> str:
    """The story as lines, with the commands that settle what needs an administrator."""
    from xenopsd.cli import story

    lines = []
    for title, sentences in story.tell(case):
        lines += [title, *(click.wrap_text(one, 92, "  ", "  ") for one in sentences), ""]
    if case.concern is not None:
        lines += ["What settles it", *commands(case.concern), ""]
    return "\n".join(lines[:-1]) + "\n"


COMMANDS = (explain,)
