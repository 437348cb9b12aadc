"""What is thrown away is gone at once, and deleted by and by."""

from pathlib import Path

import pytest

from backends.lxc.tombstones import Tombstones


class Deletion:
    """A job of the spawner's, which ends when it is told to."""

    ended = False

    def done(self) -> bool:
        return self.ended

    def __exit__(self, *_: object) -> None:
        self.ended = True


class Deletions:
    """A spawner that begins them, and knows who has not been forgotten."""

    def __init__(self) -> None:
        self.begun: list[Deletion] = []
        self.forgotten: list[Deletion] = []

    def start(self, job: str, *, owner: str, directory: str) -> Deletion:
        assert (job, owner) == ("remove_trees", directory)
        self.begun.append(Deletion())
        return self.begun[-1]

    def forget(self, owner: str, job: Deletion) -> None:
        self.forgotten.append(job)


@pytest.fixture
def spawner() -> Deletions:
    return Deletions()


@pytest.fixture
def tombstones(tmp_path, spawner) -> Tombstones:
    return Tombstones(tmp_path / "tombstones", spawner)


def bury(tombstones: Tombstones, tmp_path: Path, *names: str) -> None:
    for name in names:
        (tmp_path / "dir" / name).mkdir(parents=True)
    tombstones.bury(tmp_path / "dir", names, lasting=True)


def test_what_is_buried_is_gone_from_its_place(tombstones, tmp_path, spawner):
    bury(tombstones, tmp_path, "a", "b")
    bury(tombstones, tmp_path, "a")
    assert list((tmp_path / "dir").iterdir()) == []
    assert len(list((tmp_path / "tombstones").iterdir())) == 3
    assert (tmp_path / "tombstones").stat().st_mode & 0o777 == 0o700
    assert len(spawner.begun) == 2


def test_nothing_is_deleted_for_nothing(tombstones, tmp_path, spawner):
    (tmp_path / "dir").mkdir()
    bury(tombstones, tmp_path)
    assert spawner.begun == []


def test_one_deletion_goes_on_and_one_waits(tombstones, spawner):
    for _ in range(5):
        tombstones.clear()
    assert len(spawner.begun) == 2
    spawner.begun[0].ended = True
    tombstones.clear()
    assert len(spawner.begun) == 3
    assert spawner.forgotten == spawner.begun[:1]


def test_closing_breaks_it_off(tombstones, spawner):
    tombstones.clear()
    tombstones.close()
    assert spawner.begun[0].ended
    assert spawner.forgotten == spawner.begun
