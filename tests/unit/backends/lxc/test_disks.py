"""How a VBD is to be mounted, and what a client may not ask for."""

import pytest

from backends.lxc.apart.syscalls import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
)
from backends.lxc.disks import OPTIONS, disk
from idl.errors import InvalidParameter, Unimplemented
from idl.vbd import Local, Mount, Vbd, Vdi


def vbd(format="directory", options=(), overlay=False, **fields) -> Vbd:
    backend = Local(path="/disks/a", format=format, overlay=overlay)
    mount = Mount(path="/a", options=list(options))
    return Vbd(**{"id": "vm1/a", "backend": backend, "mount": mount, **fields})


@pytest.mark.parametrize("path", ["a", "", "/a/../../tmp", "/a\0b"])
def test_a_disk_belongs_within(path):
    outside = vbd(mount=Mount(path=path))
    with pytest.raises(InvalidParameter, match="has to be absolute"):
        disk(outside, privileged=False)


def test_a_plain_directory_has_no_layer():
    found = disk(vbd(), privileged=True)
    assert (found.layered, found.attributes) == (False, 0)


@pytest.mark.parametrize(
    "layered", [vbd(overlay=True), vbd(persistent=False), vbd("tar"), vbd("squashfs")]
)
def test_a_base_has_a_layer_unless_nobody_writes(layered):
    assert disk(layered, privileged=False).layered
    read_only = Vbd(
        id=layered.id, backend=layered.backend, mode="ro", persistent=layered.persistent
    )
    found = disk(read_only, privileged=False)
    assert not found.layered
    assert found.attributes & MOUNT_ATTR_RDONLY


def test_devices_are_for_the_privileged():
    assert disk(vbd(), privileged=False).attributes == MOUNT_ATTR_NODEV


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_is_the_mounts(option):
    assert disk(vbd(options=[option]), privileged=True).attributes == OPTIONS[option]


def test_options_add_up():
    found = disk(vbd(options=["noexec", "nosuid"], mode="ro"), privileged=True)
    assert found.attributes == MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSUID | MOUNT_ATTR_RDONLY


@pytest.mark.parametrize("option", ["suid", "loop", "dev", "", "ro,noexec", "trusted=1"])
def test_other_options_are_refused(option):
    with pytest.raises(InvalidParameter, match="is none of ro, noexec"):
        disk(vbd(options=[option]), privileged=True)


def test_a_file_system_that_a_guest_may_have_written_needs_a_word():
    with pytest.raises(InvalidParameter, match='add "trusted"'):
        disk(vbd("raw"), privileged=True)
    with pytest.raises(InvalidParameter, match='add "trusted"'):
        disk(vbd("raw", overlay=True), privileged=False)
    assert not disk(vbd("raw", ["trusted"]), privileged=False).layered


def test_media_need_none_and_are_read_only():
    found = disk(vbd("raw", type="cdrom"), privileged=True)
    assert found.attributes == MOUNT_ATTR_RDONLY


def test_what_no_container_can_mount():
    with pytest.raises(InvalidParameter, match="qcow2"):
        disk(vbd("qcow2"), privileged=True)
    with pytest.raises(Unimplemented, match="storage plugins"):
        disk(vbd(backend=Vdi(sr="s", vdi="v")), privileged=True)
    with pytest.raises(InvalidParameter, match="empty drive"):
        disk(vbd(backend=None), privileged=True)
