"""Layers as directories: made whole, dropped as their owner says."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from backends.lxc.layers import Base, Layers, name
from backends.lxc.sources import Identity
from idl.errors import StorageError
from idl.vbd import Vbd

ROOT = Vbd(id="vm1/root")
TMP = Vbd(id="vm1/tmp", persistent=False)


def base(mtime=1, digest=None) -> Base:
    identity = Identity(device=1, inode=2, size=3, mtime_ns=mtime, boot="a")
    return Base(path="/base", identity=identity, digest=digest)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def layers(tmp_path, told) -> Layers:
    def bury(directory: Path, names: Sequence[str], *, lasting: bool) -> None:
        told.extend(names)
        for layer in names:
            shutil.rmtree(directory / layer)

    return Layers(tmp_path / "layers", bury)


def names(state: Path) -> list[str]:
    return sorted(str(p.relative_to(state / "layers")) for p in state.glob("layers/*/*"))


def test_they_are_named_by_what_they_last_as_long_as():
    assert name(ROOT, "i1") == "root"
    assert name(TMP, "i1") == "tmp@i1"


def test_one_is_made_once(layers, tmp_path):
    path = layers.make(ROOT, "i1", base())
    (path / "work" / "kept").touch()
    assert layers.make(ROOT, "i2", base()) == path
    assert (path / "work" / "kept").exists()
    assert path.stat().st_mode & 0o777 == 0o700


def test_what_a_crash_left_half_made_is_none(layers, tmp_path):
    partial = tmp_path / "layers" / "vm1" / ".tmp@i1.partial"
    (partial / "work").mkdir(parents=True)
    assert layers.of_incarnations("vm1") == []
    layers.make(TMP, "i1", base())
    assert names(tmp_path) == ["vm1/tmp@i1"]


def test_another_base_is_refused(layers):
    layers.make(ROOT, "i1", base())
    with pytest.raises(StorageError, match="/base is no longer that"):
        layers.make(ROOT, "i2", base(mtime=2))


def test_a_digest_says_more_than_times(layers):
    layers.make(ROOT, "i1", base(digest="d"))
    layers.make(ROOT, "i2", base(mtime=2, digest="d"))
    with pytest.raises(StorageError, match="no longer that"):
        layers.make(ROOT, "i2", base(digest="e"))


def test_those_of_incarnations_are_dropped_alone(layers, tmp_path, told):
    layers.make(ROOT, "i1", base())
    layers.make(TMP, "i1", base())
    layers.make(TMP, "i2", base())
    assert layers.of_incarnations("vm1") == ["tmp@i1", "tmp@i2"]
    layers.drop_incarnations("vm1")
    layers.drop_incarnations("vm1")
    assert names(tmp_path) == ["vm1/root"]
    assert told == ["tmp@i1", "tmp@i2"]


def test_a_vbds_are_dropped_alone(layers, tmp_path):
    layers.make(Vbd(id="vm1/tmp"), "i1", base())
    layers.make(TMP, "i1", base())
    layers.make(Vbd(id="vm1/tmp2"), "i1", base())
    layers.drop("vm1/tmp")
    assert names(tmp_path) == ["vm1/tmp2"]


def test_a_vms_are_dropped_with_its_directory(layers, tmp_path):
    layers.make(ROOT, "i1", base())
    (tmp_path / "layers" / "vm1" / ".tmp.partial" / "work").mkdir(parents=True)
    layers.make(Vbd(id="vm2/root"), "i1", base())
    layers.drop_all("vm1")
    layers.drop_all("vm1")
    assert names(tmp_path) == ["vm2/root"]
    assert not (tmp_path / "layers" / "vm1").exists()


def test_they_move(layers, tmp_path):
    layers.make(ROOT, "i1", base())
    layers.pack("vm1", tmp_path / "parcel", timeout=30)
    assert names(tmp_path) == []
    layers.unpack("vm1", tmp_path / "parcel", timeout=30)
    assert names(tmp_path) == ["vm1/root"]


def test_layers_of_another_instance_are_taken_over_as_they_are(tmp_path):
    theirs, ours = tmp_path / "theirs" / "web", tmp_path / "ours"
    theirs.mkdir(parents=True)
    (theirs / "root").mkdir()
    inode = (theirs / "root").stat().st_ino
    layers = Layers(ours, lambda *_: None)
    for _ in range(2):
        layers.adopt("new", theirs)
        assert (ours / "new" / "root").stat().st_ino == inode
    assert not theirs.exists()


def test_layers_are_not_taken_over_others(tmp_path):
    theirs, ours = tmp_path / "theirs" / "web", tmp_path / "ours"
    for directory in (theirs, ours / "new"):
        directory.mkdir(parents=True)
        (directory / "root").mkdir()
    with pytest.raises(StorageError):
        Layers(ours, lambda *_: None).adopt("new", theirs)
    assert theirs.exists()


def test_what_a_suspend_takes_is_not_dropped_with_its_incarnation(layers, tmp_path):
    layers.make(ROOT, "i1", base())
    layers.make(TMP, "i1", base())
    for _ in range(2):
        layers.suspend("vm1", "i1")
        assert names(tmp_path) == ["vm1/root", "vm1/tmp@suspended"]
    assert layers.of_incarnations("vm1") == []
    layers.drop_incarnations("vm1")
    layers.make(TMP, "i2", base(mtime=2))
    for _ in range(2):
        layers.resume("vm1", "i2")
        assert names(tmp_path) == ["vm1/root", "vm1/tmp@i2"]
    # It is the one that was suspended, not the one that the new incarnation was made with.
    assert layers.make(TMP, "i2", base()) == tmp_path / "layers/vm1/tmp@i2"


def test_what_a_suspend_left_behind_goes_when_the_vm_starts_anew(layers, tmp_path):
    layers.make(ROOT, "i1", base())
    layers.make(TMP, "i1", base())
    layers.suspend("vm1", "i1")
    for _ in range(2):
        layers.drop_suspended("vm1")
        assert names(tmp_path) == ["vm1/root"]
