"""Disks of containers, really mounted, and looked at as a container's root sees them."""

import os
import shutil
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from backends.lxc.apart import mounts, syscalls
from backends.lxc.spawner import Spawner
from backends.lxc.storage import Prepared, Storage
from idl.errors import InvalidParameter, StorageError, Unimplemented
from idl.vbd import Local, Mount, Vbd, Vdi

LIMIT = 30.0
FIRST = 1_000_000
MOUNTS = "/proc/self/mountinfo"
MS_SHARED = 1 << 20
BUSYBOX = "/bin/busybox"


@dataclass
class Attempt:
    """A call that nobody cancels."""

    incarnation: str = "i1"
    micro_op: str = "vbd.plug"
    deadline: float = field(default_factory=lambda: time.monotonic() + LIMIT)

    def checkpoint(self):
        pass

    def pause(self, seconds):
        threading.Event().wait(seconds)

    def progress(self, fraction):
        pass


@dataclass
class Rig:
    """A storage on a directory, the id map of a domain, and what is tried on them."""

    path: Path
    spawner: Spawner
    storage: Storage

    @property
    def images(self) -> Path:
        return self.path / "images"

    @property
    def state(self) -> Path:
        return self.path / "state"

    def at(self, vbd: Vbd) -> Path:
        return self.path / "run" / "disks" / vbd.id.partition("/")[2]

    def prepare(self, vbd: Vbd, incarnation="i1", privileged=False):
        users = None if privileged else self.path / "ns" / "user"
        return self.storage.prepare(
            Attempt(incarnation),
            vbd,
            at=self.at(vbd),
            user_namespace=users,
            first_id=0 if privileged else FIRST,
        )

    def release(self, vbd: Vbd):
        self.storage.release(Attempt(), "vm1", self.at(vbd))

    def inside(self, vbd: Vbd, script: str) -> str:
        """What a shell says that has the disk as its root, as the container's root."""
        done = subprocess.run(
            [
                *("nsenter", f"--user={self.path}/ns/user", f"--root={self.at(vbd)}", "--wd=/"),
                *("-S", "0", "-G", "0", "/bin/busybox", "sh", "-ec", script),
            ],
            check=False,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def mounted(self) -> list[str]:
        points = [mount.point for mount in mounts.listed()]
        return sorted(point for point in points if point.startswith(f"{self.path}/run/disks"))


def clear(path: Path):
    for mount in reversed(mounts.listed()):
        if f"{mount.point}/".startswith(f"{path}/"):
            with suppress(OSError):
                syscalls.umount(mount.point, syscalls.MNT_DETACH)


@pytest.fixture
def rig(tmp_path):
    path = tmp_path.resolve()
    for directory in ("images", "state", "run"):
        (path / directory).mkdir()
    # As below systemd, where everything is shared with other namespaces.
    syscalls.mount(str(path), str(path), flags=syscalls.MS_BIND)
    syscalls.mount("none", str(path), flags=MS_SHARED)
    spawner = Spawner(path / "run" / "jobs")
    spawner.open(LIMIT)
    storage = Storage(
        run=path / "run", state=path / "state", roots=[path / "images"], spawner=spawner
    )
    try:
        storage.open(time.monotonic() + LIMIT)
        spawner.run(
            "hold_namespaces",
            owner="vm1",
            deadline=time.monotonic() + LIMIT,
            directory=str(path / "ns"),
            first_id=FIRST,
        )
        yield Rig(path, spawner, storage)
    finally:
        storage.close()
        spawner.close()
        clear(path)


@pytest.fixture
def base(rig) -> Path:
    """A small root file system."""
    root = rig.images / "base"
    for directory in ("bin", "etc", "home/user", "tmp"):
        (root / directory).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin")
    for applet in ("cat", "chown", "ls", "mv", "rm", "stat"):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc" / "issue").write_text("base")
    os.chown(root / "home" / "user", 1000, 1000)
    root.chmod(0o751)
    return root


def directory(path: Path, **fields) -> Vbd:
    overlay = fields.pop("overlay", False)
    backend = Local(path=str(path), format="directory", overlay=overlay)
    return Vbd(**{"id": "vm1/root", "backend": backend, **fields})


def test_a_directory_is_the_containers_to_write(rig, base):
    vbd = directory(base)
    assert rig.prepare(vbd) == Prepared(layer=None, loop=None)

    assert rig.inside(vbd, "stat -c %u:%g /etc /home/user") == "0:0\n1000:1000"
    rig.inside(vbd, "echo changed > /etc/issue")
    assert (base / "etc" / "issue").read_text() == "changed\n"
    assert (base / "etc" / "issue").stat().st_uid == 0
    assert rig.at(vbd).joinpath("etc").stat().st_uid == FIRST


def test_read_only_is_honoured(rig, base):
    vbd = directory(base, mode="ro", persistent=False)
    assert rig.prepare(vbd).layer is None

    with pytest.raises(AssertionError, match="Read-only file system"):
        rig.inside(vbd, "echo changed > /etc/issue")


@pytest.mark.parametrize("privileged", [False, True])
def test_a_layer_takes_what_is_written(rig, base, privileged):
    vbd = directory(base, overlay=True)
    prepared = rig.prepare(vbd, privileged=privileged)
    assert prepared == Prepared(layer=rig.state / "layers" / "vm1" / "root", loop=None)

    write = rig.at(vbd) / "etc" / "issue" if privileged else None
    if write:
        write.write_text("changed\n")
    else:
        rig.inside(vbd, "echo changed > /etc/issue; rm -r /tmp; mv /home /house; ls /house")
    assert (base / "etc" / "issue").read_text() == "base"
    upper = prepared.layer / "upper"
    assert (upper / "etc" / "issue").read_text() == "changed\n"
    assert (upper / "etc" / "issue").stat().st_uid == 0
    assert upper.stat().st_mode == base.stat().st_mode


def test_a_persistent_layer_stays(rig, base):
    vbd = directory(base, overlay=True)
    rig.prepare(vbd)
    rig.inside(vbd, "echo mine > /home/user/mine; chown 1000:1000 /home/user/mine")
    rig.release(vbd)
    assert rig.mounted() == []
    assert not rig.at(vbd).exists()

    rig.prepare(vbd, incarnation="i2")
    assert rig.inside(vbd, "cat /home/user/mine; stat -c %u /home/user/mine") == "mine\n1000"


def test_a_volatile_layer_goes_with_its_incarnation(rig, base, eventually):
    vbd = directory(base, persistent=False)
    rig.prepare(vbd)
    rig.inside(vbd, "echo mine > /mine")
    rig.release(vbd)
    assert rig.storage.layers.of_incarnations("vm1") == ["root@i1"]

    rig.prepare(vbd, incarnation="i2")
    assert rig.inside(vbd, "ls /") == "bin\netc\nhome\ntmp"
    rig.release(vbd)
    rig.storage.layers.drop_incarnations("vm1")
    assert rig.storage.layers.of_incarnations("vm1") == []
    assert not (rig.state / "layers" / "vm1").exists()
    eventually(lambda: not list((rig.state / "tombstones").iterdir()))


def test_preparing_twice_is_preparing_once(rig, base):
    vbd = directory(base, overlay=True)
    assert rig.prepare(vbd) == rig.prepare(vbd)
    assert rig.mounted() == [str(rig.at(vbd))]


def test_releasing_takes_whatever_is_mounted(rig, base):
    vbd = directory(base)
    rig.prepare(vbd)
    syscalls.mount(str(base), str(rig.at(vbd)), flags=syscalls.MS_BIND)
    rig.release(vbd)
    rig.release(vbd)
    assert rig.mounted() == []


def test_releasing_what_somebody_looks_into(rig, base):
    vbd = directory(base)
    rig.prepare(vbd)
    fd = os.open(rig.at(vbd), os.O_RDONLY)
    try:
        rig.release(vbd)
    finally:
        os.close(fd)
    assert rig.mounted() == []


def test_a_base_that_changed_is_no_base(rig, base):
    vbd = directory(base, overlay=True)
    rig.prepare(vbd)
    rig.release(vbd)
    (base / "new").mkdir()

    with pytest.raises(StorageError, match=r"layers/vm1/root was made over .*images/base"):
        rig.prepare(vbd)
    assert rig.mounted() == []


def test_no_device_of_a_base_is_one_inside(rig, base):
    os.mknod(base / "null", 0o20666, os.makedev(1, 3))
    vbd = directory(base)
    rig.prepare(vbd)
    with pytest.raises(AssertionError, match="Permission denied"):
        rig.inside(vbd, "echo > /null")


def test_options_are_those_of_the_mount(rig, base):
    vbd = directory(base, mount=Mount(path="/", options=["noexec", "nosuid", "noatime"]))
    rig.prepare(vbd)
    flags = os.statvfs(rig.at(vbd)).f_flag
    assert flags & os.ST_NOEXEC and flags & os.ST_NOSUID and flags & os.ST_NOATIME


def test_what_is_mounted_shows_in_no_other_namespace(rig, base):
    other = subprocess.Popen(
        ["unshare", "--mount", "--propagation=unchanged", "sh", "-c", "echo; cat; cat $0", MOUNTS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdout and other.stdout.readline() == "\n"
        rig.prepare(directory(base))
        seen, _ = other.communicate(timeout=LIMIT)
    assert f"{rig.path}/run " in seen
    assert f"{rig.path}/run/disks" not in seen


def test_making_it_private_again_is_nothing(rig):
    rig.storage.open(time.monotonic() + LIMIT)
    points = [mount.point for mount in mounts.listed()]
    assert points.count(f"{rig.path}/run") == 1


def test_what_is_elsewhere_is_refused(rig, base, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    with pytest.raises(InvalidParameter, match=rf"paths\.disks allows: {rig.images}"):
        rig.prepare(directory(outside))
    (rig.images / "link").symlink_to(outside)
    with pytest.raises(InvalidParameter, match=r"leads out of what paths\.disks allows"):
        rig.prepare(directory(rig.images / "link"))
    assert not (rig.path / "run" / "disks").exists()


def test_disks_of_plugins_and_chains_are_refused(rig, base):
    with pytest.raises(Unimplemented):
        rig.prepare(Vbd(id="vm1/x", backend=Vdi(sr="s", vdi="v")))
    with pytest.raises(InvalidParameter, match="qcow2"):
        rig.prepare(Vbd(id="vm1/x", backend=Local(path=str(base), format="qcow2")))


def test_a_layer_moves_to_another_instance(rig, base):
    vbd = directory(base, overlay=True)
    rig.prepare(vbd)
    rig.inside(vbd, "echo mine > /mine; rm /etc/issue")
    rig.release(vbd)
    rig.storage.layers.pack("vm1", rig.path / "parcel", timeout=LIMIT)
    assert not (rig.state / "layers" / "vm1").exists()

    rig.storage.layers.unpack("vm1", rig.path / "parcel", timeout=LIMIT)
    rig.prepare(vbd)
    assert rig.inside(vbd, "cat /mine; ls /etc") == "mine"


def test_a_layer_that_cannot_be_read_is_told(rig, base):
    vbd = directory(base, overlay=True)
    layer = rig.prepare(vbd).layer
    rig.release(vbd)
    (layer / "base.json").write_bytes(msgspec.json.encode({"path": 1}))
    with pytest.raises(StorageError, match=r"base\.json"):
        rig.prepare(vbd)
