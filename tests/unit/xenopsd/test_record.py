"""What follows from a VM's records: its power state, what is pending, what a micro-op changes."""

import pytest
from msgspec.structs import replace
from rigs.values import (
    FRESH,
    HALTED,
    IMAGE,
    META,
    MIB,
    NOW,
    OLD,
    ROOT,
    RUNNING,
    VM,
    domain,
    suspended,
)

from backends.interface import Domain
from idl.vm import Action, Difference, PowerState
from xenopsd import microop as m
from xenopsd.record import (
    LIVE_FIELDS,
    Image,
    VmExtra,
    advanced,
    concluded,
    half_built,
    pending,
    power_state,
)

R, H, S, P = PowerState.RUNNING, PowerState.HALTED, PowerState.SUSPENDED, PowerState.PAUSED
CRASHED = domain(stopped="crash")


@pytest.mark.parametrize(
    ("found", "extra", "expected"),
    [
        (None, HALTED, H),
        (None, RUNNING, H),
        (None, suspended(), S),
        (None, suspended(spent=True), H),
        (domain(), RUNNING, R),
        (domain(), HALTED, R),
        (domain(), suspended(), R),
        (domain(paused=True), RUNNING, P),
        (domain(built=False, paused=True), RUNNING, P),
        (CRASHED, RUNNING, R),
        (CRASHED, replace(RUNNING, preserved=OLD), P),
        (CRASHED, replace(RUNNING, preserved=FRESH), R),
        (domain(stopped="poweroff", paused=True), RUNNING, R),
    ],
    ids=[
        "no domain is halted",
        "a lost domain is halted",
        "a good image is suspended",
        "a spent image is halted",
        "a domain is running",
        "a domain without a record is running",
        "a domain beside an image is running",
        "a paused domain is paused",
        "a shell is paused",
        "a stopped domain nobody has looked at is running",
        "a preserved domain is paused",
        "an earlier one preserved says nothing",
        "stopped goes before paused",
    ],
)
def test_the_power_state_is_what_is_observed(found, extra, expected):
    assert power_state(found, extra) is expected


@pytest.mark.parametrize(
    ("fields", "extra", "expected"),
    [
        ({"paused": True, "vcpu_seconds": 0.0}, HALTED, True),
        ({"paused": True, "vcpu_seconds": 0.0}, replace(RUNNING, settled=False), True),
        ({"paused": True, "vcpu_seconds": 0.0}, RUNNING, False),
        ({"paused": True, "vcpu_seconds": 0.0}, replace(RUNNING, incarnation=FRESH), True),
        ({"paused": True, "vcpu_seconds": 0.1}, HALTED, False),
        ({"paused": False, "vcpu_seconds": 0.0}, HALTED, False),
    ],
    ids=[
        "the tell, with no record",
        "the tell, with no operation ended",
        "an operation has ended for it",
        "an operation has ended for another incarnation",
        "it has run",
        "it runs",
    ],
)
def test_the_tell_counts_where_no_operation_has_ended(fields, extra, expected):
    assert half_built(domain(**fields), extra) is expected


def test_what_differs_from_what_runs_is_pending():
    wanted = replace(META, vm=replace(VM, vcpu_max=8, memory_static_max=1024 * MIB))
    assert pending(wanted, RUNNING) == {
        "vcpu_max": Difference(running=4, configured=8),
        "memory_static_max": Difference(running=512 * MIB, configured=1024 * MIB),
    }


def test_nothing_is_pending_of_what_does_not_run():
    assert pending(replace(META, vm=replace(VM, vcpu_max=8)), HALTED) == {}


def test_what_the_daemon_alone_reads_is_never_pending():
    changed = replace(
        VM, name="new", auto_start=True, on_crash=[Action.START], on_shutdown=[], on_reboot=[]
    )
    assert {f for f in LIVE_FIELDS if getattr(changed, f) != getattr(VM, f)} == LIVE_FIELDS
    assert pending(replace(META, vm=changed), RUNNING) == {}


LATER = replace(VM, vcpu_max=8)


def after(extra, op, incarnation=OLD, vm=LATER):
    return advanced(extra, op, incarnation=incarnation, vm=vm, boot="boot2", now=NOW)


def test_a_new_domain_runs_what_is_configured():
    assert after(HALTED, m.VmCreate(), FRESH) == VmExtra(
        incarnation=FRESH, boot="boot2", settled=False, running=LATER, last_start_time=NOW
    )


def test_a_resumed_domain_runs_what_was_suspended():
    made = after(suspended(), m.VmCreate(), FRESH)
    assert made.running == VM
    assert made.image == suspended().image
    assert not made.settled


def test_replaying_a_creation_after_its_image_was_dropped_keeps_what_runs():
    made = after(suspended(), m.VmCreate(), FRESH)
    dropped = after(made, m.VmDropImage(image=IMAGE), FRESH)
    assert after(dropped, m.VmCreate(), FRESH).running == VM


def test_a_new_domain_is_not_the_one_that_was_preserved():
    assert after(replace(RUNNING, preserved=OLD), m.VmCreate(), FRESH).preserved is None


def test_a_destroyed_domain_leaves_nothing_running():
    gone = after(replace(RUNNING, preserved=OLD), m.VmDestroy())
    assert (gone.incarnation, gone.running, gone.preserved) == (None, None, None)


