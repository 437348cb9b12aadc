"""Every error: its number, a sentence that names its facts, and the way to the wire and back."""

import dataclasses

import msgspec
import pytest

from idl import errors
from idl.errors import (
    BY_NAME,
    BadPowerState,
    HookFailed,
    HypervisorError,
    Interrupted,
    ProtocolError,
    UnknownError,
    XenopsError,
    from_object,
)
from idl.task import ErrorObject

#: As interface.md has them.
CODES = {
    "ParseError": -32700, "InvalidRequest": -32600, "MethodNotFound": -32601,
    "InvalidParams": -32602, "InternalError": -32603,
    "AlreadyExists": 1001, "DoesNotExist": 1002, "BadPowerState": 1003, "Unimplemented": 1004,
    "DomainNotBuilt": 1005, "InvalidVcpus": 1006, "InvalidParameter": 1007,
    "DeviceIsConnected": 1008, "DeviceNotConnected": 1009, "DeviceDetachRejected": 1010,
    "MediaNotEjectable": 1011, "FailedToShutdown": 1012, "FailedToAcknowledge": 1013,
    "FailedToSuspend": 1014, "NotEnoughMemory": 1015, "Cancelled": 1016, "Interrupted": 1017,
    "DeadlineExceeded": 1018, "StorageError": 1019, "NetworkError": 1020,
    "HypervisorError": 1021, "FailedToStartEmulator": 1022, "HookFailed": 1023,
    "PermissionDenied": 1024, "TooManyRequests": 1025, "TaskIsRunning": 1026,
    "ImageInvalid": 1027, "MigrationFailed": 1028, "OwnedByAnother": 1029,
    "MetadataCorrupt": 1030,
}  # fmt: skip
FACTS = {
    "AlreadyExists": ["kind", "id"], "DoesNotExist": ["kind", "id"],
    "BadPowerState": ["id", "actual", "expected"], "Unimplemented": ["what", "backend"],
    "DomainNotBuilt": ["id"], "InvalidVcpus": ["requested", "maximum"],
    "InvalidParameter": ["name", "reason"], "DeviceIsConnected": ["id"],
    "DeviceNotConnected": ["id"], "DeviceDetachRejected": ["id", "reason"],
    "MediaNotEjectable": ["id"], "FailedToShutdown": ["id", "timeout"],
    "FailedToAcknowledge": ["id", "request", "timeout"], "FailedToSuspend": ["id", "timeout"],
    "NotEnoughMemory": ["needed", "free"], "Cancelled": ["task"],
    "Interrupted": ["task", "begun", "recovered_to"], "DeadlineExceeded": ["what", "seconds"],
    "StorageError": ["plugin", "reason"], "NetworkError": ["what", "reason"],
    "HypervisorError": ["call", "reason"], "FailedToStartEmulator": ["id", "reason"],
    "HookFailed": ["hook", "status", "output"], "PermissionDenied": ["method"],
    "TooManyRequests": ["limit", "queued"], "TaskIsRunning": ["task"],
    "ImageInvalid": ["path", "reason"], "MigrationFailed": ["phase", "reason"],
    "OwnedByAnother": ["id", "instance"], "MetadataCorrupt": ["path"],
}  # fmt: skip
#: A fact of each type that no sentence has by chance.
VALUES = {"str": "xyzzy", "int": 421, "float": 42.5, "bool": True, "list": ["plugh", "plover"]}


def made(cls):
    """One with facts that can be told apart."""
    fields = {}
    for n, field in enumerate(dataclasses.fields(cls)):
        value = VALUES[getattr(field.type, "__name__", "str")]
        if isinstance(value, str):
            value = f"{value}{n}"
        elif not isinstance(value, bool | list):
            value += n
        fields[field.name] = value
    return cls(**fields)


EACH = [made(cls) for cls in BY_NAME.values()]
EVERY = pytest.mark.parametrize("error", EACH, ids=lambda error: type(error).__name__)


