"""File systems by what they begin with."""

import pytest

from backends.lxc.apart.looping import file_system


@pytest.mark.parametrize(
    ("offset", "magic", "name"),
    [(0, b"hsqs", "squashfs"), (1080, b"\x53\xef", "ext4"), (32769, b"CD001", "iso9660")],
)
def test_one_that_is_known(offset, magic, name):
    assert file_system(bytes(offset) + magic + bytes(100)) == name
    assert file_system(bytes(offset + 1) + magic) is None


def test_nothing_is_none():
    assert file_system(b"") is None
