"""Why nothing moves, and what a bug report needs."""
# click reads the escape in docstrings.
# ruff: noqa: D301

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from xenopsd.cli import queue
from xenopsd.cli.output import Output, emit, tell
from xenopsd.cli.session import Session

if TYPE_CHECKING:
    from idl.host import Diagnostics


_COLUMNS = ("QUEUE", "STATE", "OPERATIONS", "RUNNING", "AGE", "HOLDER")


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "json", "yaml")),
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
    if output != "table":
        tell(found, output, tuple)
        return
    emit(found.queues, queue.columns(), Output(columns=_COLUMNS), lambda one: one.vm)
    for line in _wrong(found):
        click.echo(line)


def _wrong(found: "Diagnostics") -> Iterable[str]:
    for intent in found.journal:
        step = intent.intended or "nothing"
        yield f"open intent: {intent.operation} of {intent.vm}, {step} under way"
    for record in found.quarantined:
        yield f"set aside: {record.path} ({record.reason})"


@click.group()
def diag() -> None:
    """Gather what a bug report needs."""


@diag.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option(
    "--log",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A log of the daemon to put in (its end, 4 MiB at most).",
)
@click.pass_obj
def bundle(session: Session, /, *, file: Path | None, log: Path | None) -> None:
    """Write what a bug report needs into a .tar.gz.

    It is everything that the daemon tells. Records are as on the read-only socket: command
    lines, environments and xsdata are left out. What could not be asked is in it as the error, so
    it also works where the daemon does not.

    \b
    Examples:
      xenops diag bundle
      xenops diag bundle --log /var/log/xenopsd.log /tmp/bug.tar.gz
    """
    from xenopsd.cli import bundle as bundles

    path = file or Path(bundles.default_name())
    missing = bundles.write(path, session, log)
    for name, sentence in missing.items():
        click.echo(f"not in it: {name}: {sentence}", err=True)
    click.echo(str(path))


COMMANDS = (diagnostics, diag)
