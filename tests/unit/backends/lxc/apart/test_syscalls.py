"""System calls that the standard library has not."""

import pytest

from backends.lxc.apart.syscalls import is_mount


def test_a_place_is_a_mount_or_not(tmp_path):
    (tmp_path / "link").symlink_to("/proc")
    assert is_mount("/")
    assert is_mount(str(tmp_path / "link"))
    assert not is_mount(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        is_mount(str(tmp_path / "none"))
