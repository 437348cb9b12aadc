"""Records in the run directory, domain ids, ranges of ids."""

import shutil
from itertools import pairwise

import pytest
from msgspec.structs import replace
from rigs.records import container

from backends.lxc.domains import Domains
from backends.lxc.plugin import IDS
from idl.errors import AlreadyExists, HypervisorError

RECORD = container(
    id="1",
)


@pytest.fixture
def domains(tmp_path):
    return Domains(tmp_path / "run", "default", tmp_path / "machine")


def test_a_record_is_read_as_it_was_made(domains):
    assert domains.read(domains.place("web")) is None
    assert domains.create(RECORD) == RECORD
    assert domains.read(domains.place("web")) == RECORD
    assert [domains.read(place) for place in domains.places()] == [RECORD]


def test_another_incarnation_is_refused_and_the_same_one_found(domains):
    domains.create(RECORD)
    assert domains.create(replace(RECORD, id="2")) == RECORD
    with pytest.raises(AlreadyExists) as refused:
        domains.create(replace(RECORD, incarnation="i2"))
    assert refused.value.id == "1"


def test_a_change_is_of_one_incarnation(domains):
    domains.create(RECORD)
    assert domains.change("web", "i2", lambda r: replace(r, built=True)) is None
    found = domains.change("web", "i1", lambda r: replace(r, built=True))
    assert found is not None
    assert domains.read(domains.place("web")) == found
    assert domains.change("nothing", "i1", lambda r: r) is None
    assert not domains.place("nothing").path.exists()


def test_a_killed_domain_is_none_and_its_record_is_kept_for_clearing(domains):
    domains.create(RECORD)
    for _ in range(2):
        assert domains.kill("web") == RECORD
    assert domains.read(domains.place("web")) is None
    assert domains.read_dead(domains.place("web")) == RECORD
    assert domains.kill("nothing") is None


def test_an_adopted_one_stands_in_one_place(domains, tmp_path):
    theirs = Domains(tmp_path / "run", "other", tmp_path / "machine")
    theirs.create(replace(RECORD, instance="other"))
    found = domains.adopt("ours", theirs.place("web"), lambda r: replace(r, vm="ours"))
    assert found.vm == "ours"
    assert theirs.read(theirs.place("web")) is None
    assert domains.read(domains.place("ours")) == found


def test_a_damaged_record_is_no_missing_one(domains):
    domains.create(RECORD)
    domains.place("web").record.write_bytes(b"{")
    with pytest.raises(HypervisorError):
        domains.read(domains.place("web"))
    assert domains.kill("web") is None
    assert not domains.place("web").record.exists()


def test_what_is_no_instance_s_is_no_place(domains):
    domains.create(RECORD)
    (domains.root / "stray").touch()
    assert list(domains.places()) == [domains.place("web")]


def test_no_domain_id_is_given_twice(domains, tmp_path):
    found = [
        domains.allot_domain_id(),
        Domains(tmp_path / "run", "other", tmp_path / "machine").allot_domain_id(),
    ]
    assert found == ["1", "2"]


def test_ranges_of_ids_are_disjoint_and_one_mark_has_one(domains):
    first = domains.allot_ids("xenopsd default a i1", 1_000_000)
    second = domains.allot_ids("xenopsd default b i1", 1_000_000)
    assert abs(first - second) >= IDS
    assert domains.allot_ids("xenopsd default a i1", 1_000_000) == first


def test_a_range_that_was_given_back_is_given_away_again(domains):
    first = domains.allot_ids("xenopsd default a i1", 1_000_000)
    domains.allot_ids("xenopsd default ab i1", 1_000_000)
    (given,) = domains.ranges("xenopsd default a ")
    given.unlink()
    assert domains.ranges("xenopsd default a ") == []
    assert domains.allot_ids("xenopsd default c i1", 1_000_000) == first


@pytest.mark.parametrize("first", [1 << 20, (1 << 20) + 1, (1 << 20) - IDS])
def test_two_run_directories_of_a_machine_share_no_range(domains, tmp_path, first):
    ours = [domains.allot_ids(f"xenopsd default {vm} i1", 1 << 20) for vm in "ab"]
    beside = Domains(tmp_path / "beside", "default", tmp_path / "machine")
    theirs = [beside.allot_ids(f"xenopsd default {vm} i1", first) for vm in "abc"]
    starts = sorted([*ours, *theirs])
    assert all(b - a >= IDS for a, b in pairwise(starts))


def test_what_a_run_directory_had_that_is_gone_is_free(domains, tmp_path):
    first = domains.allot_ids("xenopsd default a i1", 1 << 20)
    beside = Domains(tmp_path / "beside", "default", tmp_path / "machine")
    shutil.rmtree(tmp_path / "run")
    assert beside.allot_ids("xenopsd default b i1", 1 << 20) == first


def test_after_a_boot_of_the_host_no_domain_is_left(domains):
    domains.begin("boot-1")
    domains.create(RECORD)
    domains.begin("boot-1")
    assert domains.read(domains.place("web")) == RECORD
    for _ in range(2):
        domains.begin("boot-2")
        assert domains.read(domains.place("web")) is None
        assert domains.read_dead(domains.place("web")) == RECORD