def test_the_codes_are_those_of_the_interface():
    assert {name: cls.code for name, cls in BY_NAME.items()} == CODES


def test_the_facts_are_those_of_the_interface():
    found = {
        name: [field.name for field in dataclasses.fields(cls)]
        for name, cls in BY_NAME.items()
        if not issubclass(cls, ProtocolError)
    }
    assert found == FACTS


@EVERY
def test_each_says_one_sentence_that_names_its_facts(error):
    words = error.sentence()
    assert str(error) == words
    assert words[0].isupper() or words.startswith(("xyzzy", "42"))
    assert "\n" not in words
    for name, value in error.facts().items():
        told = value if isinstance(value, list) else [value]
        hidden = name == "begun"
        for one in told:
            shown = f"{one:g}" if isinstance(one, float) else str(one)
            assert hidden or shown in words, f"{name} is not named"


@EVERY
def test_each_goes_to_the_wire_and_back(error):
    wire = msgspec.json.encode(error.error_object())
    back = from_object(msgspec.json.decode(wire, type=ErrorObject))
    assert type(back) is type(error)
    assert back.facts() == error.facts()
    assert back.error_object() == error.error_object()
    assert back is not error


@EVERY
def test_each_names_its_class_in_its_data(error):
    shown = error.error_object()
    assert shown.data == {"error": type(error).__name__, **error.facts()}
    assert shown.code == type(error).code


def test_a_fact_that_is_not_known_yet_is_left_out():
    assert Interrupted(task="t", begun=False).facts() == {"task": "t", "begun": False}
    assert "call again" in Interrupted(task="t", begun=False).sentence()
    assert "halted" in Interrupted(task="t", begun=True, recovered_to="halted").sentence()


def test_expected_states_are_told_one_or_the_other():
    error = BadPowerState(id="vm1", actual="halted", expected=["running", "paused"])
    assert error.sentence() == "VM vm1 is halted; this needs it running or paused."


def test_a_hook_that_said_nothing():
    assert "no output" in HookFailed(hook="vm-pre-start", status=3, output="").sentence()


def test_what_was_added_to_the_facts_stays_readable():
    shown = HypervisorError(call="c", reason="r").error_object()
    with_step = msgspec.structs.replace(shown, data={**shown.data, "micro_op": "vm_build"})
    back = from_object(with_step)
    assert isinstance(back, HypervisorError)
    assert back.micro_op == "vm_build"


@pytest.mark.parametrize(
    "data",
    [{}, {"error": "FromTheFuture", "id": "x"}, {"error": "BadPowerState", "id": "x"}, {"error": 5}],
    ids=["no class", "an unknown class", "missing facts", "a class that is none"],
)
def test_what_cannot_be_understood_is_still_an_error_with_its_words(data):
    shown = ErrorObject(code=4711, message="Something happened.", data=data)
    back = from_object(shown)
    assert isinstance(back, UnknownError)
    assert str(back) == "Something happened."
    assert back.error_object() == shown


def test_errors_are_told_apart_by_identity():
    """As exceptions are: two of the same facts are two."""
    assert made(BadPowerState) != made(BadPowerState)
    assert len({made(BadPowerState), made(BadPowerState)}) == 2
    assert issubclass(XenopsError, Exception)
    assert errors.BY_NAME


@pytest.mark.parametrize(
    "data",
    [
        {"error": "DeadlineExceeded", "what": "it", "seconds": "long"},
        {"error": "BadPowerState", "id": "a", "actual": "halted", "expected": 7},
        {"error": "DoesNotExist", "kind": "VM", "id": "a", "sentence": "none"},
    ],
)
def test_whatever_the_facts_are_an_error_has_a_text(data):
    error = from_object(ErrorObject(code=1, message="said", data=data))
    assert str(error)
    assert error.error_object().message == str(error)
