"""Containers that take what they can get: their neighbours and the daemon go on."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rigs.container import Images, Init, init_among
from rigs.daemon import DaemonProcess, eventually

from backends.lxc.cgroup import Cgroups, Group
from backends.lxc.places import Names
from idl.vbd import Local, Vbd
from idl.vm import Action, Container, PowerState, Vm

#: Tasks that a container may have here.
PIDS = 200

#: Bytes of memory.
MEMORY = 64 << 20

BOMB = "f() { f | f & }; while :; do f; sleep 0.1; done"
HOG = "exec tail /dev/zero"
SPIN = "while :; do :; done & while :; do :; done"


class Neighbours:
    """A daemon whose containers are all of the small image."""

    def __init__(self, daemon: DaemonProcess, image: Path) -> None:
        self.daemon = daemon
        self.client = daemon.client()
        self._image = image

    def start(self, id: str, script: str | None = None) -> None:
        init = None if script is None else ["/bin/sh", "-c", script]
        guest = Container(init=init)
        vm = Vm(id=id, memory_static_max=MEMORY, guest=guest, on_crash=[Action.SHUTDOWN])
        self.client.vm.add(vm)
        root = Local(path=str(self._image), format="directory", overlay=True)
        self.client.vbd.add(Vbd(id=f"{id}/root", position=0, backend=root))
        self.client.run(self.client.vm.start(id), 30.0)

    def group(self, id: str) -> Group:
        incarnation = self.client.vm.stat(id).state.incarnation
        assert incarnation is not None
        names = Names(self.daemon.run_dir / "lxc", "default")
        return Cgroups.found().group(f"{names.group(id, incarnation)}/c")

    def init(self, id: str) -> Init:
        found: list[Init | None] = []

        def there() -> bool:
            found.append(init_among(self.group(id).pids()))
            return found[-1] is not None

        eventually(there)
        assert found[-1] is not None
        return found[-1]

    def close(self) -> None:
        for vm in self.client.vm.list():
            self.client.run(self.client.vm.shutdown(vm.id), 30.0)
            self.client.vm.remove(vm.id)
        self.client.close()
        self.daemon.remove()


@pytest.fixture
def neighbours() -> Iterator[Neighbours]:
    with tempfile.TemporaryDirectory(prefix="xenopsd-") as name:
        directory = Path(name).resolve()
        directory.chmod(0o755)
        image = Images(directory / "images").directory
        config = directory / "config.toml"
        config.write_text(f'paths.disks = ["{directory}/images"]\nlxc.pids = {PIDS}\n')
        daemon = DaemonProcess(directory / "d", "--config", str(config), backend="lxc")
        daemon.start()
        daemon.recovered()
        found = Neighbours(daemon, image)
        try:
            found.start("quiet")
            yield found
        finally:
            found.close()


def _goes_on(neighbours: Neighbours) -> None:
    """The quiet one beats, and the daemon answers and works."""
    init = neighbours.init("quiet")
    before = init.beats()
    eventually(lambda: init.beats() >= before + 3, deadline=30.0, why="the quiet one beats")
    assert neighbours.client.vm.stat("quiet").state.power_state is PowerState.RUNNING
    for call in (neighbours.client.vm.pause, neighbours.client.vm.unpause):
        neighbours.client.run(call("quiet"), 30.0)
    assert neighbours.init("quiet") == init


def test_a_fork_bomb_has_its_own_limit_alone(neighbours):
    neighbours.start("bomb", BOMB)
    group = neighbours.group("bomb")
    eventually(lambda: group.pids_used() > PIDS * 9 // 10, why="the bomb is at its limit")
    _goes_on(neighbours)
    assert group.pids_used() <= PIDS
    neighbours.client.run(neighbours.client.vm.shutdown("bomb"), 30.0)
    assert not group.exists


def test_a_memory_hog_ends_alone(neighbours):
    neighbours.start("hog", HOG)
    state = neighbours.client.vm.stat
    eventually(lambda: state("hog").state.power_state is PowerState.HALTED, deadline=60.0)
    assert state("hog").state.reason == "crashed"
    _goes_on(neighbours)


def test_who_wants_every_cpu_leaves_the_others_theirs(neighbours):
    neighbours.start("spin", SPIN)
    group = neighbours.group("spin")
    eventually(lambda: group.cpu_seconds() > 0.5, why="it spins")
    _goes_on(neighbours)


def test_a_cap_holds_against_two_that_spin(neighbours):
    neighbours.start("spin", SPIN)
    group = neighbours.group("spin")
    group.set_cap(20)
    began, used = time.monotonic(), group.cpu_seconds()
    eventually(lambda: group.cpu_seconds() > used + 0.5, why="it has half a second")
    # A second of CPU takes it five: that it takes longer is no failure.
    assert time.monotonic() - began > 1.0
