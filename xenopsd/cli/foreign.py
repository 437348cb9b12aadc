"""Commands about what runs on this host and what the daemon's records say of it."""
# click reads the escape in docstrings.
# ruff: noqa: D301

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from xenopsd.cli import completers
from xenopsd.cli.completers import vm_argument
from xenopsd.cli.follow import Waiting, finish, waiting
from xenopsd.cli.output import Column, Output, emit, listing
from xenopsd.cli.session import Session

if TYPE_CHECKING:
    from idl.host import ForeignDomain


def _columns() -> "Sequence[Column[ForeignDomain]]":
    return (
        Column("DOMAIN", lambda domain: domain.id),
        Column("NAME", lambda domain: domain.name),
        Column("WHY", lambda domain: domain.why),
    )


@click.command()
@listing
@click.pass_obj
def foreign(session: Session, /, *, output: Output) -> None:
    """List the domains that are not this instance's.

    They are listed and never touched, unless a VM adopts one.

    \b
    Examples:
      xenops foreign
    """
    found = session.client.host.list_foreign()
    emit(found, _columns(), output, lambda domain: domain.id)


@click.command()
@vm_argument
@click.argument("domain", shell_complete=completers.foreign_domains)
@waiting
@click.pass_obj
def adopt(session: Session, /, *, vm: str, domain: str, waiting: Waiting) -> None:
    """Take a foreign domain under the record of a VM.

    DOMAIN is an id that xenops foreign lists.

    \b
    Examples:
      xenops adopt web 17
    """
    finish(session, session.client.vm.adopt(vm, domain), waiting)


@click.command()
@vm_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@waiting
@click.pass_obj
def forget(session: Session, /, *, vm: str, yes: bool, waiting: Waiting) -> None:
    """Drop the record of a VM and touch nothing else.

    What runs goes on and is foreign from then on; disks, images and layers stay. It settles a
    record that cannot be read, or that contradicts what runs.

    \b
    Examples:
      xenops forget web
    """
    if not yes and sys.stdin.isatty():
        click.confirm(f"Forget VM {vm}, and leave whatever runs to itself?", abort=True, err=True)
    finish(session, session.client.vm.forget(vm), waiting)


@click.command()
@vm_argument
@click.argument("instance")
@click.pass_obj
def release(session: Session, /, *, vm: str, instance: str) -> None:
    """Hand a halted VM to another instance of this host.

    Its layers go with it. The other instance must be up and have the same backend.

    \b
    Examples:
      xenops release web blue
    """
    session.client.vm.release(vm, instance)


COMMANDS = (foreign, adopt, forget, release)
