"""Following what changes."""
# click reads the escape in docstrings.
# ruff: noqa: D301

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from xenopsd.cli.session import Session

if TYPE_CHECKING:
    from idl.client import Subscription
    from idl.update import Update


@click.command()
@click.option("--since", metavar="TOKEN", help="From this token on; by default from now on.")
@click.option("--all", "everything", is_flag=True, help="Begin with every object that exists.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "json")),
    default="table",
    show_default=True,
    help="A line an update, or a line of JSON a batch (its next is the token to go on from).",
)
@click.pass_obj
def events(session: Session, /, *, since: str | None, everything: bool, output: str) -> None:
    """Print which objects change, until Ctrl-C.

    \b
    Examples:
      xenops events
      xenops events --all -o json | jq -r '.updates[].id'
    """
    if since is None and not everything:
        since = session.client.updates.last_id()
    try:
        with session.client.subscribe(since) as subscription:
            _print(subscription, output)
    except KeyboardInterrupt:
        # How this command ends.
        return


def _print(subscription: "Subscription", output: str) -> None:
    import msgspec

    for batch in subscription:
        if output == "json":
            click.echo(msgspec.json.encode(batch))
            continue
        if batch.resync:
            click.echo("resync: what is not named below is gone")
        for update in batch.updates:
            click.echo(_line(update))


def _line(update: "Update") -> str:
    now = datetime.now(UTC).strftime("%H:%M:%SZ")
    gone = "  removed" if update.removed else ""
    return f"{now}  {update.type:<4}  {update.id}{gone}"


COMMANDS = (events,)
