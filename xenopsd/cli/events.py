"""Following what changes."""
# click reads the escape in docstrings.
# ruff: noqa: D301

import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from xenopsd.cli.session import Session

if TYPE_CHECKING:
    from idl.update import Update, UpdateBatch

#: Seconds that a poll waits for something to tell.
POLL = 30.0


@click.command()
@click.option("--since", metavar="TOKEN", help="From this token on; by default from now on.")
@click.option("--all", "everything", is_flag=True, help="Begin with every object that exists.")
@click.option(
    "--follow/--no-follow",
    default=True,
    show_default=True,
    help="Go on until Ctrl-C, or end with what has changed by now.",
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "json")),
    default="table",
    show_default=True,
    help="A line an update, or a line of JSON a batch (its next is the token to go on from).",
)
@click.pass_obj
def events(
    session: Session, /, *, since: str | None, everything: bool, follow: bool, output: str
) -> None:
    """Print which objects change, until Ctrl-C.

    It goes on when the daemon is restarted, and names then what changed meanwhile.

    At its end it says on stderr from which token to go on, so that nothing is missed between.

    \b
    Examples:
      xenops events
      xenops events --since 0a1b:42 --no-follow
      xenops events --all -o json | jq -r '.updates[].id'
    """
    if since is None and not everything:
        since = session.client.updates.last_id()
    if follow:
        _follow(session, since, output)
        return
    batch = session.client.updates.get(since, timeout=0)
    _print(batch, output)
    _go_on(session, batch.next)


def _follow(session: Session, since: str | None, output: str) -> None:
    """Until Ctrl-C, or until the daemon has been away for longer than a restart takes."""
    token = since
    for ending in (signal.SIGHUP, signal.SIGTERM):
        # The terminal is gone, or a script has enough: the token is told all the same.
        if signal.getsignal(ending) == signal.SIG_DFL:
            signal.signal(ending, signal.default_int_handler)
    try:
        while True:
            batch = session.client.updates.get(token, timeout=POLL)
            if batch.updates or batch.resync:
                _print(batch, output)
            token = batch.next
    except KeyboardInterrupt:
        pass  # how this command ends
    finally:
        _go_on(session, token)


def _print(batch: "UpdateBatch", output: str) -> None:
    if output == "json":
        import msgspec

        click.echo(msgspec.json.encode(batch))
        return
    if batch.resync:
        click.echo("resync: what is not named below is gone")
    for update in batch.updates:
        click.echo(_line(update))


def _go_on(session: Session, token: str | None) -> None:
    whence = "--all" if token is None else f"--since {token}"
    click.echo(session.typed(f"go on with: xenops events {whence}"), err=True)


def _line(update: "Update") -> str:
    now = datetime.now(UTC).strftime("%H:%M:%SZ")
    gone = "  removed" if update.removed else ""
    return f"{now}  {update.type:<4}  {update.id}{gone}"


COMMANDS = (events,)
