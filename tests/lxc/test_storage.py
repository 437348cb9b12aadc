"""Disks of containers, really mounted, and looked at as a container's root sees them."""

import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

import msgspec
import pytest
from rigs.disks import FIRST, LIMIT, MOUNTS, directory, small

from backends.lxc.apart import mounts, syscalls
from backends.lxc.storage import Prepared
from idl.errors import InvalidParameter, StorageError, Unimplemented
from idl.vbd import Local, Mount, Vbd, Vdi

#: cap_chown+ep, as it is on the disk.
CAP_CHOWN = struct.pack("<IIIII", 0x02000001, 1, 0, 0, 0)


@pytest.fixture
def base(disks) -> Path:
    """A small root file system."""
    root = disks.images / "base"
    small(root)
    return root


def test_a_directory_is_the_containers_to_write(disks, base):
    vbd = directory(base)
    assert disks.prepare(vbd) == Prepared(layer=None, loop=None)

    assert disks.inside(vbd, "stat -c %u:%g /etc /home/user") == "0:0\n1000:1000"
    disks.inside(vbd, "echo changed > /etc/issue")
    assert (base / "etc" / "issue").read_text() == "changed\n"
    assert (base / "etc" / "issue").stat().st_uid == 0
    assert disks.at(vbd).joinpath("etc").stat().st_uid == FIRST


def test_read_only_is_honoured(disks, base):
    vbd = directory(base, mode="ro", persistent=False)
    assert disks.prepare(vbd).layer is None

    with pytest.raises(AssertionError, match="Read-only file system"):
        disks.inside(vbd, "echo changed > /etc/issue")


@pytest.mark.parametrize("privileged", [False, True])
def test_a_layer_takes_what_is_written(disks, base, privileged):
    vbd = directory(base, overlay=True)
    prepared = disks.prepare(vbd, privileged=privileged)
    assert prepared == Prepared(layer=disks.state / "layers" / "vm1" / "root", loop=None)

    write = disks.at(vbd) / "etc" / "issue" if privileged else None
    if write:
        write.write_text("changed\n")
    else:
        disks.inside(vbd, "echo changed > /etc/issue; rm -r /tmp; mv /home /house; ls /house")
    assert (base / "etc" / "issue").read_text() == "base"
    upper = prepared.layer / "upper"
    assert (upper / "etc" / "issue").read_text() == "changed\n"
    assert (upper / "etc" / "issue").stat().st_uid == 0
    assert upper.stat().st_mode == base.stat().st_mode


@pytest.mark.parametrize("overlay", [False, True])
def test_a_program_has_its_capabilities(disks, base, overlay):
    shutil.copy(base / "bin" / "busybox", base / "bin" / "busybox-capable")
    os.setxattr(base / "bin" / "busybox-capable", "security.capability", CAP_CHOWN)
    vbd = directory(base, overlay=overlay)
    disks.prepare(vbd)
    with pytest.raises(AssertionError, match="not permitted"):
        disks.inside(vbd, "chown 7:7 /etc/issue", user=1000)
    disks.inside(vbd, "/bin/busybox-capable chown 7:7 /etc/issue", user=1000)
    assert disks.inside(vbd, "stat -c %u:%g /etc/issue") == "7:7"


def test_a_persistent_layer_stays(disks, base):
    vbd = directory(base, overlay=True)
    disks.prepare(vbd)
    disks.inside(vbd, "echo mine > /home/user/mine; chown 1000:1000 /home/user/mine")
    disks.release(vbd)
    assert disks.mounted() == []
    assert not disks.at(vbd).exists()

    disks.prepare(vbd, incarnation="i2")
    assert disks.inside(vbd, "cat /home/user/mine; stat -c %u /home/user/mine") == "mine\n1000"


def test_a_volatile_layer_goes_with_its_incarnation(disks, base, eventually):
    vbd = directory(base, persistent=False)
    disks.prepare(vbd)
    disks.inside(vbd, "echo mine > /mine")
    disks.release(vbd)
    assert disks.storage.layers.of_incarnations("vm1") == ["root@i1"]

    disks.prepare(vbd, incarnation="i2")
    assert disks.inside(vbd, "ls /") == "bin\netc\nhome\ntmp"
    disks.release(vbd)
    disks.storage.layers.drop_incarnations("vm1")
    assert disks.storage.layers.of_incarnations("vm1") == []
    assert not (disks.state / "layers" / "vm1").exists()
    eventually(lambda: not list((disks.state / "tombstones").iterdir()))


