"""What the daemon keeps of a VM beside its configuration, and what follows from it.

`VmExtra` is the seed's third kind of metadata: the running configuration. It is written at
the end of operations; between, the journal knows more than it does.
"""

from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from backends.interface import Domain
from idl.ids import DeviceId
from idl.metadata import Metadata
from idl.vm import Difference, PowerState, Vm
from xenopsd import microop
from xenopsd.microop import MicroOp

S = TypeVar("S", bound=Struct)

#: Fields that apply to a running VM the moment they are configured: the daemon alone reads them.
LIVE_FIELDS = frozenset({"name", "auto_start", "on_crash", "on_shutdown", "on_reboot"})


class Image(Struct, frozen=True, kw_only=True):
    """A suspend image. `spent`: its memory has run on since, and must never run again."""

    path: str
    incarnation: str | None = None
    spent: bool = False
    plugged: list[DeviceId] = []


class VmExtra(Struct, frozen=True, kw_only=True):
    """The running configuration and the last recorded state.

    `incarnation` and `boot` belong to the newest domain; `settled` says that an operation has
    ended for it (the seed's tell then no longer counts); `running` is its configuration as
    booted, null without a domain and without an image; `preserved` is the incarnation of a
    domain that stopped and that its on_* policy wants kept to be looked at.
    """

    incarnation: str | None = None
    boot: str | None = None
    settled: bool = False
    running: Vm | None = None
    image: Image | None = None
    power_state: PowerState = PowerState.HALTED
    reason: str = ""
    last_start_time: float | None = None
    observed_at: float | None = None
    preserved: str | None = None


def power_state(domain: Domain | None, extra: VmExtra) -> PowerState:
    """What is observed, as clients name it.

    A domain that has stopped by itself and was not looked at yet counts as running.
    """
    if domain is None:
        suspended = extra.image is not None and not extra.image.spent
        return PowerState.SUSPENDED if suspended else PowerState.HALTED
    if domain.stopped is not None:
        kept = extra.preserved is not None and extra.preserved == domain.incarnation
        return PowerState.PAUSED if kept else PowerState.RUNNING
    return PowerState.PAUSED if domain.paused else PowerState.RUNNING


def half_built(domain: Domain, extra: VmExtra) -> bool:
    """The seed's tell: paused, no vCPU time, and no operation has ended for it."""
    settled = extra.settled and extra.incarnation == domain.incarnation
    return domain.paused and domain.vcpu_seconds == 0 and not settled


def pending(meta: Metadata, extra: VmExtra) -> dict[str, Difference]:
    """Fields whose running value differs from the configured one."""
    if extra.running is None:
        return {}
    return {
        field: Difference(running=was, configured=wanted)
        for field in Vm.__struct_fields__
        if field not in LIVE_FIELDS
        and (was := getattr(extra.running, field)) != (wanted := getattr(meta.vm, field))
    }


def advanced(  # noqa: PLR0911, PLR0912, C901  # one arm a micro-op
    extra: VmExtra, op: MicroOp, *, incarnation: str | None, vm: Vm, boot: str, now: float
) -> VmExtra:
    """The running configuration after a micro-op has had its effect.

    Applied as each is done, and again by recovery to those that were done before a crash.
    """
    match op:
        case microop.VmCreate():
            # Replayed after a crash, the image of a resume may be gone from the record already.
            known = extra.image is not None or extra.incarnation == incarnation
            return replace(
                extra,
                incarnation=incarnation,
                boot=boot,
                settled=False,
                preserved=None,
                running=extra.running if known and extra.running is not None else vm,
                last_start_time=now,
            )
        case microop.VmDestroy():
            suspended = extra.image is not None and not extra.image.spent
            kept = extra.running if suspended else None
            return replace(extra, incarnation=None, preserved=None, running=kept)
        case microop.VmCommitImage(image=path, plugged=plugged):
            image = Image(path=path, incarnation=incarnation, plugged=plugged)
            return replace(extra, image=image, running=extra.running or vm)
        case microop.VmSpendImage() | microop.VmUnspendImage():
            if extra.image is None:
                return extra
            spent = isinstance(op, microop.VmSpendImage)
            return replace(extra, image=replace(extra.image, spent=spent))
        case microop.VmDropImage():
            gone = extra.incarnation is None
            return replace(extra, image=None, running=None if gone else extra.running)
        case microop.VmAdopt(vcpus=vcpus, memory=memory):
            return replace(
                extra,
                incarnation=incarnation,
                boot=boot,
                settled=False,
                preserved=None,
                running=_as_found(vm, vcpus, memory),
                last_start_time=None,
            )
        case microop.VmPreserve():
            return replace(extra, preserved=incarnation)
        case microop.VmRecord(object=object, changes=changes) if object == vm.id:
            if extra.running is None or extra.incarnation is None:
                return extra
            # Of a VM with a domain only what has been applied to it is recorded by a micro-op.
            return replace(extra, running=altered(extra.running, changes))
        case microop.VmSetVcpus(vcpus=vcpus) if extra.running is not None:
            return replace(extra, running=replace(extra.running, vcpus=vcpus))
        case microop.VmSetXsdata(xsdata=xsdata) if extra.running is not None:
            return replace(extra, running=replace(extra.running, xsdata=xsdata))
        case _:
            return extra


def _as_found(vm: Vm, vcpus: int, memory: int) -> Vm:
    """The configuration of a domain that others have started: what differs shows as pending."""
    return replace(
        vm,
        vcpus=vcpus or vm.vcpus,
        vcpu_max=max(vm.vcpu_max, vcpus),
        memory_static_max=memory or vm.memory_static_max,
        memory_dynamic_max=memory or vm.memory_dynamic_max,
        memory_dynamic_min=min(vm.memory_dynamic_min or 0, memory or vm.memory_static_max),
    )


def altered(record: S, changes: dict[str, Any]) -> S:
    """A record with fields replaced by plain JSON values."""
    return msgspec.convert({**msgspec.to_builtins(record), **changes}, type(record))


def concluded(
    extra: VmExtra, domain: Domain | None, *, reason: str | None, now: float
) -> VmExtra:
    """The record at the end of an operation, for the domain as it was then observed.

    `reason` is kept where the operation gives none. A domain that is gone without having been
    destroyed stays known: what was plugged into it is still to be cleared.
    """
    return replace(
        extra,
        incarnation=domain.incarnation if domain else extra.incarnation,
        settled=domain is not None,
        power_state=power_state(domain, extra),
        reason=reason or extra.reason,
        observed_at=now,
    )
