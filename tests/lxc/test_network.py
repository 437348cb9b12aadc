"""VIFs of containers on real bridges, seen from the host and from inside."""

import dataclasses
import json
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace
from rigs.netlab import (
    ARP,
    IP,
    LIMIT,
    Guest,
    Lab,
    arp,
    frame,
    inbound,
    mac,
    passes,
    run,
    soon,
    speak,
    static,
)

from backends.lxc import rtnetlink
from backends.lxc.network import HOST_MAC, Network
from idl.errors import DeadlineExceeded, InvalidParameter, NetworkError
from idl.vif import Bridge, IpConfiguration, Locked, Rate, Vif


@pytest.fixture
def lab():
    made = Lab()
    yield made
    made.close()


def links(*args: str) -> dict:
    return {one["ifname"]: one for one in json.loads(run("ip", "-d", "-j", *args, "link"))}


def tables() -> str:
    return run("nft", "list", "tables", "netdev")


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


def test_an_interface_that_was_renamed_is_unplugged(lab):
    guest, other = lab.guest(), lab.guest()
    for one in (guest, other):
        lab.network.plug(everything(lab, one), one.port, deadline=soon())
    renamed = f"{lab.mark}new"
    run("ip", "link", "set", guest.port.device, "name", renamed)
    lab.network.unplug(guest.port.device, guest.port.alias, deadline=soon())
    assert renamed not in links()
    assert other.port.device in links()
    lab.network.unplug(other.port.device, deadline=soon())
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


def test_the_host_does_not_speak_for_a_guest(lab):
    """An address that the host has elsewhere is none on the guests' bridge."""
    one, two = lab.plugged(), lab.plugged()
    run("ip", "link", "add", lab.other, "type", "bridge")
    run("ip", "address", "add", "10.9.0.200/32", "dev", lab.other)
    question = {"who": frame(one.mac, ARP, arp(one.mac, "198.51.100.1", "10.9.0.200"))}
    end = {"end": frame(two.mac, 0x88B5, bytes(40))}
    with one.wire() as wire, two.wire() as mouth:
        speak(wire, question)
        speak(mouth, end)
        assert not [raw for raw in inbound(wire, end) if raw[:6] == mac(one.mac)]


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


def configure(lab: Lab, guest: Guest, field: str, vif: Vif, before: Vif) -> None:
    # Found half done, or done, it is done again.
    for _ in range(2):
        lab.network.configure(vif, field, guest.port, before=before, deadline=soon())


def test_a_running_guest_moves_between_bridges(lab):
    one, two, third = lab.plugged(), lab.plugged(), lab.guest()
    elsewhere = replace(lab.usual(third), backend=Bridge(name=lab.other))
    lab.network.plug(elsewhere, third.port, deadline=soon())
    assert passes(one, two, "10.9.0.2")
    assert not passes(one, third, "10.9.0.3", tries=3)
    moved = replace(lab.usual(one), backend=Bridge(name=lab.other))
    configure(lab, one, "backend", moved, lab.usual(one))
    assert passes(one, third, "10.9.0.3")
    assert not passes(one, two, "10.9.0.2", tries=3)
    assert one.addresses() == {"10.9.0.1/24", "fd09::1/64"}
    missing = replace(moved, backend=Bridge(name="nowhere"))
    with pytest.raises(NetworkError, match="bridge nowhere"):
        lab.network.configure(missing, "backend", one.port, before=moved, deadline=soon())
    assert passes(one, third, "10.9.0.3")


def test_the_cable_is_pulled_and_put_in(lab):
    guest = lab.guest()
    out, into = lab.usual(guest, carrier=False), lab.usual(guest)

    def cable() -> bool:
        return "LOWER_UP" in links("-n", guest.name)["eth0"]["flags"]

    lab.network.plug(out, guest.port, deadline=soon())
    assert not cable()
    assert guest.addresses() == {"10.9.0.1/24", "fd09::1/64"}
    configure(lab, guest, "carrier", into, out)
    assert cable()
    configure(lab, guest, "carrier", out, into)
    assert not cable()
    # Nor does moving it put the cable in.
    moved = replace(out, backend=Bridge(name=lab.other))
    configure(lab, guest, "backend", moved, out)
    assert not cable()


