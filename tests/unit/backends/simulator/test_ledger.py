import errno
import os

import pytest

from backends.simulator.ledger import Ledger


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "default")
    yield ledger
    ledger.close()


def test_what_is_entered_twice_is_there_once_and_leaves(ledger):
    ledger.enter("vbd", "vm1/disk", "i1")
    ledger.enter("vbd", "vm1/disk", "i1")
    assert ledger.of("vm1") == ["vbd:disk@i1"]
    ledger.leave("vbd", "vm1/disk", "i1")
    ledger.leave("vbd", "vm1/disk", "i1")
    assert ledger.of("vm1") == []


def test_kinds_and_incarnations_are_told_apart(ledger):
    ledger.enter("vbd", "vm1/0", "i1")
    ledger.enter("vif", "vm1/0", "i1")
    ledger.enter("vif", "vm1/0", "i2")
    ledger.leave("vif", "vm1/0", "i1")
    assert sorted(ledger.of("vm1")) == ["vbd:0@i1", "vif:0@i2"]


def test_clearing_a_vm_leaves_the_others(ledger):
    ledger.enter("vbd", "vm1/disk", "i1")
    ledger.enter("vbd", "vm2/disk", "i1")
    ledger.clear("vm1")
    assert ledger.of("vm1") == []
    assert ledger.of("vm2") == ["vbd:disk@i1"]


def test_a_directory_goes_only_when_nothing_is_in_it(ledger, tmp_path):
    ledger.enter("vbd", "vm1/disk", "i1")
    ledger.forget("vm1")
    assert ledger.of("vm1") == ["vbd:disk@i1"]
    ledger.clear("vm1")
    ledger.forget("vm1")
    ledger.forget("vm1")
    assert not (tmp_path / "default" / "vm1").exists()


def test_beyond_the_limit_of_links_entries_are_files(ledger, monkeypatch):
    def refused(*args, **kwargs):
        raise OSError(errno.EMLINK, "Too many links")

    ledger.enter("vbd", "vm1/one", "i1")
    monkeypatch.setattr(os, "link", refused)
    ledger.enter("vbd", "vm1/two", "i1")
    assert sorted(ledger.of("vm1")) == ["vbd:one@i1", "vbd:two@i1"]
