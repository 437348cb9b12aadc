"""What an unpacked image is called."""

import pytest
from msgspec.structs import replace

from backends.lxc.images import key
from backends.lxc.sources import Identity

IDENTITY = Identity(device=1, inode=2, size=3, mtime_ns=4, boot="a")


@pytest.mark.parametrize("field", ["device", "inode", "size", "mtime_ns"])
def test_another_file_is_another_image(field):
    assert key(replace(IDENTITY, **{field: 9}), devices=False) != key(IDENTITY, devices=False)


def test_a_boot_makes_no_difference_and_devices_do():
    assert key(replace(IDENTITY, boot="b"), devices=False) == key(IDENTITY, devices=False)
    assert key(IDENTITY, devices=True) == f"{key(IDENTITY, devices=False)}-devices"
