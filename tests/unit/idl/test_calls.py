"""The table of calls: that it is the interface's, and what each is made of."""

from typing import Any

import msgspec
import pytest

from idl.calls import (
    CALLS,
    Call,
    Change,
    Debug,
    Operation,
    PrivateRead,
    Queued,
    Read,
    VmSet,
    VmStart,
    parameters,
    result_type,
)
from idl.task import Task
from idl.vm import Vm

BASES = (Read, PrivateRead, Change, Queued, Operation, Debug)
EVERY = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def names(base):
    return {method for method, call in CALLS.items() if issubclass(call, base)}


def test_what_queues_an_operation_and_answers_a_task():
    assert names(Operation) == {
        "VM.start", "VM.shutdown", "VM.reboot", "VM.pause", "VM.unpause", "VM.suspend",
        "VM.resume", "VM.migrate", "VM.create", "VM.build", "VM.create_device_model",
        "VM.destroy", "VM.set_vcpus", "VM.set_memory_dynamic_range", "VM.set_xsdata", "VM.delay",
        "VM.adopt", "VM.forget", "VBD.plug", "VBD.unplug", "VBD.insert", "VBD.eject", "VIF.plug",
        "VIF.unplug", "VIF.move", "VIF.set_carrier", "VIF.set_locking_mode",
        "VIF.set_ipv4_configuration", "VIF.set_ipv6_configuration", "VIF.set_rate", "PCI.plug",
        "PCI.unplug",
    }  # fmt: skip


def test_what_goes_through_the_queue_and_is_awaited():
    assert names(Queued) == {
        "VM.add", "VM.remove", "VM.set", "VM.import_metadata", "VM.release", "VBD.add",
        "VBD.remove", "VIF.add", "VIF.remove", "PCI.add", "PCI.remove",
    }  # fmt: skip


def test_what_is_not_for_the_read_only_socket():
    assert {"HOST.get_console_data", "HOST.get_diagnostics", "VM.export_metadata"} == names(
        PrivateRead
    )
    assert names(Debug) == {"DEBUG.trigger", "DEBUG.shutdown"}


@EVERY
def test_each_is_of_one_kind(call):
    assert sum(issubclass(call, base) for base in BASES) == 1


@EVERY
def test_each_is_documented_and_has_a_result(call):
    assert call.__doc__
    assert result_type(call) is not Any
    msgspec.json.schema_components([result_type(call)])


@EVERY
def test_each_refuses_what_it_does_not_know(call):
    with pytest.raises(msgspec.ValidationError, match="nonsense"):
        msgspec.convert({"nonsense": 1}, call, strict=False) if not _required(call) else (
            msgspec.convert({**_required(call), "nonsense": 1}, call)
        )


def _required(call):
    """Values that pass for the required parameters; of their types alone."""
    schema = msgspec.json.schema(call)
    own = schema["$defs"][call.__name__] if "$defs" in schema else schema
    return {name: _any(schema, own["properties"][name]) for name in own.get("required", ())}


def _any(schema, wanted):
    if "$ref" in wanted:
        return _any(schema, schema["$defs"][wanted["$ref"].rpartition("/")[2]])
    if "anyOf" in wanted:
        return _any(schema, wanted["anyOf"][0])
    if "const" in wanted:
        return wanted["const"]
    if "enum" in wanted:
        return wanted["enum"][0]
    if wanted.get("type") == "object":
        required = wanted.get("required", ())
        return {name: _any(schema, wanted["properties"][name]) for name in required}
    pattern = wanted.get("pattern", "")
    device = "vm1/disk" if "/" in pattern else "vm1"
    text = "0000:00:00.0" if "{4}:" in pattern else device
    values = {"string": text, "integer": 1, "number": 1.0, "boolean": True, "array": []}
    return values[wanted.get("type", "string")]


def test_parameters_come_by_position_with_the_bases_last():
    assert parameters(VmStart) == ("id", "paused", "debug_info", "task")
    assert parameters(VmSet) == ("id", "changes", "timeout")


def test_results():
    assert result_type(CALLS["VM.set"]) is Vm
    assert result_type(CALLS["TASK.stat"]) is Task
    assert result_type(CALLS["TASK.destroy"]) in (None, type(None))


def test_a_call_without_a_result_is_a_mistake():
    class Lost(Call, frozen=True, kw_only=True):
        method = ""

    with pytest.raises(TypeError):
        result_type(Lost)
