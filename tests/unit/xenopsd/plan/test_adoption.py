"""Adoption: which domain may come under which record, and the exact plan."""

import pytest
from rigs.values import FRESH, META, OLD, domain, snapshot

from idl.errors import BadPowerState, InvalidParameter
from idl.metadata import Metadata
from xenopsd import microop as m
from xenopsd.plan.adoption import adopted
from xenopsd.plan.plan import Plan, Segment


def stranger(**fields):
    return domain(**{"id": "900", "vm": None, "instance": None, "incarnation": None} | fields)


def test_a_stranger_gets_a_fresh_incarnation_and_is_never_given_back():
    found = stranger(vcpus=2, memory_limit=2**30)
    step = m.VmAdopt(domain="900", vcpus=2, memory=2**30)
    segment = Segment(steps=[step], incarnation=FRESH, finish=True)
    expected = Plan(segments=[segment], reason="adopted")
    assert adopted(snapshot("halted"), found, doubted=False) == expected


def test_what_bears_an_incarnation_keeps_it():
    plan = adopted(snapshot("halted"), stranger(incarnation="theirs"), doubted=False)
    assert plan.segments[0].incarnation == "theirs"


@pytest.mark.parametrize("state", ["running", "paused", "suspended"])
def test_a_vm_that_is_not_halted_adopts_nothing(state):
    with pytest.raises(BadPowerState) as raised:
        adopted(snapshot(state), stranger(), doubted=False)
    assert (raised.value.actual, raised.value.expected) == (state, ["halted"])


def test_a_vm_in_doubt_adopts_its_own_domain():
    there = snapshot("running")
    with pytest.raises(BadPowerState):
        adopted(there, there.domain, doubted=False)
    plan = adopted(there, there.domain, doubted=True)
    assert plan.segments[0].incarnation == OLD


def test_what_has_stopped_is_not_adopted():
    with pytest.raises(InvalidParameter, match="900"):
        adopted(snapshot("halted"), stranger(stopped="crash"), doubted=False)


def test_a_device_without_a_record_is_named():
    bare = snapshot("halted", meta=Metadata(vm=META.vm))
    with pytest.raises(InvalidParameter, match="VBD base, cd, data, root"):
        adopted(bare, stranger(), doubted=False)
