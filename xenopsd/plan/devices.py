"""Devices and live changes: plug, unplug, media, VIF settings, vCPUs, memory, xsdata. Pure."""

from typing import Any

import msgspec
from msgspec.structs import replace

from backends.interface import Domain
from idl.calls import (
    PciPlug,
    PciUnplug,
    VbdEject,
    VbdInsert,
    VbdPlug,
    VbdUnplug,
    VifMove,
    VifPlug,
    VifSetCarrier,
    VifSetIpv4Configuration,
    VifSetIpv6Configuration,
    VifSetLockingMode,
    VifSetRate,
    VifUnplug,
    VmSetMemoryDynamicRange,
    VmSetVcpus,
    VmSetXsdata,
)
from idl.errors import (
    BadPowerState,
    DeviceDetachRejected,
    DeviceIsConnected,
    DeviceNotConnected,
    InvalidParameter,
    InvalidVcpus,
    MediaNotEjectable,
    Unimplemented,
)
from idl.vbd import Vbd
from idl.vm import PowerState
from xenopsd import microop
from xenopsd.configure import addressed
from xenopsd.microop import MicroOp
from xenopsd.plan.lifecycle import built
from xenopsd.plan.plan import Plan, Segment, Snapshot

VifSetting = (
    VifMove
    | VifSetCarrier
    | VifSetLockingMode
    | VifSetIpv4Configuration
    | VifSetIpv6Configuration
    | VifSetRate
)

#: Which field of a VIF a call sets.
VIF_FIELDS: dict[type[VifSetting], str] = {
    VifMove: "backend",
    VifSetCarrier: "carrier",
    VifSetLockingMode: "locking_mode",
    VifSetIpv4Configuration: "ipv4",
    VifSetIpv6Configuration: "ipv6",
    VifSetRate: "rate",
}


def plug(call: VbdPlug | VifPlug | PciPlug, snapshot: Snapshot) -> Plan:
    """Hot plug; plugging what is plugged is DeviceIsConnected."""
    domain = snapshot.require_domain()
    match call:
        case VbdPlug():
            snapshot.vbd(call.id)
            return _plug(snapshot, domain, "vbd_hotplug", microop.VbdPlug(id=call.id))
        case VifPlug():
            snapshot.vif(call.id)
            return _plug(snapshot, domain, "vif_hotplug", microop.VifPlug(id=call.id))
        case PciPlug():
            snapshot.pci(call.id)
            return _plug(snapshot, domain, "pci", microop.PciPlug(id=call.id))


def _plug(snapshot: Snapshot, domain: Domain, feature: str, step: MicroOp) -> Plan:
    device = microop.subject(step, snapshot.id)
    if device in _plugged(domain):
        raise DeviceIsConnected(id=device)
    _needs(snapshot, feature)
    return _one(domain, step)


def unplug(call: VbdUnplug | VifUnplug | PciUnplug, snapshot: Snapshot) -> Plan:
    """Hot unplug; what is not plugged is DeviceNotConnected."""
    domain = snapshot.require_domain()
    match call:
        case VbdUnplug():
            vbd = snapshot.vbd(call.id)
            if call.id in domain.vbds and not (vbd.unpluggable or call.force):
                raise DeviceDetachRejected(id=call.id, reason="its record says not unpluggable")
            feature = "vbd_force_unplug" if call.force else "vbd_hotplug"
            step = microop.VbdUnplug(id=call.id, force=call.force)
            return _unplug(snapshot, domain, feature, step)
        case VifUnplug():
            snapshot.vif(call.id)
            off = microop.VifUnplug(id=call.id, force=call.force)
            return _unplug(snapshot, domain, "vif_hotplug", off)
        case PciUnplug():
            snapshot.pci(call.id)
            away = microop.PciUnplug(id=call.id, force=call.force)
            return _unplug(snapshot, domain, "pci", away)


def _unplug(snapshot: Snapshot, domain: Domain, feature: str, step: MicroOp) -> Plan:
    device = microop.subject(step, snapshot.id)
    if device not in _plugged(domain):
        raise DeviceNotConnected(id=device)
    _needs(snapshot, feature)
    return _one(domain, step)


def _plugged(domain: Domain) -> set[str]:
    return {*domain.vbds, *domain.vifs, *domain.pcis}


def insert(call: VbdInsert, snapshot: Snapshot) -> Plan:
    """VBD.insert: into the drive, then into the record."""
    vbd = _drive(call.id, snapshot)
    if call.id not in snapshot.require_domain().vbds:
        raise DeviceNotConnected(id=call.id)
    was = {"backend": _plain(vbd.backend)}
    record = microop.VmRecord(object=call.id, changes={"backend": _plain(call.backend)}, was=was)
    step = microop.VbdInsert(id=call.id, backend=call.backend, was=vbd.backend)
    return _one(snapshot.require_domain(), step, record)


