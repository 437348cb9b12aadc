"""A directory that moves, also between file systems, and also when a crash cuts that."""

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest

from backends import parcel
from idl.errors import StorageError


@pytest.fixture(params=["one file system", "two"])
def kind(request, monkeypatch) -> str:
    """With two, what would cross from `a` to `b` by a rename does not."""
    if request.param == "two":
        rename = Path.rename

        def crossing(self: Path, target: Path) -> Path:
            if {"a", "b"} <= {*self.parts, *Path(target).parts}:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", crossing)
    return str(request.param)


@pytest.fixture
def places(tmp_path, kind) -> tuple[Path, Path]:
    source = tmp_path / "a" / "vm"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "file").write_text("content")
    (source / "link").symlink_to("sub/file")
    return source, tmp_path / "b" / "incoming" / "vm"


def names(directory: Path) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*"))


def holds(source: Path, target: Path) -> None:
    """All of it is at the target, and nothing else anywhere."""
    assert (target / "sub" / "file").read_text() == "content"
    assert names(target) == ["link", "sub", "sub/file"]
    assert names(target.parent) == ["vm", *(f"vm/{name}" for name in names(target))]
    assert names(source.parent) == []


def test_it_is_moved(places):
    parcel.move(*places, timeout=60)
    holds(*places)


def test_moving_again_is_nothing(places):
    parcel.move(*places, timeout=60)
    parcel.move(*places, timeout=60)
    holds(*places)


def test_nothing_to_move_is_nothing(tmp_path):
    parcel.move(tmp_path / "none", tmp_path / "target", timeout=60)
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_before_goes(places):
    source, target = places
    target.mkdir(parents=True)
    (target / "stale").write_text("old")
    parcel.move(source, target, timeout=60)
    holds(source, target)


@pytest.mark.parametrize("step", ["_copy", "sync", "_remove"])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_cut_anywhere_it_is_carried_on(places, monkeypatch, step, times):
    source, target = places
    done = getattr(parcel, step)
    left = [times]

    def cut(*arguments: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        done(*arguments)

    monkeypatch.setattr(parcel, step, cut)
    try:
        parcel.move(source, target, timeout=60)
    except KeyboardInterrupt:
        assert parcel.waits(source) or not names(source.parent), "else it would be forgotten"
        whole = [p for p in (source, source.with_name(".vm.gone")) if p.exists()]
        assert whole or names(target), "nothing of it is lost"
    monkeypatch.setattr(parcel, step, done)
    parcel.move(source, target, timeout=60)
    holds(source, target)
    assert not parcel.waits(source)


@pytest.mark.parametrize("step", ["_copy", "sync", "_remove"])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_cut_anywhere_it_is_taken_back(places, monkeypatch, step, times):
    source, target = places
    done = getattr(parcel, step)
    left = [times]

    def cut(*arguments: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        done(*arguments)

    monkeypatch.setattr(parcel, step, cut)
    with suppress(OSError):
        parcel.move(source, target, timeout=60)
    monkeypatch.setattr(parcel, step, done)
    parcel.move(target, source, timeout=60)
    holds(target, source)
    parcel.move(source, target, timeout=60)
    holds(source, target)


def test_a_copy_that_fails_gives_back_the_room(places, kind, monkeypatch):
    if kind == "one file system":
        return
    source, target = places

    def full(_source: Path, partial: Path, _timeout: float) -> None:
        partial.mkdir()
        (partial / "much").write_text("much")
        raise StorageError(plugin="layers", reason="No space left on device")

    monkeypatch.setattr(parcel, "_copy", full)
    with pytest.raises(StorageError):
        parcel.move(source, target, timeout=60)
    assert names(target.parent) == []


def test_a_copy_that_fails_leaves_the_source(places, kind, monkeypatch):
    if kind == "one file system":
        return
    source, target = places
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises((StorageError, OSError)):
        parcel.move(source, target, timeout=60)
    monkeypatch.undo()
    assert names(source) == ["link", "sub", "sub/file"]


def test_a_copy_past_its_time_is_told(places, kind):
    if kind == "one file system":
        return
    with pytest.raises(StorageError, match="timed out"):
        parcel.move(*places, timeout=0.0)
    assert names(places[0]) == ["link", "sub", "sub/file"]