def test_a_domain_destroyed_after_its_image_was_committed_leaves_what_it_will_run():
    committed = after(RUNNING, m.VmCommitImage(image=IMAGE, plugged=[ROOT.id]))
    assert committed.image == Image(path=IMAGE, incarnation=OLD, plugged=[ROOT.id])
    gone = after(committed, m.VmDestroy())
    assert (gone.incarnation, gone.running) == (None, VM)
    assert power_state(None, gone) is S


def test_a_domain_destroyed_after_its_image_was_spent_leaves_nothing():
    spent = after(after(suspended(), m.VmCreate(), FRESH), m.VmSpendImage(image=IMAGE), FRESH)
    assert spent.image.spent
    assert after(spent, m.VmDestroy(), FRESH).running is None


def test_a_spending_is_taken_back():
    spent = after(suspended(), m.VmSpendImage(image=IMAGE))
    assert after(spent, m.VmUnspendImage(image=IMAGE)) == suspended()


@pytest.mark.parametrize("op", [m.VmSpendImage(image=IMAGE), m.VmUnspendImage(image=IMAGE)])
def test_there_is_nothing_to_spend_without_an_image(op):
    assert after(RUNNING, op) is RUNNING


def test_an_image_dropped_from_a_suspended_vm_halts_it():
    gone = after(suspended(), m.VmDropImage(image=IMAGE))
    assert (gone.image, gone.running) == (None, None)


def test_an_image_dropped_from_a_running_vm_leaves_it_running():
    there = replace(RUNNING, image=suspended().image)
    assert after(there, m.VmDropImage(image=IMAGE)) == RUNNING


def test_a_stopped_domain_is_preserved_by_its_incarnation():
    assert after(RUNNING, m.VmPreserve()).preserved == OLD


@pytest.mark.parametrize(
    ("op", "field", "value"),
    [
        (m.VmSetVcpus(vcpus=3, was=2), "vcpus", 3),
        (m.VmSetXsdata(xsdata={"a": "b"}, was={}), "xsdata", {"a": "b"}),
        (m.VmRecord(object="vm1", changes={"memory_dynamic_min": 1}, was={}), "memory_dynamic_min", 1),
    ],
    ids=["vCPUs", "xsdata", "a balloon's range"],
)
def test_what_is_applied_to_a_running_vm_is_what_runs(op, field, value):
    assert getattr(after(RUNNING, op).running, field) == value
    assert after(HALTED, op) is HALTED


def test_what_is_recorded_of_a_suspended_vm_is_not_what_it_will_run():
    record = m.VmRecord(object="vm1", changes={"xsdata": {"a": "b"}}, was={})
    assert after(suspended(), record) == suspended()


def test_what_is_recorded_of_a_device_changes_nothing_of_the_vm():
    assert after(RUNNING, m.VmRecord(object=ROOT.id, changes={"mode": "ro"}, was={})) is RUNNING


CHANGES_NOTHING = [
    m.VmBuild(), m.VmPause(), m.VmUnpause(), m.VbdPlug(id=ROOT.id), m.VmSave(image=IMAGE),
    m.VmRestore(image=IMAGE), m.VmDelay(seconds=1), m.VmSetMemory(target=1, was=2),
]


@pytest.mark.parametrize("op", CHANGES_NOTHING, ids=m.name)
def test_what_changes_nothing_gives_the_very_same_record(op):
    """So that a balloon, set beside the queue, has nothing to write."""
    assert after(RUNNING, op) is RUNNING


@pytest.mark.parametrize(
    "op",
    [
        m.VmCreate(), m.VmDestroy(), m.VmCommitImage(image=IMAGE, plugged=[]),
        m.VmSpendImage(image=IMAGE), m.VmDropImage(image=IMAGE), m.VmSetVcpus(vcpus=1, was=2),
        m.VmPreserve(), m.VmRecord(object="vm1", changes={"vcpus": 1}, was={}),
    ],
    ids=m.name,
)
@pytest.mark.parametrize("extra", [HALTED, RUNNING, suspended(), suspended(spent=True)])
def test_recovery_may_apply_again_what_was_applied(extra, op):
    once = after(extra, op)
    assert after(once, op) == once


def test_the_end_records_what_was_then_observed():
    found = Domain(id="9", name="vm1", incarnation=FRESH, paused=True)
    ended = concluded(HALTED, found, reason="started", now=NOW)
    assert (ended.incarnation, ended.settled, ended.power_state) == (FRESH, True, P)
    assert (ended.reason, ended.observed_at) == ("started", NOW)


@pytest.mark.parametrize("reason", [None, ""])
def test_the_end_keeps_a_reason_where_it_has_none(reason):
    assert concluded(RUNNING, domain(), reason=reason, now=NOW).reason == "started"


def test_without_a_domain_nothing_is_settled():
    ended = concluded(replace(RUNNING, incarnation=None), None, reason="shut down", now=NOW)
    assert (ended.incarnation, ended.settled, ended.power_state) == (None, False, H)


def test_a_domain_that_went_by_itself_stays_known_until_it_is_destroyed():
    ended = concluded(RUNNING, None, reason=None, now=NOW)
    assert (ended.incarnation, ended.settled) == (RUNNING.incarnation, False)
