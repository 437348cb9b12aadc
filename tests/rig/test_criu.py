"""CRIU with the least that liblxc can make: what suspend and resume rest on.

A container whose only process counts is dumped with `lxc-checkpoint -s` and restored from the image
with `-r`, by liblxc's own programs: where this fails, no daemon can do it.
"""

import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

DEADLINE = 60.0
# An init that writes how far it has counted: the number lives in its memory alone.
COUNTER = """#!/bin/sh
n=0
while :; do n=$((n + 1)); echo $n > /count; usleep 20000; done
"""
CONFIG = """
lxc.rootfs.path = dir:{root}
lxc.uts.name = counter
lxc.net.0.type = empty
lxc.tty.max = 0
lxc.console.path = none
lxc.init.cmd = /sbin/init
"""


def told(*command: str, **environ: str) -> str:
    """Its output; what it wrote is in the failure. No pipe: a monitor would keep it open."""
    with tempfile.TemporaryFile("w+") as out:
        ended = subprocess.run(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=DEADLINE,
            check=False,
            env={**os.environ, **environ},
        )
        out.seek(0)
        text = out.read()
    assert ended.returncode == 0, f"{command}: {text}"
    return text


def eventually(what: Callable[[], bool], why: str) -> None:
    until = time.monotonic() + DEADLINE
    while not what():
        assert time.monotonic() < until, why
        select.select([], [], [], 0.05)


class Counter:
    """The container `counter` in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "counter" / "rootfs"
        self.config = directory / "counter" / "config"
        for name in ("bin", "sbin", "proc", "sys", "dev", "tmp"):
            (self.root / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", self.root / "bin/busybox")
        for applet in ("sh", "usleep"):
            (self.root / "bin" / applet).symlink_to("busybox")
        (self.root / "sbin/init").write_text(COUNTER)
        (self.root / "sbin/init").chmod(0o755)
        self.config.write_text(CONFIG.format(root=self.root))
        # CRIU 3.17 cannot restore mounts its newer way below a shared one, as under systemd.
        self.criu = directory / "criu.conf"
        self.criu.write_text("mntns-compat-mode\n")

    def lxc(self, command: str, *arguments: str, **environ: str) -> str:
        place = ("-P", str(self.directory), "-n", "counter")
        return told(f"lxc-{command}", *place, *arguments, **environ)

    def suspend(self, image: Path) -> None:
        self.lxc("checkpoint", "-s", "-D", str(image))
        eventually(lambda: self.state == "STOPPED", "still runs after its checkpoint")

    def resume(self, image: Path) -> None:
        options = ("-r", "-d", "-D", str(image))
        self.lxc("checkpoint", *options, CRIU_CONFIG_FILE=str(self.criu))

    @property
    def state(self) -> str:
        return self.lxc("info", "-s").split()[-1]

    @property
    def count(self) -> int:
        return int((self.root / "count").read_text() or 0)

    def counts_beyond(self, number: int) -> None:
        eventually(lambda: self.count > number, f"stands at {self.count}")


@pytest.fixture
def counter(tmp_path: Path) -> Iterator[Counter]:
    made = Counter(tmp_path)
    yield made
    subprocess.run(
        ["lxc-stop", "-k", "-P", str(tmp_path), "-n", "counter"],
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )


def test_criu_can_work_here():
    assert "Looks good" in told("criu", "check")


def test_a_counter_goes_on_where_it_stopped(counter: Counter, tmp_path: Path):
    counter.lxc("start", "-d")
    (counter.root / "count").touch()
    counter.counts_beyond(20)

    counter.suspend(tmp_path / "image")
    stood = counter.count
    assert stood > 20

    (counter.root / "count").write_text("0")
    counter.resume(tmp_path / "image")
    counter.counts_beyond(0)
    assert counter.count > stood
    counter.counts_beyond(counter.count)
    assert counter.state == "RUNNING"


def test_what_criu_leaves_is_gone_with_the_container(counter: Counter, tmp_path: Path):
    counter.lxc("start", "-d")
    eventually((counter.root / "count").exists, "never counted")
    counter.suspend(tmp_path / "image")
    counter.resume(tmp_path / "image")
    init = int(counter.lxc("info", "-p").split()[-1])
    counter.lxc("stop", "-k")
    eventually(lambda: counter.state == "STOPPED", "still runs")
    eventually(lambda: not Path(f"/proc/{init}").exists(), "its init is left")
    assert not [line for line in told("nft", "list", "tables").splitlines() if "CRIU" in line]
