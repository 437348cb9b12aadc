"""What depends on the kernel."""

import pytest

from backends.lxc.storage import maps_ids


@pytest.mark.parametrize(
    ("release", "maps"),
    [("6.1.0-37-amd64", False), ("6.2-rc1", True), ("6.18.44", True), ("5.15.0", False)],
)
def test_squashfs_is_mapped_from_6_2_on(release, maps):
    assert maps_ids(release) == maps
