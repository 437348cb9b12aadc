"""What a served OpenRPC document says, in words. Pure.

It looks at the document alone, so that it tells the truth of a daemon of another version.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

#: What the kinds of calls mean to who waits.
KINDS = {
    "read": "answered at once from the daemon's own state",
    "private": "answered at once, and not on the read-only socket",
    "change": "carried out at once, without waiting for any VM",
    "queued": "goes through the VM's queue and is answered when it is done",
    "operation": "answers a task, and is carried out on the VM's queue",
    "debug": "only where the daemon runs with --debug",
}


class Interface:
    """The calls, types and errors of one document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        components = document.get("components", {})
        self.calls: dict[str, Schema] = {call["name"]: call for call in document["methods"]}
        self.types: dict[str, Schema] = components.get("schemas", {})
        self.errors: dict[str, Schema] = components.get("errors", {})

    def names(self) -> list[str]:
        """Everything that can be described."""
        return [*self.calls, *self.types, *self.errors]

    def summaries(self) -> list[tuple[str, str]]:
        """Every call with its first sentence."""
        return [(name, str(call.get("summary", ""))) for name, call in self.calls.items()]

    def of(self, name: str) -> list[str] | None:
        """The lines about a call, a type or an error, however it is capitalised; or None."""
        known = {one.lower(): one for one in self.names()}
        found = known.get(name.lower())
        if found is None:
            return None
        if found in self.calls:
            return list(self._call(self.calls[found]))
        if found in self.types:
            return list(self._type(found, self.types[found]))
        return list(self._error(found, self.errors[found]))

    def _call(self, call: Schema) -> Iterator[str]:
        yield f"{call['name']}: {call.get('summary', '')}"
        kind = KINDS.get(str(call.get("x-kind", "")))
        if kind:
            yield f"({kind})"
        yield from _fields("Parameters", {p["name"]: p for p in call["params"]})
        yield ""
        yield f"Result: {spell(call['result']['schema'])}"
        errors = sorted(_last(error["$ref"]) for error in call.get("errors", ()))
        if errors:
            yield f"Errors: {', '.join(errors)}"

    def _type(self, name: str, schema: Schema) -> Iterator[str]:
        yield " ".join(f"{name}: {schema.get('description', spell(schema))}".split())
        required = schema.get("required", ())
        yield from _fields(
            "Fields",
            {
                field: {"schema": inner, "required": field in required}
                for field, inner in schema.get("properties", {}).items()
            },
        )

    def _error(self, name: str, error: Schema) -> Iterator[str]:
        yield f"{name} ({error['code']}): {error['message']}"
        facts = error.get("data", {}).get("properties", {})
        yield from _fields(
            "Facts in data",
            {fact: {"schema": one, "required": True} for fact, one in facts.items()},
        )


def spell(schema: Schema) -> str:
    """The type that a schema means, in a few words."""
    if "$ref" in schema:
        return _last(schema["$ref"])
    if "const" in schema:
        return f'"{schema["const"]}"'
    if "enum" in schema:
        return " | ".join(f'"{value}"' for value in schema["enum"])
    if "anyOf" in schema:
        return " | ".join(spell(one) for one in schema["anyOf"])
    match schema.get("type"):
        case "array":
            return f"[{spell(schema.get('items', {}))}]"
        case "object" if isinstance(inner := schema.get("additionalProperties"), dict):
            return f"{{string: {spell(inner)}}}"
        case None:
            return "anything"
        case kind:
            return f"{kind}{_limits(schema)}"


def _limits(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None or high is None:
        return f" from {low}" if low is not None else ""
    return f" from {low} to {high:g}"


def _last(ref: str) -> str:
    return ref.rpartition("/")[2]


def _fields(title: str, fields: Mapping[str, Schema]) -> Iterator[str]:
    if not fields:
        return
    yield ""
    yield f"{title}:"
    width = max(len(name) for name in fields)
    for name, field in fields.items():
        yield f"  {name.ljust(width)}  {_field(field)}"


def _field(field: Schema) -> str:
    schema = field["schema"]
    words = spell(schema)
    if "default" in schema:
        words += f", default {_plain(schema['default'])}"
    elif not field.get("required"):
        words += ", optional"
    about = field.get("description") or schema.get("description")
    return f"{words}  ({about})" if about else words


def _plain(value: Any) -> str:
    match value:
        case None | True | False:
            return {None: "null", True: "true", False: "false"}[value]
        case str():
            return f'"{value}"'
        case _:
            return str(value)
