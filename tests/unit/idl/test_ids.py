"""Identifiers: what they may be made of."""

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idl.ids import DeviceId, TaskId, VmId, name_of, vm_of


def accepted(kind, text):
    try:
        msgspec.convert(text, kind)
    except msgspec.ValidationError:
        return False
    return True


@pytest.mark.parametrize("id", ["a", "A9._-z", "_x", "0", "x" * 64, "a.b-c_d"])
def test_what_is_an_id_of_a_vm(id):
    assert accepted(VmId, id)
    assert accepted(DeviceId, f"{id}/{id}")


@pytest.mark.parametrize(
    "id", ["", ".a", "-a", "x" * 65, "a b", "a/b", "ä", "a\n", "a\n\n", "../x", "a\0", " a"]
)
def test_what_is_none(id):
    assert not accepted(VmId, id)
    assert not accepted(DeviceId, f"vm1/{id}")
    assert not accepted(DeviceId, f"{id}/disk")


@pytest.mark.parametrize("id", ["vm1", "vm1/", "/disk", "vm1//disk", "vm1/disk/more"])
def test_what_is_no_id_of_a_device(id):
    assert not accepted(DeviceId, id)


@pytest.mark.parametrize(("id", "good"), [("-t", True), (".t", True), ("x" * 65, False), ("", False), ("a\n", False)])
def test_what_a_client_may_call_its_task(id, good):
    assert accepted(TaskId, id) is good


@given(st.text(max_size=70))
def test_an_id_is_safe_as_a_file_name(text):
    if accepted(VmId, text):
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", text)
        assert text not in (".", "..")


@given(st.from_regex(r"\A[a-z]{1,8}/[a-z.]{1,8}\Z"))
def test_a_device_is_its_vm_and_its_name(id):
    assert f"{vm_of(id)}/{name_of(id)}" == id
