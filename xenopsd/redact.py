"""What the read-only socket does not show: environment, xsdata, guest_agent, cmdline. Pure."""

from typing import Any

from msgspec.structs import replace

from idl.vm import Container, Difference, Guest, Vm, VmRecord

#: What stands in place of what is not shown.
HIDDEN = "(hidden)"


def redacted(record: VmRecord) -> VmRecord:
    """A VM's record as the read-only socket shows it."""
    config = record.config
    return replace(
        record,
        config=None if config is None else _config(config),
        state=replace(record.state, guest_agent={}),
        pending={field: _difference(field, d) for field, d in record.pending.items()},
    )


def _config(vm: Vm) -> Vm:
    return replace(vm, xsdata={}, guest=_guest(vm.guest))


def _guest(guest: Guest) -> Guest:
    if isinstance(guest, Container):
        return replace(guest, environment={})
    return replace(guest, cmdline=None if guest.cmdline is None else HIDDEN)


def _difference(field: str, difference: Difference) -> Difference:
    if field == "xsdata":
        return Difference(running={}, configured={})
    if field == "guest":
        shown: list[Any] = [_guest(g) for g in (difference.running, difference.configured)]
        return Difference(running=shown[0], configured=shown[1])
    return difference
