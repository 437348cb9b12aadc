"""Commands about the records of VMs."""
# click reads the escape in docstrings.
# ruff: noqa: D301

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from xenopsd.cli import usage
from xenopsd.cli.completers import vm_argument
from xenopsd.cli.device import behind
from xenopsd.cli.output import (
    Column,
    Output,
    detail_option,
    emit,
    listing,
    moment,
    size,
    tell,
    written,
)
from xenopsd.cli.session import Session

if TYPE_CHECKING:
    from idl.vm import Vm, VmMetrics, VmRecord

_Columns: TypeAlias = "Sequence[Column[VmRecord]]"


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


def _columns(used: "Mapping[str, VmMetrics]" = MappingProxyType({})) -> "_Columns":
    """`used`: what each VM has used since its start."""
    return (
        Column("VM", lambda record: record.id),
        Column("STATE", _state),
        Column("GUEST", _of_config(lambda vm: str(vm.guest.__struct_config__.tag))),
        Column("VCPUS", _of_config(lambda vm: str(vm.vcpus))),
        Column("MEMORY", _of_config(lambda vm: size(vm.memory_static_max))),
        Column("OPERATION", _operation),
        *usage.columns(used),
        Column("NAME", _of_config(lambda vm: vm.name), wide=True),
        Column("UUID", _of_config(lambda vm: vm.uuid), wide=True),
        Column("DOMAIN", lambda record: ",".join(record.state.domain_ids), wide=True),
        Column("PENDING", lambda record: ",".join(record.pending), wide=True),
        Column("REASON", lambda record: record.state.reason, wide=True),
        Column("ATTENTION", _attention, wide=True),
    )


@click.command("list")
@listing
@click.pass_obj
def list_vms(session: Session, /, *, output: Output) -> None:
    """List the VMs of this instance.

    Wide, it also tells what they use: CPU on average since the start of each (100% is one CPU),
    memory of what it may have, and the bytes of its disks and of its interfaces since the start.
    The daemon reads that every ten seconds. For rates of the moment there is xenops top.

    \b
    Examples:
      xenops list
      xenops list -o wide
      xenops list -c vm,memory,reason
      xenops list -o name | xargs -n 1 xenops start
    """
    records = sorted(session.client.vm.list(), key=lambda record: record.id)
    used = session.client.vm.metrics() if usage.shown(output) else []
    columns = _columns({one.id: one for one in used})
    emit(records, columns, output, lambda record: record.id)


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
    tell({"vm": record, **devices}, output, lambda: (*_of_record(record), *_of_devices(devices)))


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
        now, then = written(change.running), written(change.configured)
        yield f"pending {field}", f"{now} now, {then} at the next start"


def _of_devices(devices: dict[str, Sequence[Any]]) -> Iterator[tuple[str, str]]:
    for kind, records in devices.items():
        for record in records:
            plugged = "plugged" if record.state.plugged else "unplugged"
            yield (
                kind.removesuffix("s"),
                f"{record.id} {plugged} {behind(record.config)}".strip(),
            )


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
        click.confirm(f"Remove VM {vm} for good?", abort=True, err=True)
    session.client.vm.remove(vm, keep_layers)


COMMANDS = (list_vms, show, remove)
