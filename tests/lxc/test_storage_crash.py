"""The jobs of storage killed after each of their system calls: whatever that leaves, the next
one mends, and a release clears."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from rigs.disks import directory, small

from backends.lxc.apart import mounting, mounts, syscalls
from idl.vbd import Local, Mount, Vbd

LAYERED = "a layer over a directory"
PLAIN = "a directory"
IMAGE = "an image file"
SQUASHFS = "a layer over a squashfs"


def killed(job: Callable[[], object], after: int) -> bool:
    """Whether a process at a job was killed right after that many system calls."""
    pid = os.fork()
    if pid == 0:
        try:
            checked, left = syscalls._checked, [after]

            def count(what: str, result: int) -> int:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return checked(what, result)

            syscalls._checked = count
            job()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in {0, -signal.SIGKILL}
    return status != 0


@pytest.fixture(params=[PLAIN, LAYERED, IMAGE, SQUASHFS])
def vbd(disks, request) -> Vbd:
    base, image = disks.path / "base", disks.images / "image"
    small(base)
    if request.param in {PLAIN, LAYERED}:
        base.rename(disks.images / "base")
        return directory(disks.images / "base", overlay=request.param == LAYERED)
    if request.param == IMAGE:
        words, format = ["mkfs.ext4", "-q", "-d", base, image, "16M"], "raw"
    else:
        words, format = ["mksquashfs", base, image, "-quiet", "-no-progress"], "squashfs"
    subprocess.run(words, check=True, capture_output=True)
    options = Mount(path="/", options=["trusted"])
    return Vbd(id="vm1/root", backend=Local(path=str(image), format=format), mount=options)


def used(disks) -> bytes:
    """The loop devices of the image."""
    words = ["losetup", "--noheadings", "--associated", disks.images / "image"]
    if not words[-1].exists():
        return b""
    return subprocess.run(words, check=True, capture_output=True).stdout


def plug(disks, vbd: Vbd) -> Callable[[], object]:
    """The job that mounts it, to be carried out here."""
    facts = {}

    class Here:
        def run(self, job, **arguments):
            facts.update(arguments)
            return {"loop": None}

    spawner, disks.storage._spawner = disks.storage._spawner, Here()
    disks.prepare(vbd)
    disks.storage._spawner = spawner
    for name in ("owner", "deadline"):
        del facts[name]
    path = disks.images / ("image" if facts["image"] else "base")

    def job() -> None:
        mounting.mount_disk(**{**facts, "fds": [os.open(path, os.O_PATH)]})

    return job


def test_a_plug_that_is_killed(disks, vbd, eventually):
    job, step = plug(disks, vbd), 0
    while killed(job, step := step + 1):
        eventually(lambda: disks.mounted() or not used(disks))
        disks.prepare(vbd)
        assert disks.mounted() == [str(disks.at(vbd))]
        disks.inside(vbd, f"echo {step} > /step; cat /etc/issue")
        disks.release(vbd)
        disks.release(vbd)
        assert disks.mounted() == []
        assert not disks.at(vbd).exists()
        eventually(lambda: not used(disks))
    assert step > 3
    disks.release(vbd)


def test_a_release_that_is_killed(disks, vbd, eventually):
    def job() -> None:
        mounting.release_mounts(at=str(disks.at(vbd)))

    step = 0
    disks.prepare(vbd)
    while killed(job, step := step + 1):
        disks.release(vbd)
        assert disks.mounted() == []
        eventually(lambda: not used(disks))
        disks.prepare(vbd)
    assert step > 1


def test_owning_mounts_that_is_killed(disks, tmp_path):
    own = tmp_path / "own"

    def job() -> None:
        mounting.own_mounts(directory=str(own))

    step = 0
    while killed(job, step := step + 1):
        assert not killed(job, 1000)
        assert [mount.point for mount in mounts.listed()].count(str(own)) == 1
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        assert [line for line in lines if f" {own} " in line and "shared:" in line] == []
        syscalls.umount(str(own))
    assert step > 2
