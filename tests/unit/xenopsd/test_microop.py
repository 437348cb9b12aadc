"""The table of micro-ops: each named, journalled, undone, and put where it belongs."""

from typing import get_args

import msgspec
import pytest
from rigs.values import CARD0, CD, ETH0, FRESH, IMAGE, ISO, ROOT

from backends.simulator.debug import MICRO_OPS
from xenopsd import microop as m
from xenopsd.plan.plan import Plan, Segment

OTHER = msgspec.structs.replace(ISO, path="/images/other")
#: One of each, with fields that an inverse must turn round, and its inverse.
EACH = [
    (m.VmHook(hook="vm-pre-start", script="/hooks/10", reason="none"), ()),
    (m.VmDelay(seconds=1.5), ()),
    (m.VmCreate(), (m.VmDestroy(),)),
    (m.VmBuild(), ()),
    (m.VmCreateDeviceModel(), (m.VmDestroyDeviceModel(),)),
    (m.VmDestroyDeviceModel(), ()),
    (m.VmDestroy(), ()),
    (m.VmPause(), (m.VmUnpause(),)),
    (m.VmUnpause(), (m.VmPause(if_running=True),)),
    (m.VmRequestShutdown(reason="poweroff", timeout=60.0), ()),
    (m.VmAwaitShutdown(timeout=60.0, force=True), ()),
    (m.VmSave(image=IMAGE), (m.VmResumeSaved(), m.VmDropImage(image=IMAGE))),
    (m.VmResumeSaved(), ()),
    (m.VmCommitImage(image=IMAGE, plugged=[ROOT.id]), ()),
    (m.VmDropImage(image=IMAGE), ()),
    (m.VmCheckImage(image=IMAGE), ()),
    (m.VmRestore(image=IMAGE), ()),
    (m.VmSpendImage(image=IMAGE), (m.VmUnspendImage(image=IMAGE),)),
    (m.VmUnspendImage(image=IMAGE), ()),
    (m.VmCoredump(path="/state/cores/vm1.core"), ()),
    (m.VmAdopt(domain="900", vcpus=2, memory=2**29), ()),
    (m.VmPreserve(), ()),
    (m.VmSetVcpus(vcpus=3, was=2), (m.VmSetVcpus(vcpus=2, was=3),)),
    (m.VmSetMemory(target=10, was=20), (m.VmSetMemory(target=20, was=10),)),
    (
        m.VmSetXsdata(xsdata={"a": "b"}, was={"c": "d"}),
        (m.VmSetXsdata(xsdata={"c": "d"}, was={"a": "b"}),),
    ),
    (
        m.VmRecord(object=ROOT.id, changes={"mode": "ro"}, was={"mode": "rw"}),
        (m.VmRecord(object=ROOT.id, changes={"mode": "rw"}, was={"mode": "ro"}),),
    ),
    (m.VmPackLayers(parcel="/p"), (m.VmTakeLayers(parcel="/p"),)),
    (m.VmTakeLayers(parcel="/p"), ()),
    (m.VmHandOver(instance="blue", state_dir="/s"), ()),
    (m.VmRemoveLayers(vbds=[ROOT.id]), ()),
    (m.VmRemoveLayers(vbds=None), ()),
    (m.VmRemoveDevice(id=ROOT.id), ()),
    (m.VmRemoveRecord(), ()),
    (m.VbdPlug(id=ROOT.id), (m.VbdUnplug(id=ROOT.id, force=True),)),
    (m.VbdUnplug(id=ROOT.id, force=True), (m.VbdPlug(id=ROOT.id),)),
    (
        m.VbdInsert(id=CD.id, backend=ISO, was=OTHER),
        (m.VbdInsert(id=CD.id, backend=OTHER, was=ISO),),
    ),
    (m.VbdInsert(id=CD.id, backend=ISO, was=None), (m.VbdEject(id=CD.id, was=ISO),)),
    (m.VbdEject(id=CD.id, was=ISO), (m.VbdInsert(id=CD.id, backend=ISO, was=None),)),
    (m.VbdEject(id=CD.id, was=None), ()),
    (m.VifPlug(id=ETH0.id), (m.VifUnplug(id=ETH0.id, force=True),)),
    (m.VifUnplug(id=ETH0.id), (m.VifPlug(id=ETH0.id),)),
    (
        m.VifConfigure(id=ETH0.id, field="carrier", value=False, was=True),
        (m.VifConfigure(id=ETH0.id, field="carrier", value=True, was=False),),
    ),
    (m.PciPlug(id=CARD0.id), (m.PciUnplug(id=CARD0.id, force=True),)),
    (m.PciUnplug(id=CARD0.id), (m.PciPlug(id=CARD0.id),)),
]
UNION = get_args(m.MicroOp)


