"""The plan of an adoption: a domain that is not ours comes under a VM's record. Pure."""

from collections.abc import Iterable

from backends.interface import Domain
from idl.errors import BadPowerState, InvalidParameter
from idl.ids import name_of
from idl.metadata import Metadata
from idl.vm import PowerState
from xenopsd import microop
from xenopsd.microop import MicroOp
from xenopsd.plan.plan import Plan, Segment, Snapshot


def adopted(snapshot: Snapshot, domain: Domain, *, doubted: bool) -> Plan:
    """Take `domain`, which nobody else has, as the VM's; `doubted` is a VM in need of attention.

    Raises BadPowerState where the VM has a domain of its own or an image to resume, and
    InvalidParameter where the domain has stopped or has devices that no record describes.
    """
    _require_free(snapshot, domain, doubted=doubted)
    if domain.stopped is not None:
        reason = f"domain {domain.id} runs no more; destroy it with what has made it"
        raise InvalidParameter(name="domain", reason=reason)
    if missing := unrecorded(snapshot.meta, domain):
        raise InvalidParameter(name="domain", reason=missing)
    adopt = microop.VmAdopt(domain=domain.id, vcpus=domain.vcpus, memory=domain.memory_limit)
    image = snapshot.extra.image
    # The memory in it is older than what runs: it must not run as well.
    drop: list[MicroOp] = [microop.VmDropImage(image=image.path)] if image else []
    # Only ever finished: a domain that was taken is not given back to nobody.
    segment = Segment(
        steps=[adopt, *drop], incarnation=domain.incarnation or snapshot.fresh, finish=True
    )
    return Plan(segments=[segment], reason="adopted")


def _require_free(snapshot: Snapshot, domain: Domain, *, doubted: bool) -> None:
    own = snapshot.domain
    if own is None:
        snapshot.require(PowerState.HALTED)
        return
    known = snapshot.extra.incarnation == own.incarnation
    if own.id != domain.id or (known and not doubted):
        expected = [str(PowerState.HALTED)]
        raise BadPowerState(id=snapshot.id, actual=str(snapshot.state), expected=expected)


def unrecorded(meta: Metadata, domain: Domain) -> str | None:
    """What a domain has that no record of the VM describes, and what to do about it."""
    for kind, found, known in (
        ("VBD", domain.vbds, meta.vbds),
        ("VIF", domain.vifs, meta.vifs),
        ("PCI", domain.pcis, meta.pcis),
    ):
        missing = _names(found) - _names(device.id for device in known)
        if missing:
            return (
                f"domain {domain.id} has the {kind} {', '.join(sorted(missing))}, of which VM "
                f"{meta.vm.id} has no record; add it with {kind}.add first"
            )
    return None


def _names(ids: Iterable[str]) -> set[str]:
    return {name_of(id) for id in ids}
