"""The life of a domain and its guest: what each event makes of the record.

Pure; `now` is Unix time. None of these asks whether it may: that is the caller's.
"""

from collections.abc import Callable, Mapping
from typing import Literal

from msgspec.structs import replace

from backends.interface import StopReason
from backends.simulator.record import LEAST_RUN, Record, vcpu_seconds
from idl.errors import BadPowerState, InvalidParameter
from idl.ids import VmId, name_of
from idl.vm import Vm


def created(
    vm: Vm, *, id: str, instance: str, incarnation: str, memory: int, now: float
) -> Record:
    """An empty, paused domain."""
    return Record(
        id=id,
        name=vm.name or vm.id,
        created=now,
        vm=vm.id,
        instance=instance,
        incarnation=incarnation,
        guest=str(vm.guest.__struct_config__.tag),
        memory_target=memory,
        memory_limit=max(memory, vm.memory_static_max),
    )


def adopted(record: Record, vm: VmId, *, instance: str, incarnation: str) -> Record:
    """With the mark of a VM, and devices of its."""
    return replace(
        record,
        vm=vm,
        instance=instance,
        incarnation=incarnation,
        vbds={f"{vm}/{name_of(id)}": vbd for id, vbd in record.vbds.items()},
        vifs={f"{vm}/{name_of(id)}": vif for id, vif in record.vifs.items()},
        pcis={f"{vm}/{name_of(id)}": pci for id, pci in record.pcis.items()},
    )


def built(record: Record, vm: Vm) -> Record:
    """With memory and kernel in it."""
    return replace(
        record,
        built=True,
        vcpus=vm.vcpus,
        memory_actual=record.memory_target,
        xsdata=vm.xsdata,
    )


def restored(record: Record, saved: Record) -> Record:
    """Filled from what was saved of an earlier domain; its vCPUs have not run yet."""
    return replace(
        record,
        built=True,
        restored=True,
        uptime=saved.uptime + saved.ran,
        vcpus=saved.vcpus,
        memory_target=saved.memory_target,
        memory_actual=saved.memory_actual,
        xsdata=saved.xsdata,
        ignore_shutdown=saved.ignore_shutdown,
        uncooperative_balloon=saved.uncooperative_balloon,
        hold_devices=saved.hold_devices,
    )


def paused(record: Record, now: float) -> Record:
    """With its vCPUs stopped."""
    return replace(record, paused=True, ran=vcpu_seconds(record, now), running_since=None)


def unpaused(record: Record, now: float) -> Record:
    """With its vCPUs running."""
    if not record.paused:
        return record
    ran = max(record.ran, LEAST_RUN)
    return replace(record, paused=False, restored=False, ran=ran, running_since=now)


def asked(record: Record, reason: Literal["poweroff", "reboot"], now: float) -> Record:
    """Asked to stop: an obedient guest does so at once; one that cannot or will not hear does
    not remember it either."""
    if record.paused or record.ignore_shutdown:
        return record
    return stopped(record, reason, now)


def stopped(record: Record, reason: StopReason, now: float) -> Record:
    """Running no more, though it still exists."""
    if record.stopped is not None:
        return record
    return replace(record, stopped=reason, ran=vcpu_seconds(record, now), running_since=None)


def resumed(record: Record, now: float) -> Record:
    """Running on where it was stopped to be saved."""
    return replace(record, stopped=None, running_since=None if record.paused else now)


def ballooned(record: Record, target: int) -> Record:
    """With another memory target, which a cooperative guest has followed."""
    actual = target
    if record.uncooperative_balloon or not record.built:
        actual = record.memory_actual
    return replace(record, memory_target=target, memory_actual=actual)


def require_live(record: Record, vm: str) -> None:
    """Raises BadPowerState for a domain that runs no more."""
    if record.stopped is not None:
        actual = "suspended" if record.stopped == "suspend" else "halted"
        raise BadPowerState(id=vm, actual=actual, expected=["running", "paused"])


Knob = Literal["ignore_shutdown", "uncooperative_balloon", "hold_devices"]
Act = Callable[[Record, str, float], Record]


def _stops(reason: StopReason) -> Act:
    def act(record: Record, vm: str, now: float) -> Record:
        require_live(record, vm)
        # A crash comes over a paused guest too; everything else it does itself.
        if reason != "crash" and record.paused:
            raise BadPowerState(id=vm, actual="paused", expected=["running"])
        return stopped(record, reason, now)

    return act


#: What a guest does by itself.
ACTS: Mapping[str, Act] = {
    "reboot": _stops("reboot"),
    "halt": _stops("poweroff"),
    "crash": _stops("crash"),
    "suspend": _stops("suspend"),
}

#: How a guest can be made to misbehave.
KNOBS: Mapping[str, Knob] = {
    "ignore-shutdown": "ignore_shutdown",
    "uncooperative-balloon": "uncooperative_balloon",
    "hold-devices": "hold_devices",
}


def turned(record: Record, knob: Knob, value: str) -> Record:
    """With a knob turned to "true" or "false". Raises InvalidParameter for another value."""
    if value not in ("true", "false"):
        raise InvalidParameter(name="value", reason=f'{value!r} is neither "true" nor "false"')
    match knob:
        case "ignore_shutdown":
            return replace(record, ignore_shutdown=value == "true")
        case "uncooperative_balloon":
            willing = replace(record, uncooperative_balloon=value == "true")
            return ballooned(willing, willing.memory_target)
        case "hold_devices":
            return replace(record, hold_devices=value == "true")