def test_each_micro_op_of_the_union_is_here():
    assert {type(op) for op, _ in EACH} == set(UNION)


@pytest.mark.parametrize("kind", UNION, ids=lambda kind: kind.__name__)
def test_each_has_the_tag_that_its_name_says(kind):
    words = "".join(f"_{c.lower()}" if c.isupper() else c for c in kind.__name__).strip("_")
    assert kind.__struct_config__.tag == words


def test_no_two_share_a_tag():
    tags = [kind.__struct_config__.tag for kind in UNION]
    assert len(set(tags)) == len(tags)


@pytest.mark.parametrize(("op", "back"), EACH, ids=[m.name(op) for op, _ in EACH])
def test_each_is_undone_by_its_inverse(op, back):
    assert m.inverse(op) == back


@pytest.mark.parametrize(("op", "back"), EACH, ids=[m.name(op) for op, _ in EACH])
def test_what_undoes_something_is_undone_by_it(op, back):
    """Where it goes both ways: force and tolerance apart."""
    both = (m.VmSetVcpus, m.VmSetMemory, m.VmSetXsdata, m.VmRecord, m.VifConfigure)
    if isinstance(op, both):
        assert m.inverse(back[0]) == (op,)


@pytest.mark.parametrize(("op", "_back"), EACH, ids=[m.name(op) for op, _ in EACH])
def test_each_comes_out_of_a_journal_as_it_went_in(op, _back):
    plan = Plan(segments=[Segment(steps=[op], incarnation=FRESH, finish=True)], reason="why")
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


def test_a_journal_with_a_micro_op_that_is_not_known_is_not_understood():
    plan = b'{"segments":[{"steps":[{"op":"vm_fly"}]}]}'
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(plan, type=Plan)


def test_a_journal_with_a_field_that_is_not_known_is_not_understood():
    plan = b'{"segments":[{"steps":[{"op":"vm_pause","gently":true}]}]}'
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(plan, type=Plan)


@pytest.mark.parametrize(
    ("op", "subject"),
    [
        (m.VmCreate(), "vm1"),
        (m.VbdPlug(id=ROOT.id), ROOT.id),
        (m.VifConfigure(id=ETH0.id, field="carrier", value=1, was=0), ETH0.id),
        (m.PciUnplug(id=CARD0.id), CARD0.id),
        (m.VmRemoveDevice(id=ROOT.id), ROOT.id),
        (m.VmRecord(object=ETH0.id, changes={}, was={}), ETH0.id),
        (m.VmRecord(object="vm1", changes={}, was={}), "vm1"),
    ],
    ids=lambda value: value if isinstance(value, str) else m.name(value),
)
def test_each_is_about_a_vm_or_a_device(op, subject):
    assert m.subject(op, "vm1") == subject


def test_the_subject_of_what_names_a_device_is_that_device():
    for op, _ in EACH:
        id = getattr(op, "id", None)
        if id is not None:
            assert m.subject(op, "vm1") == id


@pytest.mark.parametrize("group", ["JOBS", "DURABLE", "NEEDS_DOMAIN", "WEIGHTS"])
def test_each_group_is_of_micro_ops(group):
    assert set(getattr(m, group)) <= set(UNION)


def test_what_changes_a_record_or_an_image_is_durable():
    """Effects that outlive the host need intents that do."""
    outlive = [m.VmSave, m.VmCommitImage, m.VmDropImage, m.VmSpendImage, m.VmUnspendImage,
               m.VmRecord, m.VmRemoveDevice, m.VmRemoveRecord, m.VmRemoveLayers,
               m.VmPackLayers, m.VmTakeLayers, m.VmHandOver]
    assert set(outlive) <= set(m.DURABLE)


def test_what_can_be_done_without_a_domain_does_not_need_one():
    tolerant = {m.VmCreate, m.VmDestroy, m.VmDestroyDeviceModel, m.VbdUnplug, m.VifUnplug,
                m.PciUnplug, m.VmRequestShutdown, m.VmAwaitShutdown, m.VmDropImage,
                m.VmCommitImage, m.VmUnspendImage, m.VmRecord, m.VmRemoveRecord}
    assert not tolerant & set(m.NEEDS_DOMAIN)


def test_long_ones_weigh_more():
    assert m.WEIGHTS[m.VmSave] == m.WEIGHTS[m.VmRestore] == 10


def test_what_the_simulator_can_be_made_to_fail_is_a_micro_op():
    assert set(MICRO_OPS) <= {kind.__struct_config__.tag for kind in UNION}
