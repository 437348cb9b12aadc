"""What an unpacked image is called, and when nobody has it any more."""

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from backends.lxc.images import Images, Record, key
from backends.lxc.layers import Base
from backends.lxc.sources import Identity, identity

IDENTITY = Identity(device=1, inode=2, size=3, mtime_ns=4, boot="a")


@pytest.mark.parametrize("field", ["device", "inode", "size", "mtime_ns"])
def test_another_file_is_another_image(field):
    assert key(replace(IDENTITY, **{field: 9}), devices=False) != key(IDENTITY, devices=False)


def test_a_boot_makes_no_difference_and_devices_do():
    assert key(replace(IDENTITY, boot="b"), devices=False) == key(IDENTITY, devices=False)
    assert key(IDENTITY, devices=True) == f"{key(IDENTITY, devices=False)}-devices"


@pytest.fixture
def archive(tmp_path) -> Path:
    path = tmp_path / "archive"
    path.write_text("content")
    return path


@pytest.fixture
def image(tmp_path, archive) -> str:
    """One that was unpacked from the archive."""
    found = identity(archive.stat())
    name = key(found, devices=True)
    (tmp_path / "images" / name).mkdir(parents=True)
    record = Record(path=str(archive), identity=found, digest="d")
    (tmp_path / "images" / name / "image.json").write_bytes(msgspec.json.encode(record))
    (tmp_path / "images" / ".other.partial").mkdir()
    return name


def unused(tmp_path, *bases: Base, mounted=()) -> list[str]:
    return Images(tmp_path / "images", None).unused(bases, mounted)


def test_an_image_is_kept_while_its_archive_is_there(tmp_path, archive, image):
    assert unused(tmp_path) == []
    archive.write_text("another")
    assert unused(tmp_path) == [image]
    archive.unlink()
    assert unused(tmp_path) == [image]


def test_an_image_is_kept_while_it_is_used(tmp_path, archive, image):
    old = identity(archive.stat())
    archive.unlink()
    assert unused(tmp_path, Base(path="/x", identity=IDENTITY, digest="d")) == []
    assert unused(tmp_path, Base(path="/x", identity=old)) == []
    assert unused(tmp_path, mounted=[f"/state/images/{image}/root"]) == []
    other = Base(path=str(archive), identity=IDENTITY, digest="e")
    assert unused(tmp_path, other, mounted=["/state/images/other/root"]) == [image]


def test_there_need_not_be_any(tmp_path):
    assert unused(tmp_path) == []
