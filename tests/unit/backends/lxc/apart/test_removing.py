"""Trees that are deleted."""

import os
from pathlib import Path

import pytest

from backends.lxc.apart.descent import descend
from backends.lxc.apart.removing import remove_trees


def _deep(top: Path, depth: int = 1200, name: str = "deep" * 4) -> None:
    """A directory deeper than calls of functions may be, and than any path."""
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


def test_all_of_it_goes_but_the_directory(tmp_path):
    for name in ("a/work/work", "b"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "b" / "link").symlink_to("/etc")
    (tmp_path / "a" / "work" / "work" / "file").touch()
    remove_trees(directory=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_fine(tmp_path):
    remove_trees(directory=str(tmp_path / "none"))


def test_a_tree_may_be_deeper_than_any_path(tmp_path):
    _deep(tmp_path / "deep")
    remove_trees(directory=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_one_that_cannot_be_deleted_keeps_none_of_the_others(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / name / "below").mkdir(parents=True)
    rmdir = os.rmdir

    def refused(path, *, dir_fd=None):
        if str(path).endswith("/b"):
            raise PermissionError(1, "Operation not permitted")
        rmdir(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", refused)
    with pytest.raises(PermissionError):
        remove_trees(directory=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_one_that_is_moved_meanwhile_leads_nowhere_else(tmp_path):
    """A guest that still has a layer open may rename in it."""
    top = tmp_path / "layer"
    (top / "a" / "b" / "c").mkdir(parents=True)
    visits = descend(str(top))
    while next(visits).depth < 3:
        pass
    (top / "a" / "b" / "c").rename(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="was moved"):
        next(visits)
    assert (tmp_path / "elsewhere").is_dir()
