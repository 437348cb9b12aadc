"""What the daemon's interface is, as the daemon itself says."""
# click reads the escape in docstrings.
# ruff: noqa: D301

from collections.abc import Sequence

import click

from xenopsd.cli import completers
from xenopsd.cli.output import Column, Output, emit, listing
from xenopsd.cli.session import Session


@click.command()
@click.argument("name", metavar="[NAME]", required=False, shell_complete=completers.methods)
@listing
@click.pass_obj
def describe(session: Session, /, *, name: str | None, output: Output) -> None:
    """Say what a call takes and answers.

    NAME is a call, a type or an error; without one the calls are listed. It is read from the
    daemon that runs; xenops call rpc.discover prints all of it.

    \b
    Examples:
      xenops describe
      xenops describe VM.shutdown
      xenops describe Vbd
    """
    from xenopsd.cli.openrpc import Interface

    interface = Interface(session.client.rpc.discover())
    if name is None:
        columns: Sequence[Column[tuple[str, str]]] = (
            Column("CALL", lambda row: row[0]),
            Column("WHAT", lambda row: row[1]),
        )
        emit(interface.summaries(), columns, output, lambda row: row[0])
        return
    lines = interface.of(name)
    if lines is None:
        from idl.errors import DoesNotExist

        near = [one for one in interface.names() if name.lower() in one.lower()]
        hint = f" (there are {', '.join(near[:5])})" if near else ""
        raise DoesNotExist(kind="call, type or error named", id=name + hint)
    click.echo("\n".join(lines))


COMMANDS = (describe,)