def test_a_volatile_layer_is_mounted_again_in_its_incarnation(disks, base):
    vbd = directory(base, persistent=False)
    disks.prepare(vbd)
    disks.inside(vbd, "echo mine > /mine")
    disks.release(vbd)
    disks.prepare(vbd)
    assert disks.inside(vbd, "cat /mine") == "mine"


def test_preparing_twice_is_preparing_once(disks, base):
    vbd = directory(base, overlay=True)
    assert disks.prepare(vbd) == disks.prepare(vbd)
    assert disks.mounted() == [str(disks.at(vbd))]


def test_releasing_takes_whatever_is_mounted(disks, base):
    vbd = directory(base)
    disks.prepare(vbd)
    syscalls.mount(str(base), str(disks.at(vbd)), flags=syscalls.MS_BIND)
    disks.release(vbd)
    disks.release(vbd)
    assert disks.mounted() == []


def test_releasing_what_somebody_looks_into(disks, base):
    vbd = directory(base)
    disks.prepare(vbd)
    fd = os.open(disks.at(vbd), os.O_RDONLY)
    try:
        disks.release(vbd)
    finally:
        os.close(fd)
    assert disks.mounted() == []


def test_a_base_that_changed_is_no_base(disks, base):
    vbd = directory(base, overlay=True)
    disks.prepare(vbd)
    disks.release(vbd)
    (base / "new").mkdir()

    with pytest.raises(StorageError, match=r"layers/vm1/root was made over .*images/base"):
        disks.prepare(vbd)
    assert disks.mounted() == []


def test_no_device_of_a_base_is_one_inside(disks, base):
    os.mknod(base / "null", 0o20666, os.makedev(1, 3))
    vbd = directory(base)
    disks.prepare(vbd)
    with pytest.raises(AssertionError, match="Permission denied"):
        disks.inside(vbd, "echo > /null")


def test_options_are_those_of_the_mount(disks, base):
    vbd = directory(base, mount=Mount(path="/", options=["noexec", "nosuid", "noatime"]))
    disks.prepare(vbd)
    flags = os.statvfs(disks.at(vbd)).f_flag
    assert flags & os.ST_NOEXEC and flags & os.ST_NOSUID and flags & os.ST_NOATIME


def test_what_is_mounted_shows_in_no_other_namespace(disks, base):
    other = subprocess.Popen(
        ["unshare", "--mount", "--propagation=unchanged", "sh", "-c", "echo; cat; cat $0", MOUNTS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdout and other.stdout.readline() == "\n"
        disks.prepare(directory(base))
        seen, _ = other.communicate(timeout=LIMIT)
    assert f"{disks.path}/run " in seen
    assert f"{disks.path}/run/disks" not in seen


def test_making_it_private_again_is_nothing(disks):
    disks.storage.open(time.monotonic() + LIMIT)
    points = [mount.point for mount in mounts.listed()]
    assert points.count(f"{disks.path}/run") == 1


def test_what_is_elsewhere_is_refused(disks, base, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    with pytest.raises(InvalidParameter, match=rf"paths\.disks allows: {disks.images}"):
        disks.prepare(directory(outside))
    (disks.images / "link").symlink_to(outside)
    with pytest.raises(InvalidParameter, match=r"leads out of what paths\.disks allows"):
        disks.prepare(directory(disks.images / "link"))
    assert not (disks.path / "run" / "disks").exists()


def test_disks_of_plugins_and_chains_are_refused(disks, base):
    with pytest.raises(Unimplemented):
        disks.prepare(Vbd(id="vm1/x", backend=Vdi(sr="s", vdi="v")))
    with pytest.raises(InvalidParameter, match="qcow2"):
        disks.prepare(Vbd(id="vm1/x", backend=Local(path=str(base), format="qcow2")))


def test_a_layer_moves_to_another_instance(disks, base):
    vbd = directory(base, overlay=True)
    disks.prepare(vbd)
    disks.inside(vbd, "echo mine > /mine; rm /etc/issue")
    disks.release(vbd)
    disks.storage.layers.pack("vm1", disks.path / "parcel", timeout=LIMIT)
    assert not (disks.state / "layers" / "vm1").exists()

    disks.storage.layers.unpack("vm1", disks.path / "parcel", timeout=LIMIT)
    disks.prepare(vbd)
    assert disks.inside(vbd, "cat /mine; ls /etc") == "mine"


def test_a_layer_that_cannot_be_read_is_told(disks, base):
    vbd = directory(base, overlay=True)
    layer = disks.prepare(vbd).layer
    disks.release(vbd)
    (layer / "base.json").write_bytes(msgspec.json.encode({"path": 1}))
    with pytest.raises(StorageError, match=r"base\.json"):
        disks.prepare(vbd)
