"""Commands about devices of the host that are passed through."""
# click reads the escape in docstrings.
# ruff: noqa: D301

from typing import Any

import click

from xenopsd.cli import completers, device
from xenopsd.cli.completers import vm_argument
from xenopsd.cli.follow import Waiting, finish, waiting
from xenopsd.cli.output import Output, emit, listing
from xenopsd.cli.session import Session

_pci = click.argument("pci", metavar="PCI", shell_complete=completers.pcis)


@click.group("pci")
def pcis() -> None:
    """PCI devices of the host that VMs are given.

    A device is named VM/NAME.
    """


@pcis.command("list")
@device.maybe_vm
@listing
@click.pass_obj
def list_pcis(session: Session, /, *, vm: str | None, output: Output) -> None:
    """List the PCI devices of a VM, or of all.

    \b
    Examples:
      xenops pci list web
    """
    client = session.client
    found = list(device.of(client, vm, client.pci.list))
    emit(found, device.columns(), output, lambda one: one.id)


@pcis.command()
@vm_argument
@click.argument("address")
@device.name_option
@device.plug_option
@waiting
@click.pass_obj
def add(
    session: Session,
    /,
    *,
    vm: str,
    address: str,
    name: str | None,
    plug: bool,
    waiting: Waiting,
) -> None:
    """Record a PCI device of a VM, and print its id.

    ADDRESS is that of the host, with its domain.

    \b
    Examples:
      xenops pci add web 0000:03:00.0 --name gpu
    """
    client = session.client
    id = device.new_id(vm, name, "pci", client.pci.list(vm))
    click.echo(client.pci.add(_record(id, address)))
    if plug:
        finish(session, client.pci.plug(id), waiting)


def _record(id: str, address: str) -> Any:
    """Raises UsageError."""
    from idl.pci import Pci
    from xenopsd.cli import vmfile

    try:
        return vmfile.converted({"id": id, "address": address}, Pci)
    except vmfile.BadVm as error:
        raise click.UsageError(str(error)) from error


@pcis.command()
@_pci
@click.pass_obj
def remove(session: Session, /, *, pci: str) -> None:
    """Drop the record of an unplugged PCI device.

    \b
    Examples:
      xenops pci remove web/gpu
    """
    session.client.pci.remove(pci)


@pcis.command()
@_pci
@waiting
@click.pass_obj
def plug(session: Session, /, *, pci: str, waiting: Waiting) -> None:
    """Give a PCI device to its running VM.

    \b
    Examples:
      xenops pci plug web/gpu
    """
    finish(session, session.client.pci.plug(pci), waiting)


@pcis.command()
@_pci
@device.force_option
@waiting
@click.pass_obj
def unplug(session: Session, /, *, pci: str, force: bool, waiting: Waiting) -> None:
    """Take a PCI device back.

    \b
    Examples:
      xenops pci unplug web/gpu
    """
    finish(session, session.client.pci.unplug(pci, force), waiting)


COMMANDS = (pcis,)