def default(guest: Guest, family: str) -> list[str]:
    """Gateways."""
    lines = guest.ip(family, "route", "show", "default").splitlines()
    return [line.split()[2] for line in lines]


def test_addresses_change_and_the_guests_own_stay(lab):
    guest = lab.guest()
    before = lab.usual(guest, ipv4=static("10.9.0.1/24", "10.9.1.1/24", gateway="10.9.0.254"))
    lab.network.plug(before, guest.port, deadline=soon())
    # In the same network, so that the kernel would remove it with the first one.
    guest.ip("address", "add", "10.9.0.77/24", "dev", "eth0")
    after = replace(before, ipv4=static("10.9.1.1/24", "10.9.2.1/24", gateway="10.9.1.254"))
    configure(lab, guest, "ipv4", after, before)
    assert guest.addresses() == {"10.9.0.77/24", "10.9.1.1/24", "10.9.2.1/24", "fd09::1/64"}
    assert default(guest, "-4") == ["10.9.1.254"]
    none = replace(after, ipv4=IpConfiguration())
    configure(lab, guest, "ipv4", none, after)
    assert guest.addresses() == {"10.9.0.77/24", "fd09::1/64"}
    assert default(guest, "-4") == []


def test_ipv6_addresses_change_too(lab):
    guest = lab.guest()
    before = lab.usual(guest, ipv6=static("fd09::1/64", gateway="fe80::1"))
    lab.network.plug(before, guest.port, deadline=soon())
    guest.ip("address", "add", "fd09::77/64", "dev", "eth0")
    after = replace(before, ipv6=static("fd0a::1/64", gateway="fd0a::fe"))
    configure(lab, guest, "ipv6", after, before)
    assert guest.addresses() == {"10.9.0.1/24", "fd09::77/64", "fd0a::1/64"}
    assert default(guest, "-6") == ["fd0a::fe"]
    configure(lab, guest, "ipv6", replace(after, ipv6=static("fd0a::1/64")), after)
    assert default(guest, "-6") == []


def test_two_vifs_may_both_have_a_gateway(lab):
    guest = lab.guest()
    for position in (0, 1):
        number = position + 1
        own = static(f"10.{number}.0.1/24", gateway=f"10.{number}.0.254")
        vif = replace(lab.usual(guest, ipv4=own, ipv6=static()), position=position)
        port = replace_port(guest, device=f"xv{lab.mark}00f{position}", inside=f"eth{position}")
        lab.network.plug(vif, port, deadline=soon())
    assert default(guest, "-4") == ["10.1.0.254", "10.2.0.254"]


def test_it_is_found_under_another_name(lab):
    """A guest may call its side what it likes."""
    guest = lab.plugged()
    guest.ip("link", "set", "eth0", "down")
    guest.ip("link", "set", "eth0", "name", "mine")
    after = lab.usual(guest, ipv4=static("10.9.0.9/24"))
    configure(lab, guest, "ipv4", after, lab.usual(guest))
    assert "10.9.0.9/24" in guest.ip("address", "show", "dev", "mine")


def test_a_side_that_the_guest_has_removed_is_told(lab):
    guest = lab.plugged()
    guest.ip("link", "delete", "eth0")
    with pytest.raises(NetworkError, match=r"removed its side.*plug it again"):
        configure(lab, guest, "carrier", lab.usual(guest), lab.usual(guest))
    with pytest.raises(NetworkError, match="no such interface"):
        lab.network.counters(guest.port.device, deadline=soon())


def test_what_cannot_be_changed_is_refused(lab):
    guest = lab.plugged()
    with pytest.raises(InvalidParameter, match="mac"):
        configure(lab, guest, "mac", lab.usual(guest), lab.usual(guest))


def test_counters_are_the_guests(lab):
    one, two = lab.plugged(), lab.plugged()
    assert passes(one, two, "10.9.0.2")
    with one.wire() as wire:
        before = lab.network.counters(one.port.device, deadline=soon())
        for _ in range(10):
            wire.send(frame(one.mac, IP, bytes(986)))
        after = lab.network.counters(one.port.device, deadline=soon())
    assert after["tx_packets"] - before["tx_packets"] >= 10
    assert after["tx_bytes"] - before["tx_bytes"] >= 10_000
    assert after["rx_bytes"] - before["rx_bytes"] < 5_000
