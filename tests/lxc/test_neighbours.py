"""Containers that take what they can get: their neighbours and the daemon go on."""

import time
from collections.abc import Iterator

import pytest
from rigs.containers import ContainerHost, container_host
from rigs.daemon import eventually

from idl.vm import Action, Container, PowerState

#: Tasks that a container may have here.
PIDS = 200

BOMB = "f() { f | f & }; while :; do f; sleep 0.1; done"
HOG = "exec tail /dev/zero"
SPIN = "while :; do :; done & while :; do :; done"


@pytest.fixture
def neighbours() -> Iterator[ContainerHost]:
    """One of them, `quiet`, runs."""
    with container_host(f"lxc.pids = {PIDS}\n") as found:
        found.start("quiet")
        yield found


def _goes_on(neighbours: ContainerHost) -> None:
    """The quiet one beats, and the daemon answers and works."""
    init = neighbours.init("quiet")
    before = init.beats()
    eventually(lambda: init.beats() >= before + 3, deadline=30.0, why="the quiet one beats")
    assert neighbours.state("quiet").power_state is PowerState.RUNNING
    for call in (neighbours.client.vm.pause, neighbours.client.vm.unpause):
        neighbours.run(call("quiet"))
    assert neighbours.init("quiet") == init


def test_a_fork_bomb_has_its_own_limit_alone(neighbours):
    neighbours.start("bomb", BOMB)
    group = neighbours.group("bomb")
    eventually(lambda: group.pids_used() > PIDS * 9 // 10, why="the bomb is at its limit")
    _goes_on(neighbours)
    assert group.pids_used() <= PIDS
    neighbours.run(neighbours.client.vm.shutdown("bomb"))
    assert not group.exists


def test_a_memory_hog_ends_alone(neighbours):
    neighbours.start("hog", HOG)
    state = neighbours.state
    eventually(lambda: state("hog").power_state is PowerState.HALTED, deadline=60.0)
    assert state("hog").reason == "crashed"
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


def test_one_that_crashes_in_a_loop_is_let_be(neighbours):
    guest = Container(init=["/bin/sh", "-c", "exit 1"])
    neighbours.add("loop", on_crash=[Action.START], guest=guest)
    neighbours.run(neighbours.client.vm.start("loop"))
    expected = "crashed too soon after its start to be started again"
    eventually(lambda: neighbours.state("loop").reason == expected, deadline=30.0)
    assert neighbours.state("loop").power_state is PowerState.HALTED
