"""Records of VMs that come from files and options, and go into files."""
# click reads the escape in docstrings.
# ruff: noqa: D301

from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from xenopsd.cli.completers import vm_argument
from xenopsd.cli.output import as_json, as_yaml
from xenopsd.cli.session import Session

if TYPE_CHECKING:
    from idl.metadata import Metadata


@click.command()
@click.argument("file", type=click.File(), required=False)
@click.option("--id", help="Id of the VM, where no file is given.")
@click.option("--name", help="A name for people.")
@click.option("--memory", metavar="SIZE", help="Memory: bytes, or 512M, 4G.")
@click.option("--vcpus", type=int, help="Number of vCPUs.")
@click.option(
    "--guest", type=click.Choice(("hvm", "pv", "pvh", "container")), help="Type of guest."
)
@click.option("--kernel", metavar="PATH", help="Kernel to boot.")
@click.option("--ramdisk", metavar="PATH", help="Its ramdisk.")
@click.option("--cmdline", help="Its command line.")
@click.option(
    "--disk",
    "disks",
    multiple=True,
    metavar="PATH[,KEY=VALUE]",
    help="A disk, once or more; keys: format, overlay, mode, type, bus, mount, persistent, name.",
)
@click.option(
    "--nic",
    "nics",
    multiple=True,
    metavar="BRIDGE[,KEY=VALUE]",
    help="An interface, once or more; keys: mac, model, mtu, ipv4, ipv6, gateway, locked, name.",
)
@click.option("--auto-start", is_flag=True, default=None, help="Start it when the host starts.")
@click.option("--replace", is_flag=True, help="Replace the VM of that id and its devices.")
@click.pass_obj
def add(
    session: Session, /, *, file: TextIO | None, memory: str | None, replace: bool, **options: Any
) -> None:
    """Record a VM with its devices.

    From FILE (TOML, or JSON or YAML where it is named so; - reads stdin) or from options; wholly
    or not at all.

    \b
    Examples:
      xenops add web.toml
      xenops add --id web --memory 2G --vcpus 2 --disk /dev/disk/by-label/web --nic br0
      xenops add --id ct --guest container --disk /srv/base.tar,format=tar,overlay,mount=/
    """
    _record(session, _wanted(file, memory, options), replace=replace)


def _record(session: Session, metadata: "Metadata", *, replace: bool) -> None:
    client = session.client
    if not replace and client.vm.exists(metadata.vm.id):
        from idl.errors import AlreadyExists

        raise AlreadyExists(kind="VM", id=metadata.vm.id)
    click.echo(client.vm.import_metadata(metadata))


def _read(file: TextIO) -> "Metadata":
    """Raises UsageError."""
    from xenopsd.cli import vmfile

    name = Path(file.name).name
    try:
        return vmfile.of_file(name, file.read())
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{name}: it is no text in UTF-8.") from error
    except vmfile.BadVm as error:
        raise click.UsageError(str(error)) from error


def _wanted(file: TextIO | None, memory: str | None, options: dict[str, Any]) -> "Metadata":
    """The VM of the file, or of the options. Raises UsageError."""
    from xenopsd.cli import vmfile

    given = memory is not None or any(value not in (None, ()) for value in options.values())
    if (file is None) != given:
        raise click.UsageError("Give a FILE, or --id and other options; not both.")
    if file is not None:
        return _read(file)
    try:
        vcpus = options["vcpus"]
        fields = {name: options[name] for name in ("id", "name", "auto_start")}
        fields |= {"vcpu_max": vcpus, "memory_static_max": memory and vmfile.size(memory)}
        guest = {name: options[name] for name in ("kernel", "ramdisk", "cmdline")}
        guest = {"type": options["guest"], **guest}
        return vmfile.of_options(fields, guest, options["disks"], options["nics"])
    except vmfile.BadVm as error:
        raise click.UsageError(str(error)) from error


@click.command()
@vm_argument
@click.argument("file", type=click.File("w", atomic=True), default="-")
@click.option(
    "-o",
    "--output",
    type=click.Choice(("json", "yaml")),
    default="json",
    show_default=True,
    help="How to write it.",
)
@click.pass_obj
def export(session: Session, /, *, vm: str, file: TextIO, output: str) -> None:
    """Write the record of a VM with its devices.

    It goes to stdout, or to FILE; xenops import reads it, on this host or another.

    \b
    Examples:
      xenops export web > web.json
      xenops export web web.json
    """
    metadata = session.client.vm.export_metadata(vm)
    file.write(as_yaml(metadata) if output == "yaml" else as_json(metadata) + "\n")


@click.command("import")
@click.argument("files", metavar="FILE…", type=click.File(), nargs=-1, required=True)
@click.option("--replace", is_flag=True, help="Replace the VMs of those ids and their devices.")
@click.pass_obj
def import_(session: Session, /, *, files: tuple[TextIO, ...], replace: bool) -> None:
    """Record VMs from what export has written.

    Each is recorded wholly or not at all; the first that fails ends it. What a file says of the
    running VM is not imported.

    \b
    Examples:
      xenops import web.json
      xenops import --replace /backup/*.json
    """
    for metadata in [_read(file) for file in files]:
        _record(session, metadata, replace=replace)


COMMANDS = (add, export, import_)
