"""VIFs of containers on real bridges, seen from the host and from inside."""

import dataclasses
import json
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace
from rigs.netlab import LIMIT, Guest, Lab, run, soon, static, within

from backends.lxc import rtnetlink
from backends.lxc.network import HOST_MAC, Network
from idl.errors import DeadlineExceeded, NetworkError
from idl.vif import Locked, Rate


@pytest.fixture
def lab():
    made = Lab()
    yield made
    made.close()


def links(*args: str) -> dict:
    return {one["ifname"]: one for one in json.loads(run("ip", "-d", "-j", *args, "link"))}


def tables() -> str:
    return run("nft", "list", "tables", "netdev")


def passes(sender: Guest, receiver: Guest, address: str) -> bool:
    """Whether a datagram comes through, again and again until it does."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def opened() -> socket.socket:
        return socket.socket(family, socket.SOCK_DGRAM)

    with within(receiver.netns, opened) as ear, within(sender.netns, opened) as mouth:
        ear.bind((address, 5005))
        ear.settimeout(0.1)
        for _ in range(100):
            mouth.sendto(b"hello", (address, 5005))
            try:
                return ear.recv(10) == b"hello"
            except TimeoutError:
                continue
    return False


def complete(lab: Lab, guest: Guest) -> None:
    """Everything that a plug of the usual VIF, locked and limited, makes is there."""
    device = guest.port.device
    outside = links()[device]
    assert outside["ifalias"] == guest.port.alias
    assert outside["master"] == lab.bridge
    assert outside["address"] == HOST_MAC
    assert "LOWER_UP" in outside["flags"]
    assert "tbf" in run("tc", "qdisc", "show", "dev", device)
    assert f"table netdev {device}" in tables()
    inside = links("-n", guest.name)["eth0"]
    assert (inside["address"], inside["mtu"]) == (guest.mac, 1400)
    assert guest.addresses() == {"10.9.0.1/24", "fd09::1/64"}
    assert "UP" in links("-n", guest.name)["lo"]["flags"]
    for family in ("-4", "-6"):
        assert "default via" in guest.ip(family, "route")


def everything(lab: Lab, guest: Guest):
    return replace(
        lab.usual(guest),
        mtu=1400,
        rate=Rate(kbps=10_000),
        locking_mode=Locked(ipv4=["10.9.0.1"], ipv6=["fd09::1"]),
        ipv4=static("10.9.0.1/24", gateway="10.9.0.254"),
        ipv6=static("fd09::1/64", gateway="fe80::1"),
    )


def test_a_plugged_vif_has_all_that_was_asked(lab):
    guest = lab.guest()
    lab.network.plug(everything(lab, guest), guest.port, deadline=soon())
    complete(lab, guest)
    assert lab.left() == [guest.port.device]


def test_two_guests_reach_each_other(lab):
    one, two = lab.plugged(), lab.plugged()
    assert passes(one, two, "10.9.0.2")
    assert passes(two, one, "fd09::1")


def test_guests_of_user_namespaces_too(lab, eventually):
    guest = lab.guest()
    with run_in_user_namespace() as process:
        netns = Path(f"/proc/{process.pid}/ns/net")
        own = Path("/proc/self/ns/net").readlink()
        eventually(lambda: netns.readlink() != own)
        run("mount", "--bind", str(netns), str(guest.netns))
        try:
            lab.network.plug(everything(lab, guest), guest.port, deadline=soon())
            complete(lab, guest)
            lab.network.unplug(guest.port.device, deadline=soon())
        finally:
            run("umount", str(guest.netns))
            process.kill()


def run_in_user_namespace() -> subprocess.Popen[bytes]:
    command = ["unshare", "--user", "--net", "--map-root-user", "sleep", str(LIMIT * 3)]
    return subprocess.Popen(command)


def test_unplugging_leaves_nothing_and_can_be_repeated(lab):
    guest = lab.guest()
    lab.network.plug(everything(lab, guest), guest.port, deadline=soon())
    for _ in range(2):
        lab.network.unplug(guest.port.device, deadline=soon())
        assert guest.port.device not in links()
        assert guest.port.device not in tables()
        assert "eth0" not in links("-n", guest.name)
        assert lab.left() == []


@pytest.fixture
def cut(monkeypatch):
    """Let the daemon die before the request with this number."""

    class Killed(BaseException):
        pass

    ask = rtnetlink.Talk._ask

    def after(requests: int, act) -> bool:
        """Whether it got so far."""
        left = [requests]

        def asked(self, *args, **options):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return ask(self, *args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(rtnetlink.Talk, "_ask", asked)
            try:
                act()
            except Killed:
                return True
        return False

    return after


def test_a_plug_that_was_cut_anywhere_is_completed_or_undone(lab, cut):
    guest = lab.guest()
    vif = everything(lab, guest)

    def plug() -> None:
        lab.network.plug(vif, guest.port, deadline=soon())

    requests = 0
    while cut(requests, plug):
        plug()
        complete(lab, guest)
        lab.network.unplug(guest.port.device, deadline=soon())
        cut(requests, plug)
        lab.network.unplug(guest.port.device, deadline=soon())
        assert lab.left() == []
        assert guest.port.device not in tables()
        requests += 1
    assert requests > 10


def test_an_unplug_that_was_cut_anywhere_is_completed(lab, cut):
    guest = lab.guest()
    requests, unfinished = 0, True
    while unfinished:
        lab.network.plug(everything(lab, guest), guest.port, deadline=soon())
        unfinished = cut(requests, lambda: lab.network.unplug(guest.port.device, deadline=soon()))
        lab.network.unplug(guest.port.device, deadline=soon())
        assert lab.left() == []
        assert guest.port.device not in tables()
        requests += 1
    assert requests > 2


@pytest.mark.parametrize("where", ["host", "elsewhere", "taken away"])
def test_the_other_side_is_put_where_it_belongs(lab, where):
    guest, third = lab.guest(), lab.guest()
    device = guest.port.device
    if where == "taken away":
        lab.network.plug(everything(lab, guest), guest.port, deadline=soon())
        guest.ip("link", "delete", "eth0")
    else:
        run("ip", "link", "add", device, "type", "veth", "peer", "name", f"{lab.mark}p")
        if where == "elsewhere":
            run("ip", "link", "set", f"{lab.mark}p", "netns", third.name)
    lab.network.plug(everything(lab, guest), guest.port, deadline=soon())
    complete(lab, guest)
    assert f"{lab.mark}p" not in links()


def test_a_table_whose_interface_went_is_found_and_removed(lab):
    guest = lab.guest()
    lab.network.plug(everything(lab, guest), guest.port, deadline=soon())
    guest.ip("link", "delete", "eth0")
    assert guest.port.device not in links()
    assert lab.left() == [guest.port.device]
    lab.network.unplug(guest.port.device, deadline=soon())
    assert lab.left() == []


def test_a_bridge_that_is_not_configured_has_to_exist(lab):
    guest = lab.guest()
    strict = Network([])
    with pytest.raises(NetworkError, match=f"bridge {lab.bridge}.*lxc.bridges"):
        strict.plug(lab.usual(guest), guest.port, deadline=soon())
    assert lab.left() == []
    run("ip", "link", "add", lab.bridge, "type", "bridge")
    strict.plug(lab.usual(guest), guest.port, deadline=soon())
    # It is somebody else's: neither switched on nor given another MAC.
    assert "UP" not in links()[lab.bridge]["flags"]


def test_the_bridge_keeps_its_mac_whoever_comes(lab):
    lab.plugged()
    before = links()[lab.bridge]["address"]
    lab.plugged()
    assert links()[lab.bridge]["address"] == before
    assert "inet" not in run("ip", "address", "show", "dev", lab.bridge)


def test_what_is_no_bridge_is_refused(lab):
    guest = lab.guest()
    with pytest.raises(NetworkError, match=r"bridge lo.*no bridge"):
        lab.network.plug(guest.vif("lo"), guest.port, deadline=soon())


def test_refusals_name_the_interface(lab):
    guest = lab.guest()
    guest.ip("link", "add", "eth0", "type", "bridge")
    with pytest.raises(NetworkError, match=f"{guest.port.device}.*eth0"):
        lab.network.plug(lab.usual(guest), guest.port, deadline=soon())
    nowhere = replace_port(guest, netns=guest.netns.with_name("nowhere"))
    with pytest.raises(NetworkError, match=f"{guest.port.device}.*nowhere"):
        lab.network.plug(lab.usual(guest), nowhere, deadline=soon())
    wrong = guest.vif(lab.bridge, ipv6=static("1::2::3"))
    with pytest.raises(NetworkError, match="1::2::3"):
        lab.network.plug(wrong, guest.port, deadline=soon())
    assert lab.left() == []


def replace_port(guest: Guest, **fields):
    return dataclasses.replace(guest.port, **fields)


def test_past_its_deadline_nothing_is_done(lab):
    guest = lab.guest()
    with pytest.raises(DeadlineExceeded):
        lab.network.plug(lab.usual(guest), guest.port, deadline=time.monotonic() - 1)
    assert lab.left() == []


def held() -> tuple[int, int]:
    """Descriptors and threads."""
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


def test_nothing_leaks(lab):
    guest = lab.guest()
    vif = lab.usual(guest)

    def cycle() -> None:
        lab.network.plug(vif, guest.port, deadline=soon())
        lab.network.unplug(guest.port.device, deadline=soon())

    cycle()
    before = held()
    with ThreadPoolExecutor(4) as pool:
        pool.submit(cycle).result()
    for _ in range(200):
        cycle()
    assert held() == before


def test_fifty_at_once_from_four_threads(lab):
    guests = [lab.guest() for _ in range(50)]
    vifs = [
        lab.usual(guest, rate=Rate(kbps=1000) if index % 2 else None)
        for index, guest in enumerate(guests)
    ]

    def plug(index: int) -> None:
        lab.network.plug(vifs[index], guests[index].port, deadline=soon())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(plug, range(50)))
        assert lab.left() == sorted(guest.port.device for guest in guests)
        assert passes(guests[0], guests[48], "10.9.0.49")
        devices = [guest.port.device for guest in guests]
        list(pool.map(lambda one: lab.network.unplug(one, deadline=soon()), devices))
    assert lab.left() == []
