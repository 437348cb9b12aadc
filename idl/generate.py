"""Renders the typed namespaces of the client from the declarations of `idl.calls`.

`python -m idl.generate` writes `idl/namespaces.py` and `idl/namespaces_async.py`, which are
committed so that editors and type checkers see real signatures; a test compares them with what
is rendered here. A flavour is everything in which a client that blocks and one that awaits
differ.
"""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT
from msgspec.structs import FieldInfo

from idl import calls, host, ids, metadata, pci, task, update, vbd, vif, vm, wire
from idl.calls import Call, result_type
from idl.openrpc import TAGS, declared, in_order, namespace, sentences, verb

WIDTH = 99

#: A subscription takes a connection of its own, so the client offers it by hand.
_BY_HAND = (calls.UpdatesSubscribe,)

#: Namespaces to which the client adds methods, so it makes them itself.
_EXTENDED = ("UPDATES",)

#: Where the types of the interface are declared.
MODULES = (ids, wire, vm, vbd, vif, pci, task, update, host, metadata)


@dataclass(frozen=True, slots=True)
class Flavour:
    """How the calls of a client are made."""

    module: str
    title: str
    define: str
    wait: str

    @property
    def target(self) -> Path:
        """The committed file."""
        return Path(__file__).with_name(self.module)


SYNC = Flavour(
    module="namespaces.py", title="Every call, for a client that blocks.", define="def", wait=""
)
ASYNC = Flavour(
    module="namespaces_async.py",
    title="Every call, for a client that awaits.",
    define="async def",
    wait="await ",
)
FLAVOURS = (SYNC, ASYNC)

_HEADER = '''"""{title} Rendered by idl.generate: edit idl.calls instead."""
# The order of parameters is the wire's, so flags may come by position.
# ruff: noqa: FBT001, FBT002

import builtins
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from idl import calls
{imports}

R = TypeVar("R")


class Transport(Protocol):
    """Carries a call to the daemon and its result back."""

    {define} send(self, call: calls.Call[R]) -> R:
        """Raises what the daemon answers as an error."""


class Namespace:
    """Calls that share a part of their name."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
'''

_ALL = '''

class Namespaces:
    """One attribute a namespace; {extended} is the client's own."""

    def __init__(self, transport: Transport) -> None:
'''


def render(flavour: Flavour) -> str:
    """The text of the module with a class a namespace and a method a call."""
    shown = [call for call in in_order() if call not in _BY_HAND]
    groups = [(name, list(group)) for name, group in groupby(shown, namespace)]
    classes = [_namespace(name, group, flavour) for name, group in groups]
    header = _HEADER.format(title=flavour.title, define=flavour.define, imports=_imports(shown))
    made = [name for name, _ in groups if name not in _EXTENDED]
    attributes = [f"self.{name.lower()} = {_class(name)}(transport)\n" for name in made]
    head = _ALL.format(extended=", ".join(name.lower() for name in _EXTENDED))
    return header + "".join(classes) + head + textwrap.indent("".join(attributes), " " * 8)


def _class(name: str) -> str:
    """Acronyms stay capital."""
    return f"{name.upper() if len(name) <= len('VBD') else name.title()}Calls"


def _namespace(name: str, group: Iterable[type[Call[Any]]], flavour: Flavour) -> str:
    methods = [textwrap.indent(_method(call, flavour), "    ") for call in group]
    head = f'\n\nclass {_class(name)}(Namespace):\n    """{TAGS[name]}"""\n\n'
    return head + "\n".join(methods)


