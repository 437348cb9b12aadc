"""Commands for when nothing else will do: any call, and why nothing moves."""
# click reads the escape in docstrings.
# ruff: noqa: D301

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from xenopsd.cli.output import Column, as_json, emit
from xenopsd.cli.session import Session

if TYPE_CHECKING:
    from idl.host import Diagnostics, QueueDiagnostics


@click.command()
@click.argument("method")
@click.argument("params", metavar="[JSON]", default="{}")
@click.pass_obj
def call(session: Session, /, *, method: str, params: str) -> None:
    """Make any call and print its result as JSON.

    Its parameters are a JSON object; - reads it from stdin.

    \b
    Examples:
      xenops call HOST.query
      xenops call VM.stat '{"id": "web"}'
      xenops call rpc.discover
    """
    text = sys.stdin.read() if params == "-" else params
    try:
        given = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"The parameters are no JSON: {error}.") from error
    if not isinstance(given, dict):
        raise click.UsageError('The parameters must be a JSON object, such as {"id": "web"}.')
    click.echo(as_json(session.client.call(method, **given)))


def _running(queue: "QueueDiagnostics") -> str:
    return "" if queue.running is None else f"{queue.running.name} {queue.running.object}"


def _age(queue: "QueueDiagnostics") -> str:
    return "" if queue.running is None else f"{queue.running.age:.1f} s"


def _holder(queue: "QueueDiagnostics") -> str:
    return "" if queue.running is None else queue.running.holder


def _columns() -> "Sequence[Column[QueueDiagnostics]]":
    return (
        Column("QUEUE", lambda queue: queue.vm),
        Column("STATE", lambda queue: queue.state),
        Column("OPERATIONS", lambda queue: ",".join(one.name for one in queue.operations)),
        Column("RUNNING", _running),
        Column("AGE", _age),
        Column("HOLDER", _holder),
    )


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "json")),
    default="table",
    show_default=True,
    help="The queues and what is wrong, or everything.",
)
@click.pass_obj
def diagnostics(session: Session, /, *, output: str) -> None:
    """Show what every queue waits for, and what is wrong.

    \b
    Examples:
      xenops diagnostics
      xenops diagnostics -o json
    """
    found = session.client.host.get_diagnostics()
    if output == "json":
        click.echo(as_json(found))
        return
    emit(found.queues, _columns(), output, lambda queue: queue.vm)
    _wrong(found)


def _wrong(found: "Diagnostics") -> None:
    for intent in found.journal:
        step = intent.intended or "nothing"
        click.echo(f"open intent: {intent.operation} of {intent.vm}, {step} under way")
    for record in found.quarantined:
        click.echo(f"set aside: {record.path} ({record.reason})")


COMMANDS = (call, diagnostics)
