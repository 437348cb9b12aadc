"""`make run` with containers: they outlive the daemon, and `make clean` ends them."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BRIDGE = Path("/sys/class/net/xenbr0")

Run = Callable[..., str]


@pytest.fixture
def checkout() -> Iterator[Path]:
    """One where no container could come by: its directory is root's alone."""
    with tempfile.TemporaryDirectory(prefix="xenopsd-") as name:
        made = Path(name)
        (made / "packaging").mkdir()
        for script in ("run-here", "busybox-image"):
            shutil.copy(ROOT / "packaging" / script, made / "packaging")
        (made / ".venv").symlink_to(sys.prefix)
        yield made


@pytest.fixture
def run(checkout) -> Iterator[Run]:
    """Runs a script of the checkout, or xenops there; what it prints."""

    def called(*command: str) -> str:
        done = subprocess.run(
            [str(checkout / command[0]), *command[1:]],
            env={"PATH": os.environ["PATH"], "XENOPS_SOCKET": str(checkout / ".run/default.sock")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    yield called
    called("packaging/run-here", "clean")


def mounted(place: str) -> list[str]:
    """What is mounted there."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [line for line in lines if f" {place}" in line]


def test_containers_outlive_the_daemon_and_clean_leaves_nothing(checkout, run):
    had_bridge = BRIDGE.exists()
    assert "instance default (lxc) is ready" in run("packaging/run-here", "start")
    place = str((checkout / ".run/default.sock").readlink().parent)
    disk = f"{checkout}/.run/images/busybox,format=directory,overlay,mount=/"
    add = ["add", "--id", "a", "--guest", "container", "--memory", "64M"]
    run(".venv/bin/xenops", *add, "--disk", disk, "--nic", "xenbr0")
    run(".venv/bin/xenops", "start", "a")
    domain = run(".venv/bin/xenops", "list", "-c", "vm,state,domain", "-o", "wide")
    run("packaging/run-here", "stop")
    run("packaging/run-here", "start")
    assert run(".venv/bin/xenops", "list", "-c", "vm,state,domain", "-o", "wide") == domain
    assert "running" in domain
    assert mounted(place)

    # Also where the daemon is away.
    run("packaging/run-here", "stop")
    run("packaging/run-here", "clean")
    assert not (checkout / ".run").exists()
    assert not Path(place).exists()
    assert mounted(place) == []
    assert BRIDGE.exists() == had_bridge


@pytest.mark.parametrize("how", [["--backend", "simulator"], ["--backend=simulator"]])
def test_the_simulator_can_be_asked_for(checkout, run, how: list[str]):
    run("packaging/run-here", "start")
    run("packaging/run-here", "stop")
    assert "instance default (simulator) is ready" in run("packaging/run-here", "start", *how)
    assert (checkout / ".run/default.sock").is_socket()
    assert not (checkout / ".run/default.sock").is_symlink()
