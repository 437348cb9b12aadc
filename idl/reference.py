"""Renders the reference of the interface as pages of Markdown, from the declarations alone.

The documentation's build calls it, so that no copy can grow old. It says what the types and
docstrings say; what they cannot say is in docs/interface-notes.md.
"""

import enum
import inspect
import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Meta, Struct
from msgspec.structs import FieldInfo, fields

from idl import errors
from idl.calls import Call, result_type
from idl.generate import MODULES, name_of
from idl.openrpc import TAGS, declared, error_object, in_order, kind, namespace, raises, sentences

#: How a call is carried out: the mark beside its name, and what the mark means.
MARKS = {
    "read": ("R", "answered at once from the daemon's own state, on both sockets"),
    "private": ("P", "the same, but not on the read-only socket"),
    "change": ("C", "carried out at once, without waiting for any VM"),
    "queued": ("Q", "goes through the VM's queue; the answer comes when it is done"),
    "operation": ("T", "queues an operation and answers its task id at once"),
    "debug": ("D", "only with `--debug`, for root and the daemon's own user"),
}

#: In a schema's terms, what a number or a text has to be.
_LIMITS = {
    "ge": "at least {}",
    "gt": "more than {}",
    "le": "at most {}",
    "lt": "less than {}",
    "min_length": "at least {} long",
    "max_length": "at most {} long",
    "pattern": "matches `{}`",
}


def pages() -> Mapping[str, str]:
    """Each page's text by its name."""
    return {"calls.md": calls_page(), "types.md": types_page(), "errors.md": errors_page()}


def calls_page() -> str:
    """Every call: parameters, result, errors."""
    parts = ["# Calls", _INTRODUCTION, _table(("mark", "the call is"), MARKS.values())]
    for name, group in groupby(in_order(), namespace):
        parts += [f"## {name}", TAGS[name], *(_call(call) for call in group)]
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = (
    "Made from the declarations that check the calls. The same is served by `rpc.discover` as an "
    "OpenRPC document, and told by `xenops describe METHOD`. Parameters go by name, or by "
    "position in the order of the tables; one without a default has to be given."
)


def _call(call: type[Call[Any]]) -> str:
    params = [_row(call, f) for f in declared(call)]
    result = type_text(result_type(call))
    shown = [
        f"### {call.method} {{ #{anchor(call.method)} }}",
        f"**{MARKS[kind(call)][0]}** {sentences(call)}",
        _table(("parameter", "type", "default", ""), params) if params else "No parameters.",
        f"Result: {'a task, ' if kind(call) == 'operation' else ''}{result}.",
        f"Errors: {_errors_of(call)}",
    ]
    return "\n\n".join(shown)


def _row(owner: type, f: FieldInfo) -> tuple[str, ...]:
    """A parameter or a field. The limits of a named type are told at its name."""
    limits = "" if name_of(f.type) else _limits(f.type)
    said = "; ".join(text for text in (words(owner, f.name), limits) if text)
    return f"`{f.encode_name}`", type_text(f.type), _default(f), said


def words(owner: type, name: str) -> str:
    """What the source says of a field, in the comment `#:` above it."""
    for declaring in owner.__mro__:
        if name in inspect.get_annotations(declaring):
            above = rf"((?:^ *#: .*\n)+) *{name}: "
            found = re.search(above, inspect.getsource(declaring), re.MULTILINE)
            return " ".join(re.findall(r"#: (.*)", found[1])) if found else ""
    return ""


def _errors_of(call: type[Call[Any]]) -> str:
    if kind(call) == "queued":
        return "any [error](errors.md)."
    own = ", ".join(dict.fromkeys(_error_link(cls) for cls in raises(call)))
    later = (
        "; the task can fail with any [error](errors.md)." if kind(call) == "operation" else "."
    )
    return own + later


def _error_link(cls: type[errors.XenopsError]) -> str:
    return f"[{cls.__name__}](errors.md#{anchor(cls.__name__)})"


def types_page() -> str:
    """Every type of the interface, a section a module of `idl`."""
    parts = ["# Types", "A field without a default has to be given, or is always answered."]
    for module in MODULES:
        if found := _declared_in(module):
            title = module.__name__.rpartition(".")[2]
            parts += [f"## idl.{title} {{ #module-{title} }}", _first_paragraph(module)]
            parts += [_type(name, value) for name, value in found.items()]
    return "\n\n".join(parts) + "\n"


def _declared_in(module: ModuleType) -> dict[str, Any]:
    """The types that a module declares, not those that it imports; nor bases without fields."""
    imported = {
        name
        for other in MODULES
        if other is not module
        for name, value in vars(other).items()
        if isinstance(value, type) and value.__module__ == other.__name__
    }
    source = inspect.getsource(module)
    return {
        name: value
        for name, value in vars(module).items()
        if name not in imported
        and re.search(rf"^(class )?{name}\b[:(=]", source, re.MULTILINE)
        and (_is_class(value) or (get_origin(value) is not None and name[0].isupper()))
    }


