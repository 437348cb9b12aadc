"""Image files as disks: file systems in loop devices, squashfs, archives unpacked once."""

import bz2
import gzip
import io
import lzma
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from rigs.disks import FIRST, LIMIT, small

from backends.interface import Waiting
from backends.lxc.apart import locks
from backends.lxc.storage import Prepared, Storage, maps_ids
from idl.errors import HypervisorError, InvalidParameter, StorageError
from idl.vbd import Local, Mount, Vbd

#: So many that unpacking them can be interrupted.
FILES = 20_000
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: (
        subprocess.run(["zstd"], input=data, check=True, capture_output=True).stdout
    ),
}


@pytest.fixture
def base(disks) -> Path:
    root = disks.path / "base"
    small(root)
    return root


def run(*words) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True, timeout=LIMIT)


def vbd(path: Path, format: str, trusted=False, **fields) -> Vbd:
    overlay = fields.pop("overlay", False)
    backend = Local(path=str(path), format=format, overlay=overlay)
    mount = Mount(path="/", options=["trusted"] if trusted else [])
    return Vbd(**{"id": "vm1/root", "backend": backend, "mount": mount, **fields})


def ext4(disks, base, name="disk.img") -> Path:
    image = disks.images / name
    run("mkfs.ext4", "-q", "-d", base, image, "16M")
    return image


def squashfs(disks, base) -> Path:
    image = disks.images / "base.squashfs"
    run("mksquashfs", base, image, "-quiet", "-no-progress")
    return image


def tar(disks, base, suffix="tar") -> Path:
    archive = disks.images / f"base.{suffix}"
    words = ["tar", "-C", base, "-c", "."]
    data = subprocess.run(words, check=True, capture_output=True).stdout
    archive.write_bytes(COMPRESSIONS[suffix](data))
    return archive


def loops(image: Path) -> list[str]:
    done = subprocess.run(
        ["losetup", "--noheadings", "--output=NAME", "--associated", str(image)],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.split()


def prepared(disks, disk, seconds=LIMIT) -> Prepared:
    """Once its image is unpacked."""
    deadline = time.monotonic() + seconds
    while isinstance(found := disks.prepare(disk), Waiting):
        assert time.monotonic() < deadline
        disks.wait(found.recheck)
    return found


def test_an_image_file_is_the_containers_to_write(disks, base, eventually):
    image = ext4(disks, base)
    disk = vbd(image, "raw", trusted=True)
    found = disks.prepare(disk)
    assert found == Prepared(layer=None, loop=loops(image)[0])
    assert disks.prepare(disk) == found

    disks.inside(disk, "echo changed > /etc/issue; chown 1000:1000 /etc/issue")
    assert disks.at(disk).joinpath("etc/issue").stat().st_uid == FIRST + 1000
    disks.release(disk)
    eventually(lambda: not loops(image))
    said = subprocess.run(
        ["debugfs", "-R", "cat /etc/issue", image], check=True, capture_output=True, text=True
    )
    assert said.stdout == "changed\n"


def test_an_image_file_has_one_device_however_often_it_is_mounted(disks, base):
    image = ext4(disks, base)
    disk = vbd(image, "raw", trusted=True)
    other = msgspec.structs.replace(disk, id="vm2/root2")
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(disks.prepare, [disk, other]))
    assert both == [Prepared(layer=None, loop=loops(image)[0])] * 2
    assert len(loops(image)) == 1
    disks.inside(disk, "echo changed > /etc/issue")
    assert disks.inside(other, "cat /etc/issue") == "changed"


def test_an_image_file_is_not_written_where_nobody_may(disks, base):
    image = ext4(disks, base)
    content = image.read_bytes()
    disk = vbd(image, "raw", trusted=True, mode="ro")
    disks.prepare(disk)
    with pytest.raises(AssertionError, match="Read-only file system"):
        disks.inside(disk, "echo changed > /etc/issue")
    disks.release(disk)
    assert image.read_bytes() == content


def test_a_layer_over_an_image_file(disks, base):
    image = ext4(disks, base)
    content = image.read_bytes()
    disk = vbd(image, "raw", trusted=True, overlay=True)
    assert disks.prepare(disk).layer is not None
    disks.inside(disk, "echo changed > /etc/issue; cat /etc/issue")
    disks.release(disk)
    assert image.read_bytes() == content