def eject(call: VbdEject, snapshot: Snapshot) -> Plan:
    """VBD.eject: of an empty drive nothing."""
    vbd = _drive(call.id, snapshot)
    if call.id not in snapshot.require_domain().vbds:
        raise DeviceNotConnected(id=call.id)
    was = {"backend": _plain(vbd.backend)}
    record = microop.VmRecord(object=call.id, changes={"backend": None}, was=was)
    return _one(
        snapshot.require_domain(), microop.VbdEject(id=call.id, was=vbd.backend), record
    )


def set_vif(call: VifSetting, snapshot: Snapshot) -> Plan:
    """A VIF's setting: applied where it is plugged, and recorded."""
    vif = snapshot.vif(call.id)
    field = VIF_FIELDS[type(call)]
    addressed(replace(vif, **{field: getattr(call, field)}))
    value, was = _plain(getattr(call, field)), _plain(getattr(vif, field))
    record = microop.VmRecord(object=call.id, changes={field: value}, was={field: was})
    domain = snapshot.domain
    if domain is None or call.id not in domain.vifs:
        return Plan(segments=[Segment(steps=[record])])
    step = microop.VifConfigure(id=call.id, field=field, value=value, was=was)
    return _one(domain, step, record)


def set_vcpus(call: VmSetVcpus, snapshot: Snapshot) -> Plan:
    """VM.set_vcpus: now, and for the next start."""
    domain = built(snapshot)
    vm = snapshot.extra.running or snapshot.meta.vm
    if not 1 <= call.vcpus <= vm.vcpu_max:
        raise InvalidVcpus(requested=call.vcpus, maximum=vm.vcpu_max)
    _needs(snapshot, "vcpu_hotplug")
    step = microop.VmSetVcpus(vcpus=call.vcpus, was=domain.vcpus)
    configured = snapshot.meta.vm
    if call.vcpus > configured.vcpu_max:
        return _one(domain, step)
    return _one(domain, step, _record(snapshot, vcpus=call.vcpus))


def set_memory(call: VmSetMemoryDynamicRange, snapshot: Snapshot) -> Plan:
    """VM.set_memory_dynamic_range: the record, and the target brought into the range."""
    vm = snapshot.meta.vm
    if call.minimum < 1:
        raise InvalidParameter(name="minimum", reason=f"{call.minimum} is not at least 1 byte")
    if call.minimum > call.maximum:
        raise InvalidParameter(
            name="minimum", reason=f"{call.minimum} is over the maximum, {call.maximum}"
        )
    if call.maximum > vm.memory_static_max:
        raise InvalidParameter(
            name="maximum",
            reason=f"{call.maximum} is over memory_static_max, {vm.memory_static_max}",
        )
    record = _record(
        snapshot, memory_dynamic_min=call.minimum, memory_dynamic_max=call.maximum
    )
    domain = snapshot.domain
    if domain is None:
        return Plan(segments=[Segment(steps=[record])])
    _needs(snapshot, "balloon")
    # A domain that was started with less than the range stays at what it can have.
    limit = domain.memory_limit or call.maximum
    target = min(max(domain.memory_target, call.minimum), call.maximum, limit)
    step = microop.VmSetMemory(target=target, was=domain.memory_target)
    return _one(domain, step, record)


def set_xsdata(call: VmSetXsdata, snapshot: Snapshot) -> Plan:
    """VM.set_xsdata: where the guest sees it, and in the record."""
    record = _record(snapshot, xsdata=dict(call.xsdata))
    domain = snapshot.domain
    if domain is None:
        return Plan(segments=[Segment(steps=[record])])
    running = (snapshot.extra.running or snapshot.meta.vm).xsdata
    step = microop.VmSetXsdata(xsdata=dict(call.xsdata), was=dict(running))
    return _one(domain, step, record)


def _drive(id: str, snapshot: Snapshot) -> Vbd:
    vbd = snapshot.vbd(id)
    if vbd.type == "disk":
        raise MediaNotEjectable(id=id)
    snapshot.require(PowerState.RUNNING, PowerState.PAUSED)
    return vbd


def _needs(snapshot: Snapshot, feature: str) -> None:
    if feature not in snapshot.features:
        raise Unimplemented(what=feature, backend=snapshot.backend)


def _one(domain: Domain, *steps: MicroOp) -> Plan:
    if domain.stopped is not None:
        raise BadPowerState(
            id=domain.vm or domain.id, actual=f"stopping ({domain.stopped})", expected=["running"]
        )
    return Plan(segments=[Segment(incarnation=domain.incarnation, steps=list(steps))])


def _record(snapshot: Snapshot, **changes: Any) -> microop.VmRecord:
    was = {field: _plain(getattr(snapshot.meta.vm, field)) for field in changes}
    return microop.VmRecord(object=snapshot.id, changes=changes, was=was)


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value)
