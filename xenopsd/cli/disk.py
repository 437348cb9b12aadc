"""Commands about VBDs, which people call disks."""
# click reads the escape in docstrings.
# ruff: noqa: D301

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from xenopsd.cli import completers, device
from xenopsd.cli.completers import vm_argument
from xenopsd.cli.follow import Waiting, finish, waiting
from xenopsd.cli.output import Column, Output, emit, listing
from xenopsd.cli.session import Session

if TYPE_CHECKING:
    from idl.vbd import VbdRecord

_disk = click.argument("disk", metavar="DISK", shell_complete=completers.vbds)


def _present(record: "VbdRecord") -> str:
    medium = record.state.backend_present
    return str(getattr(medium, "path", getattr(medium, "vdi", "")))


def _columns() -> "Sequence[Column[VbdRecord]]":
    return device.columns(
        Column("TYPE", lambda record: record.config.type),
        Column("MODE", lambda record: record.config.mode),
        Column("BUS", lambda record: record.config.bus or "", wide=True),
        Column("PERSISTENT", lambda record: str(record.config.persistent).lower(), wide=True),
        Column("MEDIUM", _present, wide=True),
    )


@click.group("disk")
def disks() -> None:
    """Disks and drives of VMs.

    A disk is named VM/NAME.
    """


@disks.command("list")
@device.maybe_vm
@listing
@click.pass_obj
def list_disks(session: Session, /, *, vm: str | None, output: Output) -> None:
    """List the disks of a VM, or of all.

    \b
    Examples:
      xenops disk list web
      xenops disk list -c device,plugged,backend
    """
    client = session.client
    emit(list(device.of(client, vm, client.vbd.list)), _columns(), output, lambda one: one.id)


@disks.command()
@vm_argument
@click.argument("spec", metavar="PATH[,KEY=VALUE]", required=False)
@device.name_option
@click.option("--cdrom", is_flag=True, help="An empty drive, where no PATH is given.")
@device.plug_option
@waiting
@click.pass_obj
def add(
    session: Session,
    /,
    *,
    vm: str,
    spec: str | None,
    name: str | None,
    cdrom: bool,
    plug: bool,
    waiting: Waiting,
) -> None:
    """Record a disk of a VM, and print its id.

    Keys: format, overlay, mode, type, bus, mount, persistent.

    \b
    Examples:
      xenops disk add web /dev/disk/by-label/data --plug
      xenops disk add web /images/base.qcow2,format=qcow2,overlay --name root
      xenops disk add web --cdrom
    """
    if (spec is None) != cdrom:
        raise click.UsageError("Give a PATH, or --cdrom for an empty drive; not both.")
    client = session.client
    id = device.new_id(vm, name, "disk", client.vbd.list(vm))
    click.echo(client.vbd.add(_vbd(id, spec)))
    if plug:
        finish(session, client.vbd.plug(id), waiting)


def _vbd(id: str, spec: str | None) -> Any:
    """Raises UsageError."""
    from idl.vbd import Vbd
    from xenopsd.cli import vmfile

    try:
        fields = {"type": "cdrom", "mode": "ro"} if spec is None else vmfile.disk(spec, None)
        return vmfile.converted({**fields, "id": id}, Vbd)
    except vmfile.BadVm as error:
        raise click.UsageError(str(error)) from error


@disks.command()
@_disk
@click.pass_obj
def remove(session: Session, /, *, disk: str) -> None:
    """Drop the record of an unplugged disk, with its layer.

    \b
    Examples:
      xenops disk remove web/disk1
    """
    session.client.vbd.remove(disk)


@disks.command()
@_disk
@waiting
@click.pass_obj
def plug(session: Session, /, *, disk: str, waiting: Waiting) -> None:
    """Plug a disk into its running VM.

    \b
    Examples:
      xenops disk plug web/disk1
    """
    finish(session, session.client.vbd.plug(disk), waiting)


@disks.command()
@_disk
@device.force_option
@waiting
@click.pass_obj
def unplug(session: Session, /, *, disk: str, force: bool, waiting: Waiting) -> None:
    """Unplug a disk, and wait until it was seen gone.

    \b
    Examples:
      xenops disk unplug web/disk1
    """
    finish(session, session.client.vbd.unplug(disk, force), waiting)


@disks.command()
@_disk
@click.argument("spec", metavar="PATH[,format=FORMAT]")
@waiting
@click.pass_obj
def insert(session: Session, /, *, disk: str, spec: str, waiting: Waiting) -> None:
    """Put a medium into a drive; what is in it makes room.

    \b
    Examples:
      xenops disk insert web/cd /images/install.iso
    """
    medium = _vbd(disk, spec).backend
    finish(session, session.client.vbd.insert(disk, medium), waiting)


@disks.command()
@_disk
@waiting
@click.pass_obj
def eject(session: Session, /, *, disk: str, waiting: Waiting) -> None:
    """Take the medium out of a drive.

    \b
    Examples:
      xenops disk eject web/cd
    """
    finish(session, session.client.vbd.eject(disk), waiting)


COMMANDS = (disks,)
