"""The OpenRPC document, made of the declarations in `idl.calls` and nothing else.

It says what the types say and never more: a rule that a schema cannot express (which
power state a call needs) stays in the docstrings, which become the descriptions.
"""

import dataclasses
import inspect
from collections.abc import Iterable
from typing import Any, cast

import msgspec
from msgspec import NODEFAULT
from msgspec.structs import FieldInfo, fields

from idl import calls, errors
from idl.calls import CALLS, Call, parameters, result_type
from idl.update import UpdateBatch

OPENRPC_VERSION = "1.3.2"
JSON_SCHEMA = "https://json-schema.org/draft/2020-12/schema"
_REFS = "#/components/schemas/{name}"

#: How a call is carried out, as `x-kind` says it.
KINDS: dict[type[Call[Any]], str] = {
    calls.Read: "read",
    calls.PrivateRead: "private",
    calls.Change: "change",
    calls.Queued: "queued",
    calls.Operation: "operation",
    calls.Debug: "debug",
}

#: What each namespace is about.
TAGS = {
    "rpc": "The interface itself.",
    "HOST": "The daemon and the machine it runs on.",
    "VM": "Virtual machines and containers.",
    "VBD": "Virtual block devices.",
    "VIF": "Virtual network interfaces.",
    "PCI": "Devices of the host passed through.",
    "TASK": "Operations as their callers follow them.",
    "UPDATES": "What to look at again.",
    "DEBUG": "Only with --debug, for tests.",
}

_DESCRIPTION = (
    "A call of x-kind 'read' or 'private' is answered from the daemon's own state ('private' not "
    "on the read-only socket), 'change' at once, 'queued' once the VM's queue has carried it out. "
    "A call of x-kind 'operation' answers a task id at once; any error of components.errors may "
    "then be the task's."
)

#: Errors of the call itself, whatever it is.
_ALWAYS = (errors.InvalidParams, errors.InternalError, errors.TooManyRequests)
#: Answered of a record that cannot be read, too; nothing of a task or a barrier is.
_OF_DAMAGED = (calls.VmExists, calls.VmStat, calls.VmForget)


def document(*, debug: bool, version: str) -> dict[str, Any]:
    """The OpenRPC document of a daemon of that version; DEBUG calls only with `debug`."""
    shown = [call for call in in_order() if debug or kind(call) != "debug"]
    schemas, components = _schemas(shown)
    return {
        "openrpc": OPENRPC_VERSION,
        "info": {
            "title": "xenopsd",
            "version": version,
            "description": _DESCRIPTION,
            "license": {"name": "LGPL-2.1-or-later"},
        },
        "methods": [_method(call, schemas) for call in shown],
        "components": {
            "schemas": components,
            "errors": {name: error_object(cls) for name, cls in errors.BY_NAME.items()},
            "tags": {tag: _tag(tag) for tag in dict.fromkeys(map(namespace, shown))},
        },
        "x-schema-dialect": JSON_SCHEMA,
    }


def in_order() -> list[type[Call[Any]]]:
    """Every call, in the order of its declaration."""
    declarations = list(vars(calls).values())
    return sorted(CALLS.values(), key=declarations.index)


def namespace(call: type[Call[Any]]) -> str:
    """The part of the name before the dot."""
    return call.method.partition(".")[0]


def verb(call: type[Call[Any]]) -> str:
    """The part of the name after the dot."""
    return call.method.partition(".")[2]


def kind(call: type[Call[Any]]) -> str:
    """How the call is carried out, one of `KINDS`."""
    return next(name for base, name in KINDS.items() if issubclass(call, base))


def sentences(call: type[Call[Any]]) -> str:
    """What a call's docstring says, on one line."""
    return " ".join(inspect.getdoc(call).split()) if call.__doc__ else ""  # type: ignore[union-attr]  # a docstring is there


def declared(call: type[Call[Any]]) -> list[FieldInfo]:
    """A call's parameters in positional order."""
    by_name = {f.name: f for f in fields(call)}
    return [by_name[name] for name in parameters(call)]


Schemas = dict[tuple[str, str], dict[str, Any]]


