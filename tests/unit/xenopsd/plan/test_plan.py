"""What plans are made of: steps, what is left of them, what undoes them."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rigs.values import FRESH, IMAGE, META, OLD, ROOT, snapshot

from idl import calls
from idl.errors import BadPowerState, DoesNotExist
from idl.vm import PowerState
from xenopsd import microop as m
from xenopsd.microop import inverse
from xenopsd.plan.plan import Plan, Segment, rest, undo
from xenopsd.plan.planner import plan

FIRST = Segment(incarnation=OLD, steps=[m.VmPause(), m.VbdUnplug(id=ROOT.id)])
SECOND = Segment(incarnation=FRESH, finish=True, steps=[m.VmCreate(), m.VmUnpause()])
BOTH = Plan(segments=[FIRST, SECOND], reason="why")


def undoing(incarnation, *steps):
    return Plan(segments=[Segment(steps=list(steps), incarnation=incarnation, finish=True)])


def test_steps_are_numbered_through_all_segments():
    assert BOTH.steps() == [
        (m.VmPause(), FIRST),
        (m.VbdUnplug(id=ROOT.id), FIRST),
        (m.VmCreate(), SECOND),
        (m.VmUnpause(), SECOND),
    ]


@pytest.mark.parametrize(
    ("done", "intended", "expected"),
    [
        (0, False, undoing(OLD)),
        (0, True, undoing(OLD, m.VmUnpause())),
        (1, False, undoing(OLD, m.VmUnpause())),
        (1, True, undoing(OLD, m.VbdPlug(id=ROOT.id), m.VmUnpause())),
        (2, False, undoing(FRESH)),
        (2, True, undoing(FRESH, m.VmDestroy())),
        (3, True, undoing(FRESH, m.VmPause(if_running=True), m.VmDestroy())),
        (4, False, Plan()),
    ],
)
def test_a_segment_is_undone_in_reverse_and_the_ones_before_it_are_not(done, intended, expected):
    assert undo(BOTH, done, intended=intended) == expected


@pytest.mark.parametrize(
    ("done", "expected"),
    [
        (0, BOTH),
        (1, Plan(segments=[msgspec.structs.replace(FIRST, steps=FIRST.steps[1:]), SECOND], reason="why")),
        (2, Plan(segments=[SECOND], reason="why")),
        (3, Plan(segments=[msgspec.structs.replace(SECOND, steps=[m.VmUnpause()])], reason="why")),
        (4, Plan(reason="why")),
    ],
)
def test_what_is_left_keeps_its_segments_and_its_reason(done, expected):
    assert rest(BOTH, done) == expected


OPS = st.sampled_from([m.VmCreate(), m.VmBuild(), m.VmPause(), m.VbdPlug(id=ROOT.id), m.VmSave(image=IMAGE)])
PLANS = st.lists(
    st.builds(Segment, steps=st.lists(OPS, max_size=4), finish=st.booleans()), max_size=4
).map(lambda segments: Plan(segments=segments))


@given(PLANS, st.integers(0, 20))
def test_the_rest_is_all_steps_but_the_first(planned, done):
    assert [op for op, _ in rest(planned, done).steps()] == [
        op for op, _ in planned.steps()
    ][done:]


@given(PLANS, st.data())
def test_an_undoing_can_only_be_finished_and_is_of_one_segment(planned, data):
    steps = planned.steps()
    done = data.draw(st.integers(0, max(0, len(steps) - 1)))
    back = undo(planned, done, intended=True)
    assert all(segment.finish for segment in back.segments)
    begun = [op for op, segment in steps[: done + 1] if segment is steps[done][1]] if steps else []
    assert {op for op, _ in back.steps()} <= {i for op in begun for i in inverse(op)}


@pytest.mark.parametrize(
    ("call", "state"),
    [
        (calls.VmStart(id="vm1"), "halted"),
        (calls.VmReboot(id="vm1", timeout=3), "running"),
        (calls.VmSuspend(id="vm1"), "running"),
        (calls.VmResume(id="vm1"), "suspended"),
    ],
    ids=lambda value: getattr(value, "method", value),
)
def test_whole_plans_come_out_of_a_journal_as_they_went_in(call, state):
    planned = plan(call, snapshot(state))
    assert msgspec.json.decode(msgspec.json.encode(planned), type=Plan) == planned


# Snapshots


@pytest.mark.parametrize("state", ["halted", "running", "paused", "suspended"])
def test_a_snapshot_knows_its_state_and_what_it_is_required_to_be(state):
    there = snapshot(state)
    assert there.state == state
    there.require(PowerState(state))
    others = [other for other in PowerState if other != state]
    with pytest.raises(BadPowerState) as raised:
        there.require(*others)
    assert raised.value.facts() == {
        "id": "vm1", "actual": state, "expected": [str(other) for other in others],
    }


def test_a_snapshot_finds_devices_of_each_kind():
    there = snapshot()
    for kind, devices in (("vbd", META.vbds), ("vif", META.vifs), ("pci", META.pcis)):
        for device in devices:
            assert getattr(there, kind)(device.id) is device
        with pytest.raises(DoesNotExist) as raised:
            getattr(there, kind)("vm1/no")
        assert raised.value.facts() == {"kind": kind.upper(), "id": "vm1/no"}


def test_a_domain_that_went_by_itself_is_lost():
    assert snapshot("running", domain=None).lost
    assert not snapshot("running").lost
    assert not snapshot("halted").lost
    assert not snapshot("suspended").lost


def test_scripts_are_run_in_the_order_of_their_names():
    there = snapshot(hooks={"vm-pre-start": ("/a", "/b")})
    assert there.scripts("vm-pre-start", "none") == [
        m.VmHook(hook="vm-pre-start", script=script, reason="none") for script in ("/a", "/b")
    ]
    assert there.scripts("vm-post-start", "none") == []


