"""Commands about the records of VMs."""
# click reads the escape in docstrings.
# ruff: noqa: D301

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from xenopsd.cli.lifecycle import vm_argument
from xenopsd.cli.output import (
    Column,
    as_json,
    detail_option,
    details,
    emit,
    format_option,
    moment,
    size,
)
from xenopsd.cli.session import Session

if TYPE_CHECKING:
    from idl.metadata import Metadata
    from idl.vm import Vm, VmRecord


def _of_config(text: "Callable[[Vm], str]") -> "Callable[[VmRecord], str]":
    """What a damaged record cannot say stays empty."""
    return lambda record: "" if record.config is None else text(record.config)


def _state(record: "VmRecord") -> str:
    doubt = " (attention)" if record.state.attention else ""
    return f"{record.state.power_state}{doubt}"


def _operation(record: "VmRecord") -> str:
    return "" if record.state.operation is None else record.state.operation.name


def _attention(record: "VmRecord") -> str:
    return "" if record.state.attention is None else record.state.attention.reason


def _columns() -> "Sequence[Column[VmRecord]]":
    return (
        Column("VM", lambda record: record.id),
        Column("STATE", _state),
        Column("GUEST", _of_config(lambda vm: str(vm.guest.__struct_config__.tag))),
        Column("VCPUS", _of_config(lambda vm: str(vm.vcpus))),
        Column("MEMORY", _of_config(lambda vm: size(vm.memory_static_max))),
        Column("OPERATION", _operation),
        Column("NAME", _of_config(lambda vm: vm.name), wide=True),
        Column("UUID", _of_config(lambda vm: vm.uuid), wide=True),
        Column("DOMAIN", lambda record: ",".join(record.state.domain_ids), wide=True),
        Column("PENDING", lambda record: ",".join(record.pending), wide=True),
        Column("REASON", lambda record: record.state.reason, wide=True),
        Column("ATTENTION", _attention, wide=True),
    )


@click.command("list")
@format_option
@click.pass_obj
def list_vms(session: Session, /, *, output: str) -> None:
    """List the VMs of this instance.

    \b
    Examples:
      xenops list
      xenops list -o wide
      xenops list -o name | xargs -n 1 xenops start
    """
    records = sorted(session.client.vm.list(), key=lambda record: record.id)
    emit(records, _columns(), output, lambda record: record.id)


@click.command()
@vm_argument
@detail_option
@click.pass_obj
def show(session: Session, /, *, vm: str, output: str) -> None:
    """Show a VM: its state, its configuration and its devices.

    \b
    Examples:
      xenops show web
      xenops show web -o json
    """
    client = session.client
    record = client.vm.stat(vm)
    # A damaged record has no devices to ask for.
    readable = record.config is not None
    devices: dict[str, Sequence[Any]] = {
        "vbds": client.vbd.list(vm) if readable else [],
        "vifs": client.vif.list(vm) if readable else [],
        "pcis": client.pci.list(vm) if readable else [],
    }
    if output == "json":
        click.echo(as_json({"vm": record, **devices}))
        return
    details([*_of_record(record), *_of_devices(devices)])


def _of_record(record: "VmRecord") -> Iterator[tuple[str, str]]:
    state, operation = record.state, record.state.operation
    yield from ((column.title.lower(), column.text(record)) for column in _columns()[:5])
    yield from ((column.title.lower(), column.text(record)) for column in _columns()[6:])
    if operation is not None:
        yield "operation", f"{operation.name} {operation.micro_op or ''}".strip()
        yield "task", operation.task or ""
    yield "queued", str(state.queue_depth or "")
    yield "incarnation", state.incarnation or ""
    yield "started", moment(state.last_start_time)
    for console in state.consoles:
        yield "console", f"{console.protocol} {console.path or console.port}"
    for field, change in record.pending.items():
        yield f"pending {field}", f"{change.running} now, {change.configured} at the next start"


def _of_devices(devices: dict[str, Sequence[Any]]) -> Iterator[tuple[str, str]]:
    for kind, records in devices.items():
        for record in records:
            plugged = "plugged" if record.state.plugged else "unplugged"
            yield (
                kind.removesuffix("s"),
                f"{record.id} {plugged} {_backend(record.config)}".strip(),
            )


def _backend(config: Any) -> str:
    """What is behind a device, in a word."""
    backend = getattr(config, "backend", None)
    names = ((config, "address"), (backend, "path"), (backend, "name"), (backend, "vdi"))
    return next((str(getattr(one, name)) for one, name in names if hasattr(one, name)), "")


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
    help="A disk; keys: format, overlay, mode, type, bus, mount, name. May be repeated.",
)
@click.option(
    "--nic",
    "nics",
    multiple=True,
    metavar="BRIDGE[,KEY=VALUE]",
    help="An interface; keys: mac, model, mtu, name. May be repeated.",
)
@click.option("--auto-start", is_flag=True, default=None, help="Start it when the host starts.")
@click.option("--replace", is_flag=True, help="Replace the VM of that id and its devices.")
@click.pass_obj
def add(
    session: Session, /, *, file: TextIO | None, memory: str | None, replace: bool, **options: Any
) -> None:
    """Record a VM with its devices.

    From FILE (TOML, or JSON where it ends so; - reads TOML from stdin) or from options;
    wholly or not at all.

    \b
    Examples:
      xenops add web.toml
      xenops add --id web --memory 2G --vcpus 2 --disk /dev/disk/by-label/web --nic br0
      xenops add --id ct --guest container --disk /srv/base.tar,format=tar,overlay,mount=/
    """
    metadata = _wanted(file, memory, options)
    client = session.client
    if not replace and client.vm.exists(metadata.vm.id):
        from idl.errors import AlreadyExists

        raise AlreadyExists(kind="VM", id=metadata.vm.id)
    click.echo(client.vm.import_metadata(metadata))


def _wanted(file: TextIO | None, memory: str | None, options: dict[str, Any]) -> "Metadata":
    """The VM of the file, or of the options. Raises UsageError."""
    from xenopsd.cli import vmfile

    given = memory is not None or any(value not in (None, ()) for value in options.values())
    if (file is None) != given:
        raise click.UsageError("Give a FILE, or --id and other options; not both.")
    try:
        if file is not None:
            return vmfile.of_file(Path(file.name).name, file.read())
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
@click.option("--keep-layers", is_flag=True, help="Keep what its disks have written.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def remove(session: Session, /, *, vm: str, keep_layers: bool, yes: bool) -> None:
    """Drop the record of a VM.

    It must be halted or suspended; its devices, suspend image and layers go with it.

    \b
    Examples:
      xenops remove web
      xenops remove web --yes --keep-layers
    """
    if not yes and sys.stdin.isatty():
        click.confirm(f"Remove VM {vm} for good?", abort=True)
    session.client.vm.remove(vm, keep_layers)


COMMANDS = (list_vms, show, add, remove)
