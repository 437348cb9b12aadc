"""Commands about the VMs' queues: who holds them, for how long, and what waits."""
# click reads the escape in docstrings.
# ruff: noqa: D301

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from xenopsd.cli import completers
from xenopsd.cli.output import Column, Output, emit, listing, span
from xenopsd.cli.session import Session

if TYPE_CHECKING:
    from idl.host import QueueDiagnostics, QueuedOperation


def _running(queue: "QueueDiagnostics") -> str:
    return "" if queue.running is None else f"{queue.running.name} {queue.running.object}"


def _age(queue: "QueueDiagnostics") -> str:
    return "" if queue.running is None else span(queue.running.age)


def _holder(queue: "QueueDiagnostics") -> str:
    if queue.running is None:
        return ""
    return queue.running.holder + (" (written off)" if queue.running.written_off else "")


def _left(queue: "QueueDiagnostics") -> str:
    left = None if queue.running is None else queue.running.deadline
    if left is None:
        return ""
    return f"in {span(left)}" if left > 0 else f"{span(-left)} ago"


def columns() -> "Sequence[Column[QueueDiagnostics]]":
    """Of a table of queues."""
    return (
        Column("QUEUE", lambda queue: queue.vm),
        Column("STATE", lambda queue: queue.state),
        Column("DEPTH", lambda queue: str(len(queue.operations))),
        Column("OPERATIONS", lambda queue: ",".join(one.name for one in queue.operations)),
        Column("RUNNING", _running),
        Column("AGE", _age),
        Column("DEADLINE", _left, wide=True),
        Column("HOLDER", _holder),
    )


def _operation_columns() -> "Sequence[Column[tuple[int, QueuedOperation]]]":
    return (
        Column("PLACE", lambda row: str(row[0])),
        Column("OPERATION", lambda row: row[1].name),
        Column("TASK", lambda row: row[1].task or ""),
        Column("STATE", lambda row: row[1].state),
        Column("MICRO_OPS", lambda row: ",".join(row[1].micro_ops)),
    )


@click.group("queue")
def queues() -> None:
    """Look at the queues of VMs."""


@queues.command()
@completers.maybe_vm
@listing
@click.pass_obj
def show(session: Session, /, *, vm: str | None, output: Output) -> None:
    """Show every queue that is not empty, or what stands on one VM's.

    A queue is ready (waits for a worker), leased (a worker holds it) or parked (waits for
    something else without a worker).

    \b
    Examples:
      xenops queue show
      xenops queue show web
    """
    found = session.client.host.get_diagnostics().queues
    if vm is None:
        emit(found, columns(), output, lambda queue: queue.vm)
        return
    # Of a VM that there is not, the daemon says so; of an idle one there is nothing to show.
    session.client.vm.stat(vm)
    rows = list(_operations(queue for queue in found if queue.vm == vm))
    emit(rows, _operation_columns(), output, lambda row: row[1].task or row[1].name)


def _operations(
    queues: "Iterator[QueueDiagnostics]",
) -> "Iterator[tuple[int, QueuedOperation]]":
    for queue in queues:
        yield from enumerate(queue.operations, start=1)


COMMANDS = (queues,)