def _is_class(value: Any) -> bool:
    struct = isinstance(value, type) and issubclass(value, Struct)
    return bool(struct and (value.__struct_fields__ or value.__struct_config__.tag)) or _is_enum(
        value
    )


def _is_enum(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, enum.Enum)


def _type(name: str, value: Any) -> str:
    head = f"### {name} {{ #{anchor(name)} }}"
    if _is_enum(value):
        return f"{head}\n\n{_doc(value)}\n\nOne of {_choices([v.value for v in value])}."
    if not _is_class(value):
        return f"{head}\n\n{_alias(value)}."
    tag = value.__struct_config__.tag
    rows = [_row(value, f) for f in fields(value)]
    if tag is not None:
        rows.insert(0, (f"`{value.__struct_config__.tag_field}`", f'`"{tag}"`', "", ""))
    return f"{head}\n\n{_doc(value)}\n\n{_table(('field', 'type', 'default', ''), rows)}"


def _alias(value: Any) -> str:
    if get_origin(value) is Annotated:
        limits = _limits(value)
        return type_text(get_args(value)[0]) + (f": {limits}" if limits else "")
    return _spelled(value)


def errors_page() -> str:
    """The table of errors, and each with its facts."""
    shown = sorted(errors.BY_NAME.values(), key=lambda cls: (cls.code > 0, abs(cls.code)))
    rows = [(f"{cls.code}", _error_link(cls).replace("errors.md", ""), _doc(cls)) for cls in shown]
    parts = ["# Errors", _OF_ERRORS, _table(("code", "class", "when"), rows)]
    return "\n\n".join([*parts, *map(_error, shown)]) + "\n"


_OF_ERRORS = (
    "The code is fixed for each class. `message` is one sentence for a person. `data.error` names "
    "the class, and the facts are further members of `data`. In Python each is a class of "
    "`idl.errors` with its facts as attributes."
)


def _error(cls: type[errors.XenopsError]) -> str:
    shown = error_object(cls)
    properties, needed = shown["data"]["properties"], shown["data"]["required"]
    rows = [
        (f"`{name}`", _schema(schema), "" if name in needed else "not always there")
        for name, schema in properties.items()
        if name != "error"
    ]
    table = _table(("fact", "type", ""), rows) if rows else "No facts."
    name = cls.__name__
    return f"## {name} {{ #{anchor(name)} }}\n\n{cls.code}: “{shown['message']}”\n\n{table}"


def _schema(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_schema(each) for each in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_schema(schema['items'])}"
    return str(schema.get("type", "anything"))


def type_text(kind: Any) -> str:
    """A type in words, with links to the types that have a name."""
    if kind in (None, NoneType):
        return "null"
    if name := name_of(kind):
        return f"[{name}](types.md#{anchor(name)})"
    return _spelled(kind)


def _spelled(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return type_text(args[0])
    if origin in (Union, UnionType):
        return " or ".join(map(type_text, args))
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + _choices(args)
    if origin is list:
        return f"list of {type_text(args[0])}"
    if origin is dict:
        return f"object, {type_text(args[0])} to {type_text(args[1])}"
    return "anything" if kind is Any else str(kind.__name__)


def _choices(values: Iterable[Any]) -> str:
    return ", ".join(f"`{_json(value)}`" for value in values)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _default(f: FieldInfo) -> str:
    if f.default_factory is not NODEFAULT:
        return f"`{_json(f.default_factory())}`"
    if f.default is NODEFAULT:
        return ""
    return "" if f.default is msgspec.UNSET else f"`{_json(f.default)}`"


def _limits(kind: Any) -> str:
    """What the annotations of a type say, in words."""
    if get_origin(kind) is not Annotated:
        return ""
    metas = [meta for meta in get_args(kind)[1:] if isinstance(meta, Meta)]
    said = [meta.description for meta in metas if meta.description]
    for meta in metas:
        # A pattern that has words beside it is told by them.
        shown = [key for key in _LIMITS if key != "pattern" or not meta.description]
        values = {key: getattr(meta, key) for key in shown}
        said += [_LIMITS[key].format(value) for key, value in values.items() if value is not None]
    return ", ".join(said)


def _doc(value: type) -> str:
    return " ".join((inspect.getdoc(value) or "").split())


def _first_paragraph(module: ModuleType) -> str:
    return " ".join((inspect.getdoc(module) or "").partition("\n\n")[0].split())


def anchor(name: str) -> str:
    """The part of an address that leads to a name."""
    return name.lower().replace(".", "-")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = tuple(head)
    lines = [tuple(cell.replace("|", "\\|") for cell in line) for line in (head, *rows)]
    lines.insert(1, ("---",) * len(head))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
