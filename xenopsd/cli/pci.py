"""Commands about devices of the host that are passed through."""
# click reads the escape in docstrings.
# ruff: noqa: D301

from typing import Any

import click

from xenopsd.cli import completers, device
from xenopsd.cli.completers import vm_argument
from xenopsd.cli.follow import Waiting, waiting
from xenopsd.cli.session import Session

KIND = device.Kind(
    noun="pci",
    a_noun="a PCI device",
    example="web/gpu",
    calls=lambda client: client.pci,
    complete=completers.pcis,
    columns=device.columns,
    list_example="-o json",
)


@click.group("pci")
def pcis() -> None:
    """PCI devices of the host that VMs are given.

    A device is named VM/NAME.
    """


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
    id = device.new_id(vm, name, "pci", session.client.pci.list(vm))
    device.add(session, KIND, _record(id, address), waiting, plug=plug)


def _record(id: str, address: str) -> Any:
    """Raises UsageError."""
    from idl.pci import Pci
    from xenopsd.cli import vmfile

    try:
        return vmfile.converted({"id": id, "address": address}, Pci)
    except vmfile.BadVm as error:
        raise click.UsageError(str(error)) from error


device.give(pcis, KIND)
COMMANDS = (pcis,)
