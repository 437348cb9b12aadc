"""Params of a request to a call, and what is wrong with them in words that name the place.

A good call is one compiled decoding of the text as it came. Only what that refuses is taken
apart: as plain values, with msgspec's complaint put into the interface's words.
"""

import re
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw, ValidationError, inspect

from idl.calls import Call, parameters
from idl.errors import InvalidParams
from xenopsd.rpc.envelope import needs_structure, parsed

C = TypeVar("C", bound=Call[Any])

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


class Reader(Generic[C]):
    """Decodes the params of one call."""

    __slots__ = ("_call", "_decoder", "_names")

    def __init__(self, call: type[C]) -> None:
        self._call = call
        self._decoder = msgspec.json.Decoder(call)
        self._names = parameters(call)

    def read(self, params: Raw) -> C:
        """The call.

        Raises: InvalidParams naming the place; InvalidRequest for params that are neither an
        object nor an array; ParseError for text that no decoder takes.
        """
        try:
            accepted: C = self._decoder.decode(params)
        except (ValueError, RecursionError):  # ValidationError and UnicodeDecodeError are ones
            return self.convert(parsed(params))
        return accepted

    def convert(self, params: Any) -> C:
        """The call from plain values: an object, or an array in positional order.

        Raises: InvalidParams, InvalidRequest.
        """
        needs_structure(params)
        named = params if isinstance(params, dict) else self._by_name(params)
        try:
            accepted: C = msgspec.convert(named, self._call)
        except ValidationError as exc:
            raise InvalidParams(reason=explain(str(exc), named, self._call)) from None
        return accepted

    def _by_name(self, values: list[Any]) -> dict[str, Any]:
        if len(values) > len(self._names):
            most = len(self._names)
            names = f" ({', '.join(self._names)})" if most else ""
            raise InvalidParams(
                reason=f"[{most}]: unknown parameter: {self._call.method} takes {most}{names}"
            )
        return dict(zip(self._names, values, strict=False))


def explain(complaint: str, params: Any, call: type[Call[Any]]) -> str:
    """The complaint of msgspec as `path: what is wrong`."""
    match = _WHERE.match(complaint)
    what, path = (match["what"], match["path"] or "") if match else (complaint, "")
    steps = _steps(path, params, _EXPECTED.match(what))
    if field := _FIELD.match(what):
        steps = [*steps, field["name"]]
        known = field["which"].startswith("missing")
        unknown = "unknown parameter" if len(steps) == 1 else "unknown field"
        return f"{_shown(steps)}: {'missing' if known else unknown}"
    return f"{_shown(steps) or 'params'}: {_wrong(what, steps, params, call)}"


def _wrong(what: str, steps: list[Step], params: Any, call: type[Call[Any]]) -> str:
    value = _quoted(_at(params, steps))
    if _PATTERN.match(what):
        form = _description(call, params, steps)
        return f"{value} is not {form}" if form else f"{value} is no valid {steps[-1]}"
    if _VALUE.match(what):
        choices = _choices(call, params, steps)
        return f"{value} is not one of {', '.join(choices)}" if choices else f"{value} is unknown"
    plain = what.replace("`", "")
    return plain[:1].lower() + plain[1:]


def _quoted(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return f"'{text}'" if len(text) <= _LONGEST else f"'{text[:_LONGEST]}...'"


def _shown(steps: list[Step]) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.removeprefix(".")


def _steps(path: str, params: Any, expected: re.Match[str] | None) -> list[Step]:
    """The path as keys; msgspec does not tell the key of a mapping, so it is found again."""
    steps: list[Step] = []
    for step in _STEP.finditer(path):
        if step["key"]:
            steps.append(_key(_at(params, steps), expected))
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


def _description(call: type[Call[Any]], params: Any, steps: list[Step]) -> str:
    kind = _declared(call, params, steps)
    for option in _options(kind):
        if isinstance(option, inspect.Metadata):
            return str((option.extra_json_schema or {}).get("description", ""))
    return ""


def _choices(call: type[Call[Any]], params: Any, steps: list[Step]) -> list[str]:
    tagged = _options(_declared(call, params, steps[:-1]))
    found = [str(k.tag) for k in tagged if isinstance(k, inspect.StructType) and k.tag is not None]
    if found and steps[-1:] == ["type"]:
        return found
    for option in map(_bare, _options(_declared(call, params, steps))):
        if isinstance(option, inspect.EnumType):
            found = [str(item.value) for item in option.cls]
        elif isinstance(option, inspect.LiteralType):
            found = [str(value) for value in option.values]
    return found


def _declared(call: type[Call[Any]], params: Any, steps: list[Step]) -> inspect.Type | None:
    kind: inspect.Type | None = inspect.type_info(call)
    for depth, step in enumerate(steps):
        value = _at(params, steps[:depth])
        below = (_below(option, step, value) for option in _options(kind))
        kind = next((found for found in below if found is not None), None)
    return kind


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