def _method(call: type[Call[Any]], flavour: Flavour) -> str:
    own = set(call.__annotations__)
    params = declared(call)
    signature = ["self", *(_parameter(f) for f in params if f.name in own)]
    if inherited := [_parameter(f) for f in params if f.name not in own]:
        signature += ["*", *inherited]
    result = spell(result_type(call))
    head = _wrapped(f"{flavour.define} {verb(call)}(", signature, f") -> {result}:", WIDTH - 4)
    sent = [f"{f.name}={_sent(f)}" for f in params]
    made = _wrapped(f"calls.{call.__name__}(", sent, ")", WIDTH - 12).rstrip()
    keep = "" if result == "None" else "return "
    send = _wrapped(f"{keep}{flavour.wait}self._transport.send(", [made], ")", WIDTH - 8)
    return head + textwrap.indent(_docstring(sentences(call)) + send, "    ")


def _parameter(f: FieldInfo) -> str:
    if f.default_factory is list:
        # A mutable default would be shared between calls.
        return f"{f.name}: Sequence[{spell(get_args(f.type)[0])}] = ()"
    annotated = f"{f.name}: {spell(f.type)}"
    if f.default is NODEFAULT:
        return annotated
    return f"{annotated} = {_literal(f.default)}"


def _sent(f: FieldInfo) -> str:
    return f"list({f.name})" if f.default_factory is list else f.name


def _literal(value: Any) -> str:
    return msgspec.json.encode(value).decode() if isinstance(value, str) else repr(value)


def _docstring(text: str) -> str:
    lines = textwrap.wrap(f'"""{text}"""', WIDTH - 8)
    if len(lines) > 1:
        lines = [*textwrap.wrap(f'"""{text}', WIDTH - 12), '"""']
    return "\n".join(lines) + "\n"


def _wrapped(start: str, parts: Sequence[str], end: str, width: int) -> str:
    """The parts between start and end: on one line, on one of their own, or each on its own."""
    joined = ", ".join(parts)
    if len(start + joined + end) <= width and "\n" not in joined:
        return f"{start}{joined}{end}\n"
    if len(joined) <= width - 4 or len(parts) == 1:
        return f"{start}\n{textwrap.indent(joined, '    ')}\n{end}\n"
    return start + "\n" + "".join(f"    {part},\n" for part in parts) + end + "\n"


def spell(kind: Any) -> str:
    """A type as it stands in the source: by the name that `idl` gives it, where there is one."""
    if name := name_of(kind):
        return name
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return spell(args[0])
    if origin in (Union, UnionType):
        return " | ".join(map(spell, args))
    if origin is list:
        # A method called `list` hides the type within its class.
        return f"builtins.list[{spell(args[0])}]"
    if origin is dict:
        return f"dict[{spell(args[0])}, {spell(args[1])}]"
    if kind in (NoneType, None):
        return "None"
    return str(kind.__name__)


def name_of(kind: Any) -> str | None:
    """The name that `idl` gives a type, where there is one."""
    found = _found(kind)
    return found and found[1]


def _found(kind: Any) -> tuple[ModuleType, str] | None:
    """Where `idl` names a type, and how. Plain types that an alias stands for stay plain."""
    plain = isinstance(kind, type) and not kind.__module__.startswith("idl")
    if plain and get_origin(kind) is None:
        return None
    pairs = ((module, name) for module in MODULES for name in vars(module))
    return next((pair for pair in pairs if vars(pair[0])[pair[1]] == kind), None)


def _imports(shown: Iterable[type[Call[Any]]]) -> str:
    """The import lines of everything that the calls mention."""
    types = [t for call in shown for t in (*(f.type for f in declared(call)), result_type(call))]
    wanted = {(module.__name__, name) for t in types for module, name in _mentioned(t)}
    return "\n".join(
        f"from {module} import {', '.join(name for _, name in pairs)}"
        for module, pairs in groupby(sorted(wanted), lambda pair: pair[0])
    )


def _mentioned(kind: Any) -> Iterable[tuple[ModuleType, str]]:
    if (found := _found(kind)) is not None:
        return [found]
    return [pair for arg in get_args(kind) for pair in _mentioned(arg)]


def main() -> None:
    """Write the committed modules."""
    for flavour in FLAVOURS:
        flavour.target.write_text(render(flavour))


if __name__ == "__main__":
    main()
