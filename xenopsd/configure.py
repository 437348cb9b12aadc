"""Changes of a VM's configuration: what is allowed, and what the new record is. Pure.

Types were checked at the edge; here are the rules between fields and between records.
"""

import hashlib
from collections.abc import Iterable
from ipaddress import ip_interface
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from idl.complaint import explain
from idl.errors import (
    AlreadyExists,
    DeviceIsConnected,
    DoesNotExist,
    InvalidParameter,
    InvalidParams,
    InvalidVcpus,
)
from idl.ids import DeviceId, vm_of
from idl.metadata import METADATA_VERSION, Metadata
from idl.pci import Pci
from idl.vbd import Local, Vbd
from idl.vif import IpConfiguration, Vif
from idl.vm import Vm
from xenopsd.record import LIVE_FIELDS, VmExtra

D = TypeVar("D", Vbd, Vif, Pci)


def checked(vm: Vm) -> Vm:
    """The configuration. Raises InvalidParameter, InvalidVcpus."""
    if vm.memory_dynamic_max > vm.memory_static_max:
        raise InvalidParameter(
            name="vm.memory_dynamic_max",
            reason=f"{vm.memory_dynamic_max} is over memory_static_max, {vm.memory_static_max}",
        )
    if vm.memory_dynamic_min > vm.memory_dynamic_max:
        raise InvalidParameter(
            name="vm.memory_dynamic_min",
            reason=f"{vm.memory_dynamic_min} is over memory_dynamic_max, {vm.memory_dynamic_max}",
        )
    if vm.vcpus > vm.vcpu_max:
        raise InvalidVcpus(requested=vm.vcpus, maximum=vm.vcpu_max)
    return vm


def changed(vm: Vm, changes: dict[str, Any]) -> Vm:
    """A configuration with whole top-level fields replaced.

    Raises InvalidParams naming the field, InvalidParameter for `id`.
    """
    if changes.get("id", vm.id) != vm.id:
        raise InvalidParameter(name="changes.id", reason="the id of a VM cannot change")
    for field in changes:
        if field not in Vm.__struct_fields__:
            raise InvalidParams(reason=f"changes.{field}: unknown field")
    try:
        return checked(msgspec.convert({**msgspec.to_builtins(vm), **changes}, Vm))
    except msgspec.ValidationError as error:
        wrong = explain(str(error), {**msgspec.to_builtins(vm), **changes}, Vm)
        raise InvalidParams(reason=f"changes.{wrong}") from None


def live(extra: VmExtra, vm: Vm) -> VmExtra:
    """The running record, with what applies to a running VM at once."""
    if extra.running is None:
        return extra
    now = {field: getattr(vm, field) for field in LIVE_FIELDS}
    return replace(extra, running=replace(extra.running, **now))


def imported(metadata: Metadata) -> Metadata:
    """What VM.import_metadata records. Raises InvalidParameter, AlreadyExists."""
    if metadata.version != METADATA_VERSION:
        raise InvalidParameter(
            name="metadata.version",
            reason=f"{metadata.version} is not {METADATA_VERSION}, the one known here",
        )
    built = Metadata(vm=checked(metadata.vm))
    for vbd in metadata.vbds:
        built = with_vbd(built, vbd)
    for vif in metadata.vifs:
        built = with_vif(built, vif)
    for pci in metadata.pcis:
        built = with_pci(built, pci)
    return built


def keeps_plugged(metadata: Metadata, plugged: Iterable[str]) -> None:
    """Raises DeviceIsConnected for a plugged device that the metadata no longer has."""
    kept = {d.id for d in metadata.vbds} | {d.id for d in metadata.vifs}
    kept |= {d.id for d in metadata.pcis}
    for id in plugged:
        if id not in kept:
            raise DeviceIsConnected(id=id)


def with_vbd(meta: Metadata, vbd: Vbd) -> Metadata:
    """The metadata with one VBD more, at the next free position where it names none."""
    position = _admit(meta, "VBD", meta.vbds, vbd)
    overlay = vbd.backend
    if isinstance(overlay, Local) and (
        overlay.format in ("tar", "squashfs") or not vbd.persistent
    ):
        overlay = replace(overlay, overlay=True)
    added = replace(vbd, position=position, backend=overlay)
    return replace(meta, vbds=[*meta.vbds, added])


def with_vif(meta: Metadata, vif: Vif) -> Metadata:
    """The metadata with one VIF more, its position and MAC filled in."""
    position = _admit(meta, "VIF", meta.vifs, addressed(vif))
    mac = vif.mac.lower() or derived_mac(meta.vm.id, position)
    return replace(meta, vifs=[*meta.vifs, replace(vif, position=position, mac=mac)])


def addressed(vif: Vif) -> Vif:
    """The VIF. Raises InvalidParameter for addresses of the wrong family, or none where static."""
    for version in (4, 6):
        field = f"ipv{version}"
        found: IpConfiguration = getattr(vif, field)
        named = [*found.addresses, *([found.gateway] if found.gateway is not None else [])]
        for text in named:
            if _version(text) != version:
                reason = f"{text} is no IPv{version} address"
                raise InvalidParameter(name=f"vif.{field}", reason=reason)
        if found.type == "static" and not found.addresses:
            reason = "static, and without an address; name one, or let type be dhcp or none"
            raise InvalidParameter(name=f"vif.{field}", reason=reason)
    return vif


def _version(text: str) -> int | None:
    try:
        return ip_interface(text).version
    except ValueError:
        return None


def with_pci(meta: Metadata, pci: Pci) -> Metadata:
    """The metadata with one PCI device more, its position filled in."""
    position = _admit(meta, "PCI", meta.pcis, pci)
    return replace(meta, pcis=[*meta.pcis, replace(pci, position=position)])


def removable(id: DeviceId, kind: str, devices: Iterable[D], plugged: Iterable[str]) -> D:
    """The device to be dropped. Raises DoesNotExist, DeviceIsConnected."""
    found = next((device for device in devices if device.id == id), None)
    if found is None:
        raise DoesNotExist(kind=kind, id=id)
    if id in plugged:
        raise DeviceIsConnected(id=id)
    return found


def derived_mac(vm: str, position: int) -> str:
    """A stable MAC of a VIF that was given none: locally administered, unicast."""
    digest = hashlib.sha256(f"{vm}/{position}".encode()).digest()
    octets = [(digest[0] & 0xFC) | 0x02, *digest[1:6]]
    return ":".join(f"{octet:02x}" for octet in octets)


def _admit(meta: Metadata, kind: str, devices: list[D], device: D) -> int:
    """The position of a device to be added. Raises AlreadyExists, InvalidParameter."""
    if vm_of(device.id) != meta.vm.id:
        raise InvalidParameter(
            name=f"{kind.lower()}.id", reason=f"{device.id} is not a device of VM {meta.vm.id}"
        )
    if any(other.id == device.id for other in devices):
        raise AlreadyExists(kind=kind, id=device.id)
    taken = {other.position: other.id for other in devices}
    if device.position is None:
        return next(n for n in range(len(taken) + 1) if n not in taken)
    if device.position in taken:
        raise InvalidParameter(
            name=f"{kind.lower()}.position",
            reason=f"{device.position} is taken by {taken[device.position]}",
        )
    return device.position