@pytest.fixture
def links() -> Iterator[Path]:
    """A directory such as /dev/disk."""
    path = Path(f"/dev/xenopsd-test-{os.getpid()}")
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def node(disks, base) -> Iterator[str]:
    """A block device with a file system."""
    words = ["losetup", "--find", "--show", ext4(disks, base)]
    found = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield found
    finally:
        run("losetup", "--detach", found)


def rooted(disks, *roots: Path):
    """The same, with other roots."""
    storage = Storage(
        run=disks.path / "run", state=disks.state, roots=roots, spawner=disks.spawner
    )
    return replace(disks, storage=storage)


def test_a_block_device_by_a_link_among_the_devices(disks, base, links, node):
    (links / "by-name").mkdir()
    (links / "by-name" / "disk").symlink_to(f"../../{Path(node).name}")
    there = rooted(disks, links)
    disk = vbd(links / "by-name" / "disk", "raw", trusted=True)
    assert there.prepare(disk).loop == node
    there.inside(disk, "echo changed > /etc/issue")
    there.release(disk)
    layered = vbd(links / "by-name" / "disk", "raw", trusted=True, overlay=True)
    assert there.prepare(layered).layer
    assert there.inside(layered, "cat /etc/issue") == "changed"
    there.release(layered)


def test_a_link_among_the_devices_leads_to_nothing_else(disks, links):
    (links / "null").symlink_to("../null")
    (links / "passwd").symlink_to("/etc/passwd")
    there = rooted(disks, links)
    with pytest.raises(StorageError, match="null is no block device"):
        there.prepare(vbd(links / "null", "raw", trusted=True))
    with pytest.raises(InvalidParameter, match="leads out of what"):
        there.prepare(vbd(links / "passwd", "raw", trusted=True))


def test_what_holds_no_file_system_is_told(disks):
    (disks.images / "disk.img").write_bytes(bytes(1 << 20))
    with pytest.raises(StorageError, match=r"vm1/root: holds no file system .*ext4"):
        disks.prepare(vbd(disks.images / "disk.img", "raw", trusted=True))
    assert loops(disks.images / "disk.img") == []


def test_a_medium_is_read_only(disks, base):
    image = ext4(disks, base, "medium.iso")
    disk = vbd(image, "raw", type="cdrom")
    disks.prepare(disk)
    assert disks.inside(disk, "cat /etc/issue") == "base"
    with pytest.raises(AssertionError, match="Read-only file system"):
        disks.inside(disk, "echo changed > /etc/issue")


def test_a_medium_can_be_read_whatever_its_file_system_is(disks, base):
    """Not every kernel can map the ids of this one."""
    disk = vbd(squashfs(disks, base), "raw", type="cdrom")
    disks.prepare(disk)
    assert disks.inside(disk, "cat /etc/issue") == "base"


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "unpacked"])
def test_a_squashfs_is_shared(disks, base, mapped, eventually):
    if mapped and not maps_ids(os.uname().release):
        pytest.skip("this kernel does not map the ids of a squashfs")
    os.chown(base / "etc" / "issue", 5, 5)
    image = squashfs(disks, base)
    storage = Storage(
        run=disks.path / "run",
        state=disks.state,
        roots=[disks.images],
        spawner=disks.spawner,
        maps_squashfs=mapped,
    )
    there = replace(disks, storage=storage)
    one, two = vbd(image, "squashfs"), vbd(image, "squashfs", id="vm2/root2", persistent=False)
    for disk in (one, two):
        assert prepared(there, disk).layer
    assert len(loops(image)) == mapped
    there.inside(one, "echo changed > /etc/issue")
    assert there.inside(two, "cat /etc/issue; stat -c %u:%g /etc/issue") == "base5:5"
    for disk in (one, two):
        there.release(disk)
    eventually(lambda: not loops(image))
    assert there.mounted() == []


