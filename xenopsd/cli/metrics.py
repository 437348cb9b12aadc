"""What VMs use."""
# click reads the escape in docstrings.
# ruff: noqa: D301

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from xenopsd.cli import completers
from xenopsd.cli.output import Column, Output, emit, listing, size
from xenopsd.cli.session import Session

if TYPE_CHECKING:
    from idl.vm import VmMetrics


def total(devices: dict[str, dict[str, int]], counter: str) -> int:
    """A counter over all devices."""
    return sum(counters.get(counter, 0) for counters in devices.values())


def _columns() -> "Sequence[Column[VmMetrics]]":
    return (
        Column("VM", lambda found: found.id),
        Column("CPU", lambda found: f"{found.cpu_seconds:.1f} s"),
        Column("MEMORY", lambda found: size(found.memory)),
        Column("READ", lambda found: size(total(found.disks, "read_bytes"))),
        Column("WRITTEN", lambda found: size(total(found.disks, "write_bytes"))),
        Column("RECEIVED", lambda found: size(total(found.networks, "rx_bytes"))),
        Column("SENT", lambda found: size(total(found.networks, "tx_bytes"))),
    )


@click.command()
@completers.maybe_vm
@listing
@click.pass_obj
def metrics(session: Session, /, *, vm: str | None, output: Output) -> None:
    """Show what a VM, or each, has used since its start.

    -o json has every device by itself. Prometheus asks the daemon's socket for /metrics.

    \b
    Examples:
      xenops metrics
      xenops metrics web -o json
    """
    found = session.client.vm.metrics(vm)
    emit(sorted(found, key=lambda one: one.id), _columns(), output, lambda one: one.id)


COMMANDS = (metrics,)
