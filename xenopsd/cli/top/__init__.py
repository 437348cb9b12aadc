"""`xenops top`: a full-screen view of VMs, queues, tasks and workers."""
# click reads the escape in docstrings.
# ruff: noqa: D301

import sys

import click

from xenopsd.cli.seconds import Seconds
from xenopsd.cli.session import Session


@click.command()
@click.option(
    "--interval",
    type=Seconds(min=0.2),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How often queues, workers and rates are looked at; VMs show when they change.",
)
@click.pass_obj
def top(session: Session, /, *, interval: float) -> None:
    """Watch VMs, queues, workers, tasks and rates, and steer them.

    Keys: s starts the chosen VM, x stops it (its guest is asked), X stops it hard, c cancels
    its task or the chosen one, e explains it, o orders VMs by another column, / filters, 1 to 4
    choose a table, q leaves.

    \b
    Examples:
      xenops top
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("top needs a terminal; in a pipe use xenops list or queue show.")
    # Before the screen is taken, so that what is wrong is told on a readable one.
    session.client.host.query()

    from xenopsd.cli.top.app import Top

    Top(session.socket, interval).run()


COMMANDS = (top,)
