"""Changes of a VM's configuration as an administrator writes them: FIELD=VALUE, or a text. Pure.

A value is read by the type of its field: numbers, true and false, null, sizes for memory,
commas for lists, and JSON for everything else.
"""

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from idl.complaint import explain
from idl.vm import Vm
from xenopsd.cli import yamltext
from xenopsd.cli.vmfile import BadVm, size

_SIZES = ("memory_static_max", "memory_dynamic_max", "memory_dynamic_min")


def assigned(vm: Vm, assignments: Iterable[str]) -> dict[str, Any]:
    """The top-level fields that these assignments change, as VM.set takes them. Raises BadVm."""
    document = msgspec.to_builtins(vm)
    fields: dict[str, None] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise BadVm(f"{assignment}: write FIELD=VALUE")
        for name in _SIZES if path == "memory" else (path,):
            _assign(document, name, text)
            fields[name.partition(".")[0]] = None
    wanted = msgspec.to_builtins(_vm(document))
    return {field: wanted[field] for field in fields}


def edited(vm: Vm, text: str) -> dict[str, Any]:
    """The top-level fields in which the YAML of a VM differs from it. Raises BadVm."""
    try:
        document = yamltext.load(text)
    except ValueError as error:
        raise BadVm(str(error)) from error
    if not isinstance(document, dict):
        raise BadVm("expected the fields of a VM")
    now, wanted = msgspec.to_builtins(vm), msgspec.to_builtins(_vm(document))
    if wanted["id"] != now["id"]:
        raise BadVm("id: it cannot change; add a VM of the new id instead")
    return {field: value for field, value in wanted.items() if value != now[field]}


def editable(vm: Vm) -> str:
    """The YAML that `edited` reads back."""
    return yamltext.dump(msgspec.to_builtins(vm))


def _assign(document: dict[str, Any], path: str, text: str) -> None:
    *outer, last = path.split(".")
    inside = document
    for name in outer:
        if not isinstance(inside.get(name), dict):
            raise BadVm(f"{path}: there is no field {name}")
        inside = inside[name]
    inside[last] = _value(path, text, inside.get(last))


def _value(path: str, text: str, now: Any) -> Any:
    if path in _SIZES:
        return size(text)
    if text[:1] in ("[", "{", '"'):
        try:
            return json.loads(text)
        except ValueError as error:
            raise BadVm(f"{path}: no JSON: {error}") from error
    if text == "null":
        return None
    return [one for one in text.split(",") if one] if isinstance(now, list) else text


def _vm(document: dict[str, Any]) -> Vm:
    """Strings become what their fields are. Raises BadVm."""
    try:
        return msgspec.convert(document, Vm, strict=False)
    except msgspec.ValidationError as error:
        raise BadVm(explain(str(error), document, Vm)) from error