def test_a_squashfs_is_what_it_says(disks, base):
    with pytest.raises(
        StorageError, match=r"holds ext4, not squashfs|cannot be unpacked: unsquashfs"
    ):
        prepared(disks, vbd(ext4(disks, base), "squashfs"))
    with pytest.raises(InvalidParameter, match="is a directory, which is never squashfs"):
        disks.prepare(vbd(disks.images, "squashfs"))


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_an_archive_is_unpacked_once(disks, base, suffix):
    archive = tar(disks, base, suffix)
    one, two = vbd(archive, "tar"), vbd(archive, "tar", id="vm2/root2")
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda disk: prepared(disks, disk), [one, two]))
    assert all(found.layer for found in both)
    images = list((disks.state / "images").iterdir())
    assert [sorted(p.name for p in image.iterdir()) for image in images] == [
        ["image.json", "root"]
    ]

    disks.inside(one, "echo changed > /etc/issue")
    assert disks.inside(two, "cat /etc/issue; stat -c %u:%g /home/user") == "base1000:1000"
    before = images[0].stat()
    disks.release(one)
    assert prepared(disks, one) == both[0]
    assert images[0].stat() == before


def test_an_archive_that_changed_is_another_image(disks, base):
    archive = tar(disks, base)
    disk = vbd(archive, "tar")
    prepared(disks, disk)
    disks.release(disk)
    (base / "etc" / "issue").write_text("newer")
    tar(disks, base)

    with pytest.raises(StorageError, match=r"layers/vm1/root was made over .*base\.tar"):
        prepared(disks, disk)
    prepared(disks, vbd(archive, "tar", id="vm2/root2"))
    assert disks.inside(vbd(archive, "tar", id="vm2/root2"), "cat /etc/issue") == "newer"


def test_an_image_goes_when_nobody_has_it_any_more(disks, base, eventually):
    archive = tar(disks, base)
    disk = vbd(archive, "tar")
    prepared(disks, disk)
    archive.unlink()
    images = disks.state / "images"
    disks.storage.open(time.monotonic() + LIMIT)
    assert len(list(images.iterdir())) == 1
    disks.release(disk)
    disks.storage.layers.drop_all("vm1")
    disks.storage.open(time.monotonic() + LIMIT)
    assert list(images.iterdir()) == []
    eventually(lambda: not list((disks.state / "tombstones").iterdir()))


def test_an_archive_that_was_only_touched_is_the_same_base(disks, base):
    archive = tar(disks, base)
    disk = vbd(archive, "tar")
    prepared(disks, disk)
    disks.release(disk)
    os.utime(archive)
    prepared(disks, disk)


def test_a_bad_archive_is_told_and_leaves_nothing(disks):
    archive = disks.images / "bad.tar"
    with tarfile.open(archive, "w") as file:
        member = tarfile.TarInfo("../escape")
        file.addfile(member)
    with pytest.raises(StorageError, match=r"bad\.tar cannot be unpacked: the member \.\./escape"):
        prepared(disks, vbd(archive, "tar"))
    assert list((disks.state / "images").iterdir()) == []
    assert not (disks.state / "layers").exists()


def test_a_full_disk_is_told_and_leaves_nothing(disks, base):
    (base / "large").write_bytes(os.urandom(4 << 20))
    archive = tar(disks, base)
    images = disks.state / "images"
    images.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=2M", "small", images)
    with pytest.raises(StorageError, match="No space left on device"):
        prepared(disks, vbd(archive, "tar"))
    assert list(images.iterdir()) == []


def test_what_an_interrupted_one_left_is_no_image(disks, base, eventually):
    archive = disks.images / "base.tar"
    with tarfile.open(archive, "w") as file:
        for number in range(FILES):
            file.addfile(tarfile.TarInfo(f"file{number}"), io.BytesIO())
    disk = vbd(archive, "tar")
    assert isinstance(disks.prepare(disk), Waiting)
    images = disks.state / "images"
    eventually(lambda: list(images.glob(".*.partial/root/file*")))
    lock = str(disks.path / "run" / "jobs")
    locks.kill(lock)  # the server, and with it the job
    eventually(lambda: not locks.held(lock))
    assert [path.name.startswith(".") for path in images.iterdir()] == [True]
    next(images.glob(".*.partial/root")).joinpath("stale").touch()

    with pytest.raises(HypervisorError, match="died"):
        prepared(disks, disk)
    prepared(disks, disk, seconds=10 * LIMIT)
    assert [path.name.startswith(".") for path in images.iterdir()] == [False]
    assert len(list(images.glob("[!.]*/root/*"))) == FILES
