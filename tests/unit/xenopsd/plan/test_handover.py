"""The plans by which a VM goes from one instance to another."""

from dataclasses import replace

import msgspec
import pytest
from rigs.values import META, snapshot

from idl.errors import BadPowerState
from xenopsd import microop as m
from xenopsd.plan import handover
from xenopsd.plan.plan import Plan, Segment


def released(seen):
    return handover.released(seen, instance="blue", state_dir="/blue")


def test_its_layers_go_then_its_record_then_ours():
    plan = released(snapshot("halted"))
    parcel = f"/blue/incoming/{META.vm.id}"
    give, drop = plan.segments
    assert give.steps == [
        m.VmPackLayers(parcel=parcel),
        m.VmHandOver(instance="blue", state_dir="/blue"),
    ]
    assert not give.finish, "until it is handed over all can be taken back"
    assert drop == Segment(finish=True, steps=[m.VmRemoveRecord()])


def test_a_vm_that_runs_is_not_handed_over():
    with pytest.raises(BadPowerState, match="needs it halted"):
        released(snapshot("running"))


def test_what_a_lost_domain_has_left_goes_first():
    halted = snapshot("halted")
    seen = replace(halted, extra=msgspec.structs.replace(halted.extra, incarnation="lost"))
    first = released(seen).segments[0]
    assert first.finish
    assert first.steps == [m.VmDestroy()]


def test_layers_in_their_parcel_come_first_and_may_fail():
    start = Plan(segments=[Segment(steps=[m.VmCreate()])], reason="started")
    plan = handover.unpacked(start, "/blue/incoming/a")
    assert plan.reason == "started"
    take, rest = plan.segments
    assert take.steps == [m.VmTakeLayers(parcel="/blue/incoming/a")]
    assert not take.finish
    assert rest == start.segments[0]


def test_only_a_release_hands_over():
    assert handover.hands_over(released(snapshot("halted")))
    assert not handover.hands_over(Plan(segments=[Segment(steps=[m.VmRemoveRecord()])]))
