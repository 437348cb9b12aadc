"""Disks that come and go while a container runs, as its root sees them."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rigs.disks import Attempt, Guest, directory, small

from idl.errors import DeviceDetachRejected, StorageError
from idl.vbd import Local, Mount, Vbd


@pytest.fixture(params=["unprivileged", "privileged"])
def privileged(request) -> bool:
    return request.param == "privileged"


@pytest.fixture
def guest(disks, privileged) -> Iterator[Guest]:
    root = disks.images / "base"
    small(root)
    vbd = directory(root, overlay=True)
    disks.prepare(vbd, privileged=privileged)
    found = Guest(disks.at(vbd), None if privileged else disks.users)
    try:
        yield found
    finally:
        found.end()


@pytest.fixture
def data(disks) -> Path:
    path = disks.images / "data"
    (path / "sub").mkdir(parents=True)
    (path / "file").write_text("content")
    return path


@pytest.fixture
def attach(disks, guest, privileged) -> Callable[..., None]:
    def attach(vbd: Vbd, target: str = "/mnt/data") -> None:
        disks.prepare(vbd, privileged=privileged, running=True)
        disks.storage.attach(Attempt(), "vm1", at=disks.at(vbd), init=guest.pid, target=target)

    return attach


@pytest.fixture
def detach(disks, guest) -> Callable[..., None]:
    def detach(vbd: Vbd, force=False, spare=()) -> None:
        disks.storage.detach(
            Attempt(), vbd.id, at=disks.at(vbd), init=guest.pid, force=force, spare=spare
        )

    return detach


def disk(path: Path, name="data", **fields) -> Vbd:
    return directory(path, id=f"vm1/{name}", **fields)


def points(guest: Guest) -> list[str]:
    """What is mounted in the container, beside its root."""
    lines = Path(f"/proc/{guest.pid}/mountinfo").read_text().splitlines()
    return sorted(line.split()[4] for line in lines if line.split()[4] != "/")


def test_a_disk_comes_and_goes(disks, guest, data, attach, detach):
    attach(disk(data))
    assert guest.run("cat /mnt/data/file; stat -c %u:%g /mnt /mnt/data/file") == "content0:0\n0:0"
    guest.run("echo changed > /mnt/data/file")
    assert (data / "file").read_text() == "changed\n"
    detach(disk(data))
    assert points(guest) == []
    assert guest.run("ls /mnt/data") == ""


def test_twice_is_once(disks, guest, data, attach, detach):
    attach(disk(data))
    attach(disk(data))
    assert points(guest) == ["/mnt/data"]
    detach(disk(data))
    detach(disk(data))
    assert points(guest) == []


def test_a_layer_is_attached_as_well(disks, guest, data, attach, detach):
    vbd = disk(data, overlay=True)
    attach(vbd)
    guest.run("echo changed > /mnt/data/file")
    assert guest.run("cat /mnt/data/file") == "changed"
    assert (data / "file").read_text() == "content"
    detach(vbd)
    disks.release(vbd)
    assert points(guest) == []


def test_no_guest_takes_a_flag_off(disks, guest, data, attach, privileged):
    if privileged:
        pytest.skip("root of the host may")
    os.mknod(data / "null", 0o20666, os.makedev(1, 3))
    attach(disk(data, mode="ro", mount=Mount(path="/mnt/data", options=["noexec"])))
    assert "Read-only" in guest.run("echo changed > /mnt/data/file")
    for options in ("rw,nodev,noexec", "ro,dev,noexec", "ro,nodev,exec"):
        said = guest.run(f"mount -o remount,bind,{options} none /mnt/data")
        assert "denied" in said or "not permitted" in said, said
    assert "Read-only" in guest.run("echo changed > /mnt/data/file")


def test_what_is_used_is_detached_by_force_alone(disks, guest, data, attach, detach):
    attach(disk(data))
    guest.run("cd /mnt/data")
    with pytest.raises(DeviceDetachRejected, match="its guest is using it"):
        detach(disk(data))
    assert guest.run("cat file") == "content"
    detach(disk(data), force=True)
    assert points(guest) == []


def test_a_layer_that_is_still_used_is_not_mounted_twice(disks, guest, data, attach, detach):
    vbd = disk(data, overlay=True)
    attach(vbd)
    guest.run("exec 3> /mnt/data/file")
    detach(vbd, force=True)
    disks.release(vbd)
    with pytest.raises(StorageError, match="its guest still uses"):
        attach(vbd)
    assert disks.mounted() == [str(disks.at(disk(data, "root")))]
    guest.run("echo last >&3; exec 3>&-")
    attach(vbd)
    assert guest.run("cat /mnt/data/file") == "last"


def test_what_the_guest_has_moved_and_bound_goes(disks, guest, data, attach, detach):
    attach(disk(data))
    guest.run(
        "mkdir /a /b /c; mount --move /mnt/data /a; mount --bind /a/sub /b; mount --bind /a /c"
    )
    assert points(guest) == ["/a", "/b", "/c"]
    detach(disk(data))
    assert points(guest) == []


def test_what_the_guest_has_mounted_over_itself_goes(disks, guest, data, attach, detach):
    attach(disk(data))
    guest.run("mount --bind /mnt/data /mnt/data")
    assert points(guest) == ["/mnt/data"] * 2
    detach(disk(data))
    assert points(guest) == []


def test_another_disk_that_is_the_same_directory_stays(disks, guest, data, attach, detach):
    attach(disk(data))
    attach(disk(data, name="again"), "/mnt/again")
    attach(disk(data / "sub", name="sub"), "/mnt/sub")
    detach(disk(data), spare=["/mnt/again", "/mnt/sub", "/mnt/none"])
    assert points(guest) == ["/mnt/again", "/mnt/sub"]


@pytest.mark.parametrize("link", ["/etc", "../../../../../../etc", "/proc/1/root/etc"])
def test_links_of_the_guest_lead_nowhere_else(disks, guest, data, attach, detach, link):
    guest.run(f"ln -s {link} /link || /bin/busybox ln -s {link} /link")
    try:
        attach(disk(data), "/link/deeper")
    except StorageError:
        assert link.startswith("/proc")
    else:
        assert points(guest) == ["/etc/deeper"]
    host = Path("/proc/self/mountinfo").read_text()
    assert "/deeper" not in host
    assert not Path("/etc/deeper").exists()


def test_a_target_that_is_no_directory_is_told(disks, guest, data, attach):
    with pytest.raises(StorageError, match=r"vm1: /etc/issue: .*Not a directory"):
        attach(disk(data), "/etc/issue")
    guest.run("/bin/busybox ln -s nowhere /dangling")
    with pytest.raises(StorageError, match="File exists"):
        attach(disk(data), "/dangling")


def test_a_container_that_is_gone_is_told(disks, guest, data, attach):
    guest.end()
    with pytest.raises(StorageError, match="No such file"):
        attach(disk(data))


def test_a_file_system_in_an_image_is_freed(disks, guest, data, attach, detach, eventually):
    image = disks.images / "disk.img"
    subprocess.run(["mkfs.ext4", "-q", "-d", data, image, "16M"], check=True)
    vbd = Vbd(
        id="vm1/image",
        backend=Local(path=str(image)),
        mount=Mount(path="/mnt/data", options=["trusted"]),
    )
    attach(vbd)
    assert guest.run("cat /mnt/data/file") == "content"
    detach(vbd)
    disks.release(vbd)
    used = ["losetup", "--noheadings", "--associated", str(image)]
    eventually(lambda: not subprocess.run(used, check=True, capture_output=True).stdout)