def _schemas(shown: Iterable[type[Call[Any]]]) -> tuple[Schemas, dict[str, Any]]:
    """The schema of every parameter and result ("" is the result), and what they refer to."""
    types = {(call.method, f.name): f.type for call in shown for f in declared(call)}
    types |= {(call.method, ""): result_type(call) for call in shown}
    types["updates", ""] = UpdateBatch
    schemas, components = msgspec.json.schema_components(types.values(), ref_template=_REFS)
    return dict(zip(types, schemas, strict=True)), components


def _method(call: type[Call[Any]], schemas: Schemas) -> dict[str, Any]:
    method = {
        "name": call.method,
        "summary": sentences(call),
        "tags": [{"$ref": f"#/components/tags/{namespace(call)}"}],
        "paramStructure": "either",
        "params": [_parameter(f, schemas[call.method, f.name]) for f in declared(call)],
        "result": {"name": "result", "required": True, "schema": schemas[call.method, ""]},
        "errors": [{"$ref": f"#/components/errors/{cls.__name__}"} for cls in raises(call)],
        "x-kind": kind(call),
    }
    if call is calls.UpdatesSubscribe:
        method["x-notification"] = {"method": "updates", "params": schemas["updates", ""]}
    return method


def _parameter(f: FieldInfo, schema: dict[str, Any]) -> dict[str, Any]:
    """A content descriptor. A schema that is a mere reference gets no default beside it."""
    needed = f.default is NODEFAULT and f.default_factory is NODEFAULT
    descriptor: dict[str, Any] = {"name": f.name, "required": needed}
    if text := schema.get("description"):
        descriptor["description"] = text
    if not needed:
        default = f.default if f.default_factory is NODEFAULT else cast("Any", f.default_factory)()
        schema = {**schema, "default": default}
    return {**descriptor, "schema": schema}


def raises(call: type[Call[Any]]) -> Iterable[type[errors.XenopsError]]:
    """What the call itself can fail with; an operation's own errors are its task's."""
    if issubclass(call, calls.Queued):
        return errors.BY_NAME.values()
    denied = () if issubclass(call, calls.Read) else (errors.PermissionDenied,)
    own = {
        calls.HostGetConsoleData: (errors.Unimplemented,),
        calls.HostSetWorkerPoolSize: (errors.InvalidParameter,),
        calls.TaskDestroy: (errors.TaskIsRunning,),
        calls.DebugTrigger: (errors.InvalidParameter, errors.Unimplemented),
        calls.UpdatesSubscribe: (errors.InvalidRequest,),
    }.get(call, ())
    reused = (errors.InvalidParameter,) if issubclass(call, calls.Operation) else ()
    return (*_ALWAYS, *_of_id(call), *denied, *own, *reused)


def _of_id(call: type[Call[Any]]) -> tuple[type[errors.XenopsError], ...]:
    """What naming an object can fail with."""
    if call is calls.VmExists or not {"id", "vm"} & set(call.__struct_fields__):
        return ()
    damaged = namespace(call) in ("VM", "VBD", "VIF", "PCI") and call not in _OF_DAMAGED
    return (errors.DoesNotExist, errors.MetadataCorrupt) if damaged else (errors.DoesNotExist,)


class _Placeholder(str):
    """Stands for a fact in a sentence, whatever format it is asked for."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return str(self)


def error_object(cls: type[errors.XenopsError]) -> dict[str, Any]:
    """An error object whose message shows where its facts go, and the schema of its data."""
    facts = dataclasses.fields(cls)  # type: ignore[arg-type]  # every leaf is one
    schemas, _ = msgspec.json.schema_components([f.type for f in facts], ref_template=_REFS)
    marks: dict[str, Any] = {f.name: _Placeholder(f"{{{f.name}}}") for f in facts}
    lists = {f.name: [marks[f.name]] for f in facts if f.type == list[str]}
    properties = {f.name: schema for f, schema in zip(facts, schemas, strict=True)}
    return {
        "code": cls.code,
        "message": cls(**marks | lists).sentence(),
        "data": {
            "type": "object",
            "properties": {"error": {"const": cls.__name__}, **properties},
            "required": ["error", *(f.name for f in facts if f.default is dataclasses.MISSING)],
        },
    }


def _tag(name: str) -> dict[str, str]:
    return {"name": name, "description": TAGS[name]}
