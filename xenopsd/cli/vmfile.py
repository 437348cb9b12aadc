"""A VM as an administrator writes it: a TOML, JSON or YAML file, or options. Pure.

A file holds the fields of the VM with `vbds`, `vifs` and `pcis` beside them, or what
VM.export_metadata answers. A device may be named without its VM.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from idl.complaint import explain
from idl.metadata import Metadata
from xenopsd.cli import yamltext

T = TypeVar("T", bound=Struct)

_DEVICES = ("vbds", "vifs", "pcis")
_FAMILIES = ("ipv4", "ipv6")
_SUFFIXES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class BadVm(ValueError):
    """A sentence that names the field."""


def of_file(name: str, text: str) -> Metadata:
    """The VM of a file's text. Raises BadVm."""
    try:
        document = _parsed(name, text)
    except (ValueError, RecursionError) as error:
        raise BadVm(f"{name}: {error}") from error
    if not isinstance(document, dict):
        raise BadVm(f"{name}: expected the fields of a VM")
    try:
        return _metadata(document)
    except BadVm as error:
        raise BadVm(f"{name}: {error}") from error


def _parsed(name: str, text: str) -> Any:
    """Raises ValueError."""
    if name.endswith((".yaml", ".yml")):
        return yamltext.load(text)
    # No TOML begins so; what comes by stdin has no name to tell.
    if name.endswith(".json") or text.lstrip().startswith("{"):
        return json.loads(text)
    return tomllib.loads(text)


def of_options(
    fields: Mapping[str, Any],
    guest: Mapping[str, Any],
    disks: Sequence[str],
    nics: Sequence[str],
) -> Metadata:
    """The VM of options; those that are None were not given. Raises BadVm."""
    document = _given(fields)
    if chosen := _given(guest):
        document["guest"] = {"type": "hvm", **chosen}
    document["vbds"] = [disk(spec, n) for n, spec in enumerate(disks)]
    document["vifs"] = [nic(spec, n) for n, spec in enumerate(nics)]
    return _metadata(document)


def size(text: str) -> int:
    """Bytes: a number, or one with K, M, G or T (and iB after it). Raises BadVm."""
    number = text.upper().removesuffix("B").removesuffix("I")
    digits = number.rstrip("KMGT")
    unit = number[len(digits) :].strip()
    try:
        return int(float(digits) * _SUFFIXES[unit])
    except (ValueError, KeyError, OverflowError):
        raise BadVm(f"{text} is no size; write bytes, or 512M, 4G") from None


def disk(spec: str, position: int | None) -> dict[str, Any]:
    """A VBD of PATH[,format=F][,overlay][,mode=ro][,type=cdrom][,bus=B][,mount=/][,name=N]
    [,persistent=false].
    """
    path, options = _spec(spec, flags={"overlay"})
    if "overlay" in options:
        options["overlay"] = _truth("overlay", options["overlay"])
    backend: dict[str, Any] = {"type": "local", "path": path}
    backend |= {name: options.pop(name) for name in ("format", "overlay") if name in options}
    vbd = _named_or_new(options, "disk", position)
    if "persistent" in options:
        options["persistent"] = _truth("persistent", options["persistent"])
    if "mount" in options:
        vbd["mount"] = {"path": options.pop("mount")}
    return vbd | {"backend": backend} | options


def nic(spec: str, position: int | None) -> dict[str, Any]:
    """A VIF of BRIDGE[,mac=M][,model=M][,mtu=N][,ipv4=A/LENGTH][,ipv6=A/LENGTH][,gateway=A]
    [,locked][,name=N].
    """
    bridge, options = _spec(spec, flags={"locked"})
    if "mtu" in options and options["mtu"].isdecimal():
        options["mtu"] = int(options["mtu"])
    vif = _named_or_new(options, "nic", position)
    backend = {"type": "bridge", "name": bridge}
    return vif | {"backend": backend} | _addressing(options) | options


def _addressing(options: dict[str, Any]) -> dict[str, Any]:
    """What the guest's interface is told, and may use; taken out of the options."""
    told = {family: _told(options.pop(family)) for family in _FAMILIES if family in options}
    if "gateway" in options:
        gateway = options.pop("gateway")
        family = "ipv6" if ":" in gateway else "ipv4"
        if "addresses" not in told.get(family, {}):
            raise BadVm(f"gateway={gateway}: write {family}=ADDRESS/LENGTH beside it")
        told[family]["gateway"] = gateway
    if not _truth("locked", options.pop("locked", "false")):
        return told
    own = {family: _hosts(told[family]) for family in told if "addresses" in told[family]}
    if not own:
        raise BadVm("locked: write ipv4=ADDRESS/LENGTH or ipv6=ADDRESS/LENGTH beside it")
    return {**told, "locking_mode": {"type": "locked", **own}}


def _told(value: str) -> dict[str, Any]:
    if value in ("none", "dhcp"):
        return {"type": value}
    return {"type": "static", "addresses": [value]}


def _hosts(configuration: dict[str, Any]) -> list[str]:
    return [address.partition("/")[0] for address in configuration["addresses"]]


def _truth(name: str, value: str | bool) -> bool:  # noqa: FBT001  # a flag may have its value
    words = {True: True, "true": True, "false": False}
    if value not in words:
        raise BadVm(f"{name}={value}: write {name}=true or {name}=false")
    return words[value]


def _named_or_new(options: dict[str, Any], kind: str, position: int | None) -> dict[str, Any]:
    """Id and position; without a position the caller has an id, and `name` is refused later."""
    if position is None:
        return {}
    return {"id": options.pop("name", f"{kind}{position}"), "position": position}


def _spec(spec: str, flags: set[str]) -> tuple[str, dict[str, Any]]:
    first, *rest = spec.split(",")
    options: dict[str, Any] = {}
    for part in rest:
        name, equals, value = part.partition("=")
        if not equals and name not in flags:
            raise BadVm(f"{spec}: write {name}=VALUE")
        options[name] = value if equals else True
    return first, options


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _metadata(document: dict[str, Any]) -> Metadata:
    if "vm" not in document:
        devices = {name: document.pop(name) for name in _DEVICES if name in document}
        document = {"vm": document, **devices}
    return converted(_named(document), Metadata)


def converted(document: dict[str, Any], kind: type[T]) -> T:
    """A record of its fields. Raises BadVm."""
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise BadVm(explain(str(error), document, kind)) from error


def _named(document: dict[str, Any]) -> dict[str, Any]:
    """Devices with the id of their VM before their own."""
    vm = document["vm"].get("id", "") if isinstance(document["vm"], dict) else ""
    named = dict(document)
    for kind in _DEVICES:
        if isinstance(listed := document.get(kind), list):
            named[kind] = [_with_vm(one, vm) for one in listed]
    return named


def _with_vm(device: Any, vm: str) -> Any:
    if isinstance(device, dict) and "/" not in str(device.get("id", "/")):
        return {**device, "id": f"{vm}/{device['id']}"}
    return device
