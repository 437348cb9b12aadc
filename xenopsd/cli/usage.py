"""Columns of what VMs use, beside those of what they are. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from xenopsd.cli.metrics import total
from xenopsd.cli.output import Column, Output, size

if TYPE_CHECKING:
    from idl.vm import VmMetrics, VmRecord

TITLES = ("CPU", "USED", "DISK", "NET")


def shown(output: Output) -> bool:
    """Whether these columns are to be printed: else nobody needs to ask."""
    if output.format not in ("table", "wide"):
        return False
    return not set(TITLES).isdisjoint(
        output.columns or (TITLES if output.format == "wide" else ())
    )


def columns(used: "Mapping[str, VmMetrics]") -> "Sequence[Column[VmRecord]]":
    """CPU, memory, disks and network. Nothing is said of a VM that does not run, nor of one
    that was not looked at since its start."""
    texts = (cpu, memory, disk, network)
    return tuple(
        Column(title, _present(used, text), wide=True)
        for title, text in zip(TITLES, texts, strict=True)
    )


def _present(
    used: "Mapping[str, VmMetrics]", text: "Callable[[VmRecord, VmMetrics], str]"
) -> "Callable[[VmRecord], str]":
    def said(record: "VmRecord") -> str:
        found = used.get(record.id)
        return text(record, found) if found is not None and age(record, found) > 0 else ""

    return said


def age(record: "VmRecord", used: "VmMetrics") -> float:
    """Seconds that the VM had run when its counters were read; 0: they are of no use."""
    began, read = record.state.last_start_time, used.observed_at
    if began is None or read is None or not record.state.domain_ids:
        return 0.0
    return max(read - began, 0.0)


def cpu(record: "VmRecord", used: "VmMetrics") -> str:
    """The part of one CPU that it took on average since its start."""
    return f"{used.cpu_seconds / age(record, used):.1%}"


def memory(record: "VmRecord", used: "VmMetrics") -> str:
    """What it has, and of how much."""
    limit = record.state.memory_target or record.state.memory_limit
    return f"{size(used.memory)} of {size(limit)}" if limit else size(used.memory)


def disk(_record: "VmRecord", used: "VmMetrics") -> str:
    """What went to and from its disks."""
    return size(total(used.disks, "read_bytes") + total(used.disks, "write_bytes"))


def network(_record: "VmRecord", used: "VmMetrics") -> str:
    """What went through its interfaces."""
    return size(total(used.networks, "rx_bytes") + total(used.networks, "tx_bytes"))
