"""The configuration of a VM: what its defaults follow, and what it refuses."""

import uuid

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idl.vm import DEFAULT_MEMORY, Action, Container, Hvm, Pv, Pvh, Vm, derived_uuid

MIB = 2**20


def test_an_id_is_enough():
    vm = Vm(id="vm1")
    assert (vm.memory_static_max, vm.vcpu_max, vm.guest) == (DEFAULT_MEMORY, 1, Hvm())
    assert vm.on_reboot == [Action.START]
    assert vm.on_crash == vm.on_shutdown == [Action.SHUTDOWN]


def test_ranges_follow_the_maximum_that_is_given():
    vm = msgspec.convert({"id": "vm1", "memory_static_max": 64 * MIB, "vcpu_max": 4}, Vm)
    assert vm.memory_dynamic_max == vm.memory_dynamic_min == 64 * MIB
    assert vm.vcpus == 4


def test_what_is_given_is_kept():
    vm = Vm(id="vm1", memory_static_max=3, memory_dynamic_max=2, memory_dynamic_min=1, vcpu_max=4, vcpus=2)
    assert (vm.memory_dynamic_max, vm.memory_dynamic_min, vm.vcpus) == (2, 1, 2)


def test_nothing_is_shared_between_two():
    first, second = Vm(id="a"), Vm(id="b")
    first.on_crash.append(Action.START)
    assert second.on_crash == [Action.SHUTDOWN]


@given(st.builds(Vm, id=st.just("vm1"), vcpu_max=st.integers(1, 64), name=st.text(max_size=9)))
def test_what_is_filled_in_is_written_and_read_again(vm):
    assert msgspec.json.decode(msgspec.json.encode(vm), type=Vm) == vm


def test_a_uuid_is_the_id_if_that_is_one_else_stable():
    id = "6F9619FF-8B86-D011-B42D-00C04FC964FF"
    assert Vm(id=id).uuid == id.lower()
    assert Vm(id="vm1").uuid == derived_uuid("vm1") == Vm(id="vm1", uuid="").uuid
    assert Vm(id="vm1").uuid != Vm(id="vm2").uuid
    assert uuid.UUID(Vm(id="vm1").uuid).version == 5
    assert Vm(id="vm1", uuid=id).uuid == id


@pytest.mark.parametrize(
    ("guest", "expected"),
    [
        ({"type": "hvm", "firmware": "uefi"}, Hvm(firmware="uefi")),
        ({"type": "pv", "kernel": "/k"}, Pv(kernel="/k")),
        ({"type": "pvh", "kernel": "/k", "cmdline": "quiet"}, Pvh(kernel="/k", cmdline="quiet")),
        ({"type": "container", "environment": {"A": "b"}}, Container(environment={"A": "b"})),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_a_guest_is_told_by_its_type(guest, expected):
    assert msgspec.convert({"id": "vm1", "guest": guest}, Vm).guest == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"id": ""},
        {"nmae": "x"},
        {"memory_static_max": 0},
        {"memory_static_max": 2**62 + 1},
        {"memory_static_max": 1.5},
        {"memory_static_max": True},
        {"vcpu_max": 0},
        {"vcpu_max": 4097},
        {"uuid": "no"},
        {"guest": {"type": "qemu"}},
        {"guest": {"type": "pv"}},
        {"guest": {}},
        {"on_crash": ["explode"]},
        {"scheduler": {"weight": 65536}},
        {"scheduler": {"affinity": [[-1]]}},
        {"name": None},
        {"name": "x" * 65537},
        {"platform": {"a": []}},
    ],
    ids=lambda fields: f"{next(iter(fields.items()))}"[:40],
)
def test_what_is_no_configuration_is_refused(fields):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"id": "vm1", **fields}, Vm)
