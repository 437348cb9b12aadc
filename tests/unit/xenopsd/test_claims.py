"""Which of a host's instances has which VM, and what a crash leaves of that."""

import errno
import fcntl
import json
import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from idl.errors import OwnedByAnother, StorageError
from xenopsd.claims import Claims


def claims(tmp_path: Path, name: str, *vms: str, patience: float = 30.0) -> Claims:
    """An instance that has a record of each of these VMs."""
    for vm in vms:
        record(tmp_path, name, vm)
    return Claims(tmp_path / "run", name, tmp_path / name, patience=patience)


def record(tmp_path: Path, name: str, vm: str) -> None:
    directory = tmp_path / name / "vm" / vm
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text("{}")


def take(owner: Claims, vm: str, *, offered: bool = False) -> None:
    with owner.taking(vm, offered=offered):
        pass


def owners(tmp_path: Path) -> dict[str, str]:
    """Who each claim names first."""
    directory = tmp_path / "run" / "owners"
    return {path.name: json.loads(path.read_text())["instance"] for path in directory.iterdir()}


def test_of_two_instances_one_has_a_vm(tmp_path):
    take(claims(tmp_path, "one", "a"), "a")
    with pytest.raises(OwnedByAnother, match="one"):
        take(claims(tmp_path, "two"), "a")


def test_a_claim_is_void_when_its_store_has_the_vm_no_more(tmp_path):
    take(claims(tmp_path, "one"), "a")
    take(claims(tmp_path, "two"), "a")
    assert owners(tmp_path) == {"a": "two"}


def test_an_addition_cut_before_its_record_leaves_no_owner(tmp_path):
    """The directory was made, and at most a temporary file in it."""
    for vm, left in (("a", None), ("b", ".config.json.tmp")):
        take(claims(tmp_path, "one"), vm)
        directory = tmp_path / "one" / "vm" / vm
        directory.mkdir(parents=True)
        if left:
            (directory / left).write_text("{")
        take(claims(tmp_path, "two"), vm)
    assert owners(tmp_path) == {"a": "two", "b": "two"}


def test_only_what_is_mine_and_gone_is_given_back(tmp_path):
    one = claims(tmp_path, "one")
    take(one, "a")
    claims(tmp_path, "two").give("a")
    assert owners(tmp_path) == {"a": "one"}
    record(tmp_path, "one", "a")
    one.give("a")
    assert owners(tmp_path) == {"a": "one"}, "its record is there"
    (tmp_path / "one" / "vm" / "a" / "config.json").unlink()
    one.give("a")
    assert owners(tmp_path) == {}


def test_a_record_that_cannot_be_written_leaves_no_claim(tmp_path):
    one = claims(tmp_path, "one")
    with suppress(ZeroDivisionError), one.taking("a"):
        raise ZeroDivisionError
    assert owners(tmp_path) == {}


def test_a_claim_whose_record_is_being_written_is_not_void(tmp_path):
    one, two = claims(tmp_path, "one"), claims(tmp_path, "two")
    refused: list[str] = []

    def contend() -> None:
        try:
            take(two, "a")
        except OwnedByAnother as error:
            refused.append(error.instance)

    with one.taking("a"):
        contender = threading.Thread(target=contend)
        contender.start()
        # It finds a claim without a record, and waits.
        contender.join(0.1)
        assert contender.is_alive()
        record(tmp_path, "one", "a")
    contender.join(30)
    assert refused == ["one"]


def test_a_claim_that_stays_locked_is_told(tmp_path):
    two = claims(tmp_path, "two", patience=0.0)
    with (
        claims(tmp_path, "one").taking("a"),
        pytest.raises(StorageError, match="another instance has it locked; try again"),
    ):
        take(two, "a")


def test_a_start_keeps_what_it_has_and_says_who_has_the_rest(tmp_path):
    take(claims(tmp_path, "one", "a"), "a")
    contested = claims(tmp_path, "two", "a", "b").keep(["a", "b"])
    assert contested == {"a": "the instance one of this host claims it too"}
    assert owners(tmp_path) == {"a": "one", "b": "two"}


def test_a_start_that_cannot_claim_says_why(tmp_path):
    one = claims(tmp_path, "one", "a")
    (tmp_path / "run").write_text("no directory")
    assert one.keep(["a"])["a"].startswith("it cannot be claimed: ")


