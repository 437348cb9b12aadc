"""Commands about VBDs, which people call disks."""
# click reads the escape in docstrings.
# ruff: noqa: D301

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from xenopsd.cli import completers, device
from xenopsd.cli.completers import vm_argument
from xenopsd.cli.follow import Waiting, finish, waiting
from xenopsd.cli.output import Column
from xenopsd.cli.session import Session

if TYPE_CHECKING:
    from idl.vbd import VbdRecord


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


KIND = device.Kind(
    noun="disk",
    a_noun="a disk",
    example="web/disk1",
    calls=lambda client: client.vbd,
    complete=completers.vbds,
    columns=_columns,
    list_example="-c device,plugged,backend",
    goes_too=", with its layer",
)


@click.group("disk")
def disks() -> None:
    """Disks and drives of VMs.

    A disk is named VM/NAME.
    """


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
    id = device.new_id(vm, name, "disk", session.client.vbd.list(vm))
    device.add(session, KIND, _vbd(id, spec), waiting, plug=plug)


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
@KIND.argument
@click.argument("spec", metavar="PATH[,format=FORMAT]")
@waiting
@click.pass_obj
def insert(session: Session, /, *, device: str, spec: str, waiting: Waiting) -> None:
    """Put a medium into a drive; what is in it makes room.

    \b
    Examples:
      xenops disk insert web/cd /images/install.iso
    """
    medium = _vbd(device, spec).backend
    finish(session, session.client.vbd.insert(device, medium), waiting)


@disks.command()
@KIND.argument
@waiting
@click.pass_obj
def eject(session: Session, /, *, device: str, waiting: Waiting) -> None:
    """Take the medium out of a drive.

    \b
    Examples:
      xenops disk eject web/cd
    """
    finish(session, session.client.vbd.eject(device), waiting)


device.give(disks, KIND)
COMMANDS = (disks,)
