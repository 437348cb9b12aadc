"""Which of a host's instances has which VM, and what a crash leaves of that."""

from pathlib import Path

import pytest

from idl.errors import OwnedByAnother
from xenopsd.claims import Claims


def claims(tmp_path: Path, name: str, *vms: str) -> Claims:
    for vm in vms:
        (tmp_path / name / "vm" / vm).mkdir(parents=True)
    return Claims(tmp_path / "run", name, tmp_path / name)


def owners(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "run" / "owners").iterdir()}


def test_of_two_instances_one_has_a_vm(tmp_path):
    claims(tmp_path, "one", "a").take("a")
    with pytest.raises(OwnedByAnother, match="one"):
        claims(tmp_path, "two").take("a")


def test_a_claim_is_void_when_its_store_has_the_vm_no_more(tmp_path):
    claims(tmp_path, "one").take("a")
    claims(tmp_path, "two").take("a")
    claims(tmp_path, "two", "a").take("a")


def test_only_what_is_mine_is_given_back(tmp_path):
    claims(tmp_path, "one", "a").take("a")
    claims(tmp_path, "two").give("a")
    assert owners(tmp_path) == {"a"}
    claims(tmp_path, "one").give("a")
    assert owners(tmp_path) == set()


def test_a_start_keeps_what_it_has_and_says_who_has_the_rest(tmp_path):
    claims(tmp_path, "one", "a").take("a")
    assert claims(tmp_path, "two").keep(["a", "b"]) == {"a": "one"}
    assert owners(tmp_path) == {"a", "b"}


def test_a_start_removes_what_a_crash_has_left_of_its_own(tmp_path):
    first = claims(tmp_path, "one", "a")
    for vm in ("a", "cut before its record"):
        first.take(vm)
    claims(tmp_path, "two", "b").take("b")
    directory = tmp_path / "run" / "owners"
    whole = (directory / "a").read_bytes()
    (directory / ".c.7.one").write_bytes(whole)
    (directory / ".d.7.one").write_bytes(whole[:9])
    (directory / ".e.7.two").write_bytes(b"{")
    first.keep(["a"])
    assert owners(tmp_path) == {"a", "b", ".e.7.two"}


def test_what_is_claimed_already_needs_no_room(tmp_path, monkeypatch):
    mine = claims(tmp_path, "one", "a")
    mine.take("a")
    monkeypatch.setattr(Path, "write_bytes", None)
    assert mine.keep(["a"]) == {}
