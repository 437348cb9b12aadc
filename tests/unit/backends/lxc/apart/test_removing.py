"""Trees that are deleted."""

from backends.lxc.apart.removing import remove_trees


def test_all_of_it_goes_but_the_directory(tmp_path):
    for name in ("a/work/work", "b"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "b" / "link").symlink_to("/etc")
    (tmp_path / "a" / "work" / "work" / "file").touch()
    remove_trees(directory=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_fine(tmp_path):
    remove_trees(directory=str(tmp_path / "none"))
