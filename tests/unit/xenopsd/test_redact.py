"""What the read-only socket does not show."""

import msgspec
import pytest
from rigs.values import VM

from idl.vm import (
    Container,
    Difference,
    Guest,
    Hvm,
    PowerState,
    Pv,
    Pvh,
    RunningOperation,
    VmRecord,
    VmState,
)
from xenopsd.redact import HIDDEN, redacted

SECRET = "geheim"
STATE = VmState(
    power_state=PowerState.RUNNING,
    guest_agent={"password": SECRET},
    operation=RunningOperation(task="t", name="VM.start", micro_op=None, since=1.0),
)
GUESTS = [
    Hvm(kernel="/k", cmdline=SECRET),
    Pv(kernel="/k", cmdline=SECRET),
    Pvh(kernel="/k", cmdline=SECRET),
    Container(environment={"TOKEN": SECRET}, hostname="h"),
]


def record(kind, /, **pending):
    config = msgspec.structs.replace(VM, guest=kind, xsdata={"key": SECRET})
    return VmRecord(id="vm1", config=config, state=STATE, pending=pending)


def test_each_type_of_guest_is_here():
    assert {type(guest) for guest in GUESTS} == set(Guest.__args__)


@pytest.mark.parametrize("guest", GUESTS, ids=lambda guest: type(guest).__name__)
def test_no_secret_is_left(guest):
    other = msgspec.structs.replace(VM, xsdata={"other": SECRET})
    shown = redacted(
        record(
            guest,
            guest=Difference(running=guest, configured=GUESTS[0]),
            xsdata=Difference(running={"a": SECRET}, configured=other.xsdata),
        )
    )
    assert SECRET.encode() not in msgspec.json.encode(shown)


@pytest.mark.parametrize("guest", GUESTS, ids=lambda guest: type(guest).__name__)
def test_all_else_is_shown(guest):
    before = record(guest, vcpus=Difference(running=1, configured=2))
    shown = redacted(before)
    assert shown.pending == before.pending
    assert shown.state == msgspec.structs.replace(STATE, guest_agent={})
    for field in VM.__struct_fields__:
        if field not in ("guest", "xsdata"):
            assert getattr(shown.config, field) == getattr(before.config, field)


def test_that_there_is_a_command_line_is_shown():
    assert redacted(record(Hvm(kernel="/k", cmdline=SECRET))).config.guest.cmdline == HIDDEN
    assert redacted(record(Hvm())).config.guest.cmdline is None


def test_that_something_hidden_is_pending_is_shown():
    shown = redacted(record(Hvm(), xsdata=Difference(running={"a": "b"}, configured={})))
    assert shown.pending == {"xsdata": Difference(running={}, configured={})}


def test_a_damaged_record_has_nothing_to_hide():
    damaged = VmRecord(id="vm1", config=None, state=STATE)
    assert redacted(damaged).config is None
