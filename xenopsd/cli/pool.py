"""Commands about the worker pool."""
# click reads the escape in docstrings.
# ruff: noqa: D301

import click

from xenopsd.cli.output import detail_option, tell
from xenopsd.cli.session import Session


@click.group()
def pool() -> None:
    """Look at the worker pool and resize it."""


@pool.command()
@detail_option
@click.pass_obj
def show(session: Session, /, *, output: str) -> None:
    """Show the size of the pool and what its workers do.

    \b
    Examples:
      xenops pool show
    """
    found = session.client.host.get_worker_pool()
    names = found.__struct_fields__
    tell(found, output, lambda: ((name, str(getattr(found, name))) for name in names))


@pool.command("set")
@click.argument("size", type=int)
@click.pass_obj
def resize(session: Session, /, *, size: int) -> None:
    """Resize the pool, now and after a restart.

    \b
    Examples:
      xenops pool set 8
    """
    session.client.host.set_worker_pool_size(size)


COMMANDS = (pool,)
