"""What needs an administrator."""
# click reads the escape in docstrings.
# ruff: noqa: D301

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from xenopsd.cli.output import as_json, as_yaml, moment
from xenopsd.cli.session import Session

if TYPE_CHECKING:
    from xenopsd.cli.concerns import Concern


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "json", "yaml", "name")),
    default="table",
    show_default=True,
    help="How to print.",
)
@click.pass_obj
def attention(session: Session, /, *, output: str) -> None:
    """Show what needs you, with the commands that settle it.

    VMs of which the daemon is in doubt, and has touched nothing; records that cannot be read;
    calls that do not return.

    \b
    Examples:
      xenops attention
      xenops attention -o name
    """
    from xenopsd.cli.concerns import concerns

    client = session.client
    found = concerns(client.vm.list(), client.host.get_diagnostics())
    match output:
        case "json":
            click.echo(as_json(found))
        case "yaml":
            click.echo(as_yaml(found), nl=False)
        case "name":
            click.echo("".join(f"{concern.subject}\n" for concern in found), nl=False)
        case _:
            text = "\n".join(map(_text, found)) or "Nothing needs you."
            click.echo(session.typed(text))


def _text(concern: "Concern") -> str:
    since = "" if concern.since is None else f" (since {moment(concern.since)})"
    return "\n".join([f"{concern.subject}: {concern.why}{since}", *commands(concern), ""]).rstrip()


def commands(concern: "Concern") -> Iterable[str]:
    """The commands that settle it, a line each."""
    width = max((len(remedy.command) for remedy in concern.remedies), default=0)
    for remedy in concern.remedies:
        yield f"  {remedy.command.ljust(width)}  {remedy.effect}"


COMMANDS = (attention,)
