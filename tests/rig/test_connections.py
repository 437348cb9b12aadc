"""What becomes of a guest's established connection when it is suspended and resumed."""

import select
import socket
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from rigs.containers import ContainerHost, container_host
from rigs.daemon import eventually

from idl.errors import HypervisorError
from idl.vif import Bridge, IpConfiguration, Vif
from idl.vm import Container, PowerState

NETWORK = "10.77.0"
#: How long anything may take here, in seconds.
LIMIT = 60.0

#: Sends numbers to the host for as long as that takes them; its heart beats on.
TALKER = """
mount -t tmpfs tmpfs /run
counts() { n=0; while :; do n=$((n + 1)); echo $n; usleep 50000; done; }
counts | nc 10.77.0.1 7777 >/run/heard &
m=0
while :; do m=$((m + 1)); echo $m > /run/heartbeat; usleep 50000; done
"""


@dataclass
class Line:
    """The host's end of a guest's connection: the numbers that have come."""

    connection: socket.socket
    numbers: list[int] = field(default_factory=list)
    _rest: bytes = b""

    def hear(self) -> bool:
        """Take what is there; whether it is still open."""
        while select.select([self.connection], [], [], 0)[0]:
            got = self.connection.recv(1 << 16)
            if not got:
                return False
            *lines, self._rest = (self._rest + got).split(b"\n")
            self.numbers += [int(line) for line in lines]
        return True

    def heard_beyond(self, number: int) -> None:
        def beyond() -> bool:
            assert self.hear(), "it was closed"
            return bool(self.numbers) and self.numbers[-1] > number

        eventually(beyond, deadline=LIMIT, why=f"{self.numbers[-3:]} has come")


@pytest.fixture
def bridge() -> Iterator[str]:
    """A bridge on which the host has an address."""
    name = f"r{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "addr", "add", f"{NETWORK}.1/24", "dev", name], check=True)
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "link", "delete", name], check=True)


@pytest.fixture
def host(bridge: str) -> Iterator[ContainerHost]:
    with container_host() as found:
        found.add("web", guest=Container(init=["/bin/sh", "-c", TALKER]))
        vif = Vif(id="web/net", backend=Bridge(name=bridge), ipv4=at(2))
        found.client.vif.add(vif)
        yield found


@pytest.fixture
def line(host: ContainerHost) -> Iterator[Line]:
    """The VM runs, and its guest has called."""
    with socket.create_server((f"{NETWORK}.1", 7777)) as server:
        host.run(host.client.vm.start("web"))
        server.settimeout(LIMIT)
        connection, _ = server.accept()
        with connection:
            line = Line(connection)
            line.heard_beyond(20)
            yield line


def at(number: int) -> IpConfiguration:
    return IpConfiguration(type="static", addresses=[f"{NETWORK}.{number}/24"])


def beats_on(host: ContainerHost) -> None:
    init = host.init("web")
    before = init.beats()
    eventually(lambda: init.beats() > before, deadline=LIMIT, why="it beats")


def test_a_connection_goes_on_and_loses_nothing(host: ContainerHost, line: Line):
    host.run(host.client.vm.suspend("web"))
    assert line.hear(), "a suspend closes it"
    line.connection.sendall(b"while you slept\n")
    host.run(host.client.vm.resume("web"))
    line.heard_beyond(line.numbers[-1])
    assert line.numbers == list(range(1, len(line.numbers) + 1))
    heard = host.init("web").root / "run/heard"
    eventually(lambda: heard.read_text() == "while you slept\n", deadline=LIMIT)


def test_a_peer_that_has_gone_costs_the_connection_alone(host: ContainerHost, line: Line):
    host.run(host.client.vm.suspend("web"))
    line.connection.close()
    host.run(host.client.vm.resume("web"))
    beats_on(host)

    def over() -> bool:
        netns = f"--net=/proc/{host.init('web').pid}/ns/net"
        listed = ["nsenter", netns, "ss", "-Htn", "state", "established"]
        done = subprocess.run(listed, check=True, capture_output=True, text=True)
        return not done.stdout.strip()

    eventually(over, deadline=LIMIT, why="its end is closed")
    beats_on(host)


def test_without_its_address_it_stays_suspended_until_that_is_back(
    host: ContainerHost, line: Line
):
    host.run(host.client.vm.suspend("web"))
    host.run(host.client.vif.set_ipv4_configuration("web/net", at(3)))
    with pytest.raises(HypervisorError, match="criu"):
        host.run(host.client.vm.resume("web"))
    assert host.state("web").power_state == PowerState.SUSPENDED
    host.run(host.client.vif.set_ipv4_configuration("web/net", at(2)))
    host.run(host.client.vm.resume("web"))
    line.heard_beyond(line.numbers[-1])
    assert line.numbers == list(range(1, len(line.numbers) + 1))
