"""What is wrong with a value that a client or an administrator has written, in plain words.

msgspec's complaints name the place and a type or a pattern; here they name what is allowed there,
as the declarations describe it. Pure.
"""

import re
from typing import Any

import msgspec
from msgspec import Struct, inspect

_WHERE = re.compile(r"^(?P<what>.*?)(?: - at `(?:key in )?\$(?P<path>.*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.(?P<field>[^.\[]+)|\[(?P<index>\d+)\]|(?P<key>\[\.\.\.\])")
_FIELD = re.compile(r"^Object (?P<which>contains unknown|missing required) field `(?P<name>.*)`$")
_EXPECTED = re.compile(r"^Expected `(?P<type>[^`]*)`, got `(?P<got>.*)`$")
_VALUE = re.compile(r"^Invalid (?:enum )?value")
_PATTERN = re.compile(r"^Expected `str` matching regex ")
_LONGEST = 64

_JSON_TYPES = {
    dict: "object",
    list: "array",
    str: "str",
    bool: "bool",
    int: "int",
    float: "float",
    type(None): "null",
}

Step = str | int


def explain(complaint: str, whole: Any, kind: type[Struct], *, top: str = "field") -> str:
    """What msgspec says of plain values that are no `kind`, as `path: what is wrong`.

    `top` is what the outermost names are called.
    """
    match = _WHERE.match(complaint)
    what, path = (match["what"], match["path"] or "") if match else (complaint, "")
    steps = _steps(path, whole, _EXPECTED.match(what))
    if field := _FIELD.match(what):
        steps = [*steps, field["name"]]
        known = field["which"].startswith("missing")
        unknown = f"unknown {top if len(steps) == 1 else 'field'}"
        return f"{_shown(steps)}: {'missing' if known else unknown}"
    return f"{_shown(steps) or f'{top}s'}: {_wrong(what, steps, whole, kind)}"


def _wrong(what: str, steps: list[Step], whole: Any, kind: type[Struct]) -> str:
    value = _quoted(_at(whole, steps))
    if _PATTERN.match(what):
        form = _description(kind, whole, steps)
        return f"{value} is not {form}" if form else f"{value} is no valid {steps[-1]}"
    if _VALUE.match(what):
        choices = _choices(kind, whole, steps)
        return f"{value} is not one of {', '.join(choices)}" if choices else f"{value} is unknown"
    plain = what.replace("`", "")
    return plain[:1].lower() + plain[1:]


def _quoted(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return f"'{text}'" if len(text) <= _LONGEST else f"'{text[:_LONGEST]}...'"


def _shown(steps: list[Step]) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.removeprefix(".")


def _steps(path: str, whole: Any, expected: re.Match[str] | None) -> list[Step]:
    """The path as keys; msgspec does not tell the key of a mapping, so it is found again."""
    steps: list[Step] = []
    for step in _STEP.finditer(path):
        if step["key"]:
            steps.append(_key(_at(whole, steps), expected))
        else:
            steps.append(step["field"] or int(step["index"]))
    return steps


def _key(mapping: Any, expected: re.Match[str] | None) -> str:
    if expected and isinstance(mapping, dict):
        for key, value in mapping.items():
            if _JSON_TYPES[type(value)] == expected["got"]:
                return str(key)
    return "*"


def _at(value: Any, steps: list[Step]) -> Any:
    for step in steps:
        try:
            value = value[step]
        except (LookupError, TypeError):
            return None
    return value


# What the declarations say about a place


def _description(kind: type[Struct], whole: Any, steps: list[Step]) -> str:
    for option in _options(_declared(kind, whole, steps)):
        if isinstance(option, inspect.Metadata):
            return str((option.extra_json_schema or {}).get("description", ""))
    return ""


def _choices(kind: type[Struct], whole: Any, steps: list[Step]) -> list[str]:
    tagged = _options(_declared(kind, whole, steps[:-1]))
    found = [str(k.tag) for k in tagged if isinstance(k, inspect.StructType) and k.tag is not None]
    if found and steps[-1:] == ["type"]:
        return found
    for option in map(_bare, _options(_declared(kind, whole, steps))):
        if isinstance(option, inspect.EnumType):
            found = [str(item.value) for item in option.cls]
        elif isinstance(option, inspect.LiteralType):
            found = [str(value) for value in option.values]
    return found


def _declared(kind: type[Struct], whole: Any, steps: list[Step]) -> inspect.Type | None:
    declared: inspect.Type | None = inspect.type_info(kind)
    for depth, step in enumerate(steps):
        value = _at(whole, steps[:depth])
        below = (_below(option, step, value) for option in _options(declared))
        declared = next((found for found in below if found is not None), None)
    return declared


def _below(kind: inspect.Type, step: Step, value: Any) -> inspect.Type | None:
    kind = _bare(kind)
    if isinstance(kind, inspect.DictType):
        return kind.value_type
    if isinstance(kind, inspect.ListType):
        return kind.item_type
    if isinstance(kind, inspect.StructType):
        tag = value.get(kind.tag_field) if kind.tag_field else None
        fields = {field.encode_name: field.type for field in kind.fields}
        return fields.get(str(step)) if tag == kind.tag else None
    return None


def _options(kind: inspect.Type | None) -> list[inspect.Type]:
    if isinstance(kind, inspect.UnionType):
        return list(kind.types)
    return [] if kind is None else [kind]


def _bare(kind: inspect.Type) -> inspect.Type:
    return kind.type if isinstance(kind, inspect.Metadata) else kind
