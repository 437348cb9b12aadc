"""What a follower is told of, and what a view keeps."""

from typing import Any

import pytest

from idl import view
from idl.calls import PciStat, VbdStat, VifStat, VmStat
from idl.update import Update, UpdateBatch
from idl.view import Told, View, look
from idl.vm import PowerState, VmRecord, VmState

A, B, C = (Update(type="vm", id=id) for id in "abc")
DISK = Update(type="vbd", id="a/disk0")
RECORD = VmRecord(id="a", config=None, state=VmState(power_state=PowerState.HALTED))


def gone(update: Update) -> Update:
    return Update(type=update.type, id=update.id, removed=True)


def batch(*updates: Update, resync: bool = False) -> UpdateBatch:
    return UpdateBatch(updates=list(updates), barriers=[], next="n", resync=resync)


def test_updates_are_told_as_they_come():
    assert Told().take(batch(A, gone(B))) == [A, gone(B)]


def test_a_resync_tells_first_what_is_gone():
    told = Told()
    told.take(batch(A, DISK, B))
    told.take(batch(gone(B)))
    assert told.take(batch(A, C, resync=True)) == [gone(DISK), A, C]
    assert told.take(batch(resync=True)) == [gone(A), gone(C)]
    assert told.take(batch(resync=True)) == []


def test_who_held_objects_before_is_told_that_they_are_gone():
    assert Told([("vm", "a"), ("vm", "b")]).take(batch(B, resync=True)) == [gone(A), B]


def test_old_tasks_are_forgotten(monkeypatch):
    monkeypatch.setattr(view, "TASKS", 2)
    told = Told()
    one, two, three = (Update(type="task", id=id) for id in "123")
    told.take(batch(one, A, two))
    told.take(batch(one, three))
    assert told.take(batch(resync=True)) == [gone(A), gone(one), gone(three)]


def test_a_view_keeps_what_was_found():
    kept = View()
    assert kept.put(A, RECORD) == A
    before = kept.vms
    assert kept.names() == [("vm", "a")]
    assert kept.put(A, None) == gone(A)
    assert kept.put(B, None) == gone(B)
    assert (before, kept.vms, kept.vbds, kept.vifs, kept.pcis) == ({"a": RECORD}, {}, {}, {}, {})


def test_a_view_lets_pass_what_it_does_not_keep():
    kept = View()
    update = Update(type="task", id="t")
    assert kept.put(update, None) == update
    assert kept.names() == []


@pytest.mark.parametrize(
    ("update", "call"),
    [
        pytest.param(A, VmStat(id="a"), id="a VM"),
        pytest.param(DISK, VbdStat(id="a/disk0"), id="a VBD"),
        pytest.param(Update(type="vif", id="a/n"), VifStat(id="a/n"), id="a VIF"),
        pytest.param(Update(type="pci", id="a/p"), PciStat(id="a/p"), id="a PCI device"),
        pytest.param(Update(type="task", id="t"), None, id="a task"),
        pytest.param(Update(type="host", id="host"), None, id="the host"),
        pytest.param(gone(A), None, id="what is gone"),
    ],
)
def test_what_is_asked_about_an_update(update: Update, call: Any):
    assert look(update) == call
