"""Limits of VBDs, as limits of disks."""

from pathlib import Path

import pytest

from backends.lxc.metering import device, strictest
from idl.vbd import VbdQos


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ([], VbdQos()),
        ([VbdQos()], VbdQos()),
        ([VbdQos(read_bytes=5), VbdQos()], VbdQos(read_bytes=5)),
        (
            [VbdQos(read_bytes=5, write_iops=9), VbdQos(read_bytes=3, write_bytes=7)],
            VbdQos(read_bytes=3, write_bytes=7, write_iops=9),
        ),
    ],
)
def test_disks_that_are_one_keep_to_the_strictest(limits, expected):
    assert strictest(limits) == expected


def test_what_lies_in_memory_is_on_no_disk():
    assert device(Path("/proc")) is None
