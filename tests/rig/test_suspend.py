"""Suspend and resume of real containers through the daemon."""

from collections.abc import Iterator

import pytest
from rigs.containers import ContainerHost, container_host
from rigs.daemon import eventually

from backends.lxc.apart.processes import cannot_be_stopped
from idl.errors import HypervisorError
from idl.vm import PowerState

#: A program whose memory alone knows how far it has counted, with a file on its root's layer.
COUNTER = """
mount -t tmpfs tmpfs /run
echo of the first life > /kept
n=0
while :; do n=$((n + 1)); echo $n > /run/heartbeat; usleep 20000; done
"""


@pytest.fixture
def host() -> Iterator[ContainerHost]:
    with container_host() as found:
        yield found


def beats_beyond(host: ContainerHost, vm: str, number: int) -> None:
    init = host.init(vm)
    eventually(lambda: init.beats() > number, deadline=30.0, why=f"stands at {init.beats()}")


def power(host: ContainerHost, vm: str) -> PowerState:
    return host.state(vm).power_state


def test_a_counter_goes_on_after_a_restart_of_the_daemon(host):
    host.start("web", COUNTER)
    beats_beyond(host, "web", 50)
    host.run(host.client.vm.suspend("web"))
    assert power(host, "web") == PowerState.SUSPENDED
    restart(host)
    assert power(host, "web") == PowerState.SUSPENDED
    host.run(host.client.vm.resume("web"))
    assert power(host, "web") == PowerState.RUNNING
    assert host.init("web").beats() >= 50
    beats_beyond(host, "web", host.init("web").beats())
    assert (host.init("web").root / "kept").read_text() == "of the first life\n"


def test_a_guest_that_cannot_be_stopped_is_told_of_and_suspended_later(host):
    """busybox's login reads /etc/motd in a child of its vfork; until that executes a shell, the
    parent cannot be stopped, and CRIU would wait for it."""
    host.start("web", f"mkfifo /etc/motd; login -f root <>/dev/console >&0 2>&1 &{COUNTER}")
    beats_beyond(host, "web", 5)
    group = host.group("web")
    eventually(lambda: any(map(cannot_be_stopped, group.pids())), deadline=30.0, why="it waits")
    with pytest.raises(HypervisorError, match="vfork"):
        host.run(host.client.vm.suspend("web"))
    assert power(host, "web") == PowerState.RUNNING
    init = host.init("web")
    beats_beyond(host, "web", init.beats())
    (init.root / "etc/motd").write_text("welcome\n")
    host.run(host.client.vm.suspend("web"))
    host.run(host.client.vm.resume("web"))
    beats_beyond(host, "web", host.init("web").beats())


def test_a_paused_resume_stands_until_it_is_unpaused(host):
    host.start("web", COUNTER)
    beats_beyond(host, "web", 5)
    # Looked at before: it may be stopped while it writes, and stand with nothing in its file.
    before = host.init("web").beats()
    host.run(host.client.vm.suspend("web"))
    host.run(host.client.vm.resume("web", paused=True))
    assert power(host, "web") == PowerState.PAUSED
    host.run(host.client.vm.unpause("web"))
    beats_beyond(host, "web", before)


def restart(host: ContainerHost) -> None:
    """Another daemon in the place of this one."""
    host.client.close()
    host.daemon.kill()
    host.daemon.start()
    host.daemon.recovered()
    host.client = host.daemon.client()
