"""Suspend and resume of real containers through the daemon, and what a crash makes of them."""

import tempfile
from collections.abc import Iterator

import pytest
from rigs.containers import ContainerHost, container_host
from rigs.daemon import eventually

from idl.errors import XenopsError
from idl.vm import PowerState
from xenopsd.killpoints import VARIABLE

#: A program whose memory alone knows how far it has counted, with a file on its root's layer.
COUNTER = """
mount -t tmpfs tmpfs /run
echo of the first life > /kept
n=0
while :; do n=$((n + 1)); echo $n > /run/heartbeat; usleep 20000; done
"""


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[ContainerHost]:
    # This kernel maps no ids of a tmpfs.
    monkeypatch.setattr(tempfile, "tempdir", "/var/tmp")  # a name of its own below
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


def test_a_paused_resume_stands_until_it_is_unpaused(host):
    host.start("web", COUNTER)
    beats_beyond(host, "web", 5)
    host.run(host.client.vm.suspend("web"))
    host.run(host.client.vm.resume("web", paused=True))
    assert power(host, "web") == PowerState.PAUSED
    stands = host.init("web").beats()
    host.run(host.client.vm.unpause("web"))
    beats_beyond(host, "web", stands)


def restart(host: ContainerHost, environ: dict[str, str] | None = None) -> None:
    """Another daemon in the place of this one, which may have died."""
    host.client.close()
    host.daemon.kill()
    host.daemon.start(environ)
    host.daemon.recovered()
    host.client = host.daemon.client()


@pytest.mark.parametrize("point", ["vm_save:before", "vm_save:after"])
def test_a_suspend_that_was_cut_ends_running_or_suspended(host, point):
    host.start("web", COUNTER)
    beats_beyond(host, "web", 50)
    cut(host, point, "suspend")
    ends_intact(host)


@pytest.mark.parametrize("point", ["vm_restore:before"])
def test_a_resume_that_was_cut_ends_running_or_suspended(host, point):
    host.start("web", COUNTER)
    beats_beyond(host, "web", 50)
    host.run(host.client.vm.suspend("web"))
    cut(host, point, "resume")
    ends_intact(host)


def cut(host: ContainerHost, point: str, call: str) -> None:
    """Have the daemon die at a point of an operation, and come back."""
    restart(host, {VARIABLE: f"{point},1"})
    with pytest.raises((XenopsError, OSError)):
        host.run(getattr(host.client.vm, call)("web"))
    host.daemon.wait()
    restart(host)


def ends_intact(host: ContainerHost) -> None:
    """As "After a crash" has it; and it counts on from where it was, which is beyond 50."""
    settled = {PowerState.RUNNING, PowerState.SUSPENDED}
    eventually(lambda: power(host, "web") in settled, deadline=60.0, why="it settles")
    if power(host, "web") == PowerState.SUSPENDED:
        host.run(host.client.vm.resume("web"))
    found = host.init("web").beats()
    assert found > 50
    beats_beyond(host, "web", found)