def test_a_start_removes_what_a_crash_has_left_of_its_own(tmp_path):
    first = claims(tmp_path, "one", "a")
    for vm in ("a", "cut before its record"):
        take(first, vm)
    take(claims(tmp_path, "two", "b"), "b")
    directory = tmp_path / "run" / "owners"
    (directory / ".c~one").write_bytes(b'{"inst')
    (directory / ".e~two").write_bytes(b"{}")
    (directory / ".f~x.one").write_bytes(b"{}")
    first.keep(["a"])
    assert {path.name for path in directory.iterdir()} == {"a", "b", ".e~two", ".f~x.one"}


def test_what_is_claimed_already_needs_no_room(tmp_path, monkeypatch):
    mine = claims(tmp_path, "one", "a")
    take(mine, "a")
    monkeypatch.setattr(fcntl, "flock", None)
    assert mine.keep(["a"]) == {}


# Changing hands


@pytest.fixture
def pair(tmp_path) -> tuple[Claims, Claims]:
    """`a` is at the first, and offered to the second."""
    one, two = claims(tmp_path, "one", "a"), claims(tmp_path, "two")
    take(one, "a")
    one.offer("a", two.me)
    return one, two


def test_until_its_record_is_there_what_is_offered_stays_where_it_was(pair):
    one, two = pair
    one.confirm("a")
    with pytest.raises(OwnedByAnother, match="one"):
        take(two, "a")
    assert one.keep(["a"]) == {}
    assert two.keep([]) == {}
    one.confirm("a")


def test_what_is_offered_is_taken_with_the_record(pair, tmp_path):
    one, two = pair
    with two.taking("a", offered=True):
        record(tmp_path, "two", "a")
    two.confirm("a")
    with pytest.raises(OwnedByAnother, match="two"):
        one.confirm("a")
    assert one.settle("a", two.me)
    assert owners(tmp_path) == {"a": "two"}
    two.confirm("a")


def test_what_was_taken_and_handed_on_was_taken(pair, tmp_path):
    one, two = pair
    with two.taking("a", offered=True):
        record(tmp_path, "two", "a")
    assert owners(tmp_path) == {"a": "two"}
    three = claims(tmp_path, "three")
    two.offer("a", three.me)
    with three.taking("a", offered=True):
        record(tmp_path, "three", "a")
    assert two.settle("a", three.me)
    (tmp_path / "two" / "vm" / "a" / "config.json").unlink()
    assert one.gone("a", two.me)
    assert one.settle("a", two.me)
    assert owners(tmp_path) == {"a": "three"}


def test_what_was_taken_and_removed_there_does_not_come_back(pair, tmp_path):
    one, two = pair
    with two.taking("a", offered=True):
        record(tmp_path, "two", "a")
    (tmp_path / "two" / "vm" / "a" / "config.json").unlink()
    two.give("a")
    assert one.settle("a", two.me, told=True)
    assert owners(tmp_path) == {}


def test_a_record_without_room_for_its_claim_counts(pair, tmp_path, monkeypatch):
    one, two = pair
    replaced = Path.replace
    with two.taking("a", offered=True):
        record(tmp_path, "two", "a")
        monkeypatch.setattr(Path, "replace", full)
    assert one.settle("a", two.me)
    monkeypatch.setattr(Path, "replace", replaced)
    two.confirm("a")
    with pytest.raises(OwnedByAnother, match="two"):
        one.confirm("a")


def full(_path: Path, _target: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_third_takes_nothing_that_is_offered(pair, tmp_path):
    with pytest.raises(OwnedByAnother, match="one"):
        take(claims(tmp_path, "three"), "a", offered=True)


def test_an_offer_that_is_taken_back_cannot_be_taken(pair, tmp_path):
    one, two = pair
    assert not one.settle("a", two.me)
    assert owners(tmp_path) == {"a": "one"}
    with pytest.raises(OwnedByAnother, match="one"):
        take(two, "a", offered=True)


def test_a_taking_that_fails_leaves_the_offer(pair, tmp_path):
    one, two = pair
    with suppress(ZeroDivisionError), two.taking("a", offered=True):
        raise ZeroDivisionError
    one.confirm("a")
    take(two, "a", offered=True)


def test_taking_back_waits_for_who_is_taking(pair, tmp_path):
    one, two = pair
    taken: list[bool] = []
    with two.taking("a", offered=True):
        settling = threading.Thread(target=lambda: taken.append(one.settle("a", two.me)))
        settling.start()
        settling.join(0.1)
        assert settling.is_alive()
        record(tmp_path, "two", "a")
    settling.join(30)
    assert taken == [True]


def test_who_was_stopped_in_the_middle_of_taking_does_not_run_it(tmp_path):
    one, two = claims(tmp_path, "one", "a", patience=0.0), claims(tmp_path, "two")
    take(one, "a")
    one.offer("a", two.me)
    with two.taking("a", offered=True):
        assert not one.settle("a", two.me)
        record(tmp_path, "two", "a")
    one.confirm("a")
    with pytest.raises(OwnedByAnother, match="one"):
        two.confirm("a")


def test_after_a_loss_of_all_claims_the_first_to_settle_decides_nothing_wrong(pair, tmp_path):
    one, two = pair
    with two.taking("a", offered=True):
        record(tmp_path, "two", "a")
    (tmp_path / "run" / "owners" / "a").unlink()
    one.confirm("a")
    assert one.settle("a", two.me), "its journal says that it was being handed over"
    two.confirm("a")
    assert owners(tmp_path) == {"a": "two"}


def test_an_offer_that_nobody_has_any_more_is_void(pair, tmp_path):
    _one, two = pair
    (tmp_path / "one" / "vm" / "a" / "config.json").unlink()
    (tmp_path / "one" / "vm" / "a").rmdir()
    two.keep([])
    assert owners(tmp_path) == {}


# Damage


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"\xff\xfe"),
    "no text": lambda path: path.write_bytes(b'{"instance":"\xff","state_dir":"x"}'),
    "bottomless": lambda path: path.write_bytes(b'{"x":' + b"[" * 200_000),
    "a link to garbage": lambda path: path.symlink_to("/etc/passwd"),
    "a link to nothing": lambda path: path.symlink_to("/nonexistent/claim"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a directory": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_claim_is_void_and_what_is_no_file_is_told(tmp_path, damage):
    one = claims(tmp_path, "one", "a", "b")
    (tmp_path / "run" / "owners").mkdir(parents=True)
    path = tmp_path / "run" / "owners" / "a"
    DAMAGES[damage](path)
    contested = one.keep(["a", "b"])
    if path.is_file() and not path.is_symlink():
        assert contested == {}
        assert owners(tmp_path) == {"a": "one", "b": "one"}
        return
    assert list(contested) == ["a"]
    assert contested["a"].startswith("it cannot be claimed: ")
    one.give("a")
    with pytest.raises(StorageError):
        one.settle("a", claims(tmp_path, "two").me)
    assert path.lstat(), "an administrator looks at it"


def test_what_is_no_file_does_not_keep_a_start_from_tidying(tmp_path):
    one = claims(tmp_path, "one")
    take(one, "gone")
    for name in ("a", "z"):
        (tmp_path / "run" / "owners" / name).mkdir()
    one.keep([])
    assert not (tmp_path / "run" / "owners" / "gone").exists()


@pytest.mark.parametrize("give", ["give", "keep"])
def test_a_claim_that_is_let_go_is_not_taken_from_who_has_it_next(tmp_path, monkeypatch, give):
    one, two = claims(tmp_path, "one"), claims(tmp_path, "two")
    take(one, "a")
    unlink = Path.unlink

    def late(path: Path, **options: bool) -> None:
        monkeypatch.setattr(Path, "unlink", unlink)
        with suppress(StorageError):
            take(claims(tmp_path, "two", patience=0.0), "a")
            record(tmp_path, "two", "a")
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", late)
    one.give("a") if give == "give" else one.keep([])
    monkeypatch.undo()
    # Either it came too early, or it has it.
    assert (owners(tmp_path) == {"a": "two"}) == two.me.has_recorded("a")


def test_a_claim_that_a_crash_has_left_under_two_names_stays_whole(pair, tmp_path):
    one, two = pair
    path = tmp_path / "run" / "owners" / "a"
    path.with_name(".a~one").hardlink_to(path)
    assert not one.settle("a", two.me)
    assert owners(tmp_path) == {"a": "one"}
