"""What a guest can send and what it cannot: frames made by hand, on the wire."""

import struct

import pytest
from rigs import netlab
from rigs.netlab import (
    ARP,
    IP,
    IP6,
    VLAN,
    Guest,
    Lab,
    arp,
    arriving,
    discovery,
    frame,
    heard,
    passes,
    run,
    soon,
    speak,
)

from idl.vif import Disabled, IpConfiguration, Locked, Rate, Unlocked

OWN, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:99"
LINK_LOCAL = "fe80::ff:fe00:1"
LOCKED = Locked(ipv4=["10.9.0.1", "10.8.0.0/16"], ipv6=["fd09::1", "fd08::/64"])


def ip(source: str, *, port: int = 5000) -> bytes:
    return netlab.ipv4(source, netlab.udp(b"", port))


def ip6(source: str, *, port: int = 5000) -> bytes:
    return netlab.ipv6(source, netlab.udp(b"", port))


def icmp6(source: str, kind: int, target: str) -> bytes:
    return netlab.ipv6(source, discovery(kind, target), 58)


#: The header of a fragment of ICMPv6, from byte 128 on.
LATER = struct.pack("!BBHI", 58, 0, 128, 7)
#: The last one of each has to arrive.
HONEST = {
    "arp": frame(OWN, ARP, arp(OWN, "10.9.0.1", "10.9.0.2")),
    "arp answer": frame(OWN, ARP, arp(OWN, "10.8.1.1", "10.9.0.2", 2)),
    "arp probe": frame(OWN, ARP, arp(OWN, "0.0.0.0", "10.9.0.1")),
    "ip": frame(OWN, IP, ip("10.9.0.1")),
    "ip of the network": frame(OWN, IP, ip("10.8.255.1")),
    "ip6": frame(OWN, IP6, ip6("fd09::1")),
    "ip6 of the network": frame(OWN, IP6, ip6("fd08::abcd")),
    "link-local": frame(OWN, IP6, ip6(LINK_LOCAL)),
    "solicitation": frame(OWN, IP6, icmp6(LINK_LOCAL, 135, "fd09::2")),
    "is my address free": frame(OWN, IP6, icmp6("::", 135, "fd09::1")),
    "router solicitation": frame(OWN, IP6, icmp6("::", 133, "::")),
    "listener report": frame(OWN, IP6, icmp6("::", 143, "::")),
    "advertisement": frame(OWN, IP6, icmp6("fd09::1", 136, "fd09::1")),
    "advertisement of the network": frame(OWN, IP6, icmp6(LINK_LOCAL, 136, "fd08::7")),
    "report as it is sent": frame(
        OWN, IP6, netlab.ipv6("::", b"\x3a\0\5\2\0\0\1\0" + discovery(143, "::"), 0)
    ),
    "later fragment": frame(OWN, IP6, netlab.ipv6("fd09::1", LATER + bytes(64), 44)),
    "large": frame(OWN, IP, netlab.ipv4("10.9.0.1", bytes(1400))),
}
FORGED = {
    "mac": frame(OTHER, IP, ip("10.9.0.1")),
    "arp mac": frame(OWN, ARP, arp(OTHER, "10.9.0.1", "10.9.0.2", 2)),
    "arp ip": frame(OWN, ARP, arp(OWN, "10.9.0.254", "10.9.0.2", 2)),
    "arp to all": frame(OWN, ARP, arp(OWN, "10.9.0.254", "10.9.0.254")),
    "arp probe of others": frame(OWN, ARP, arp(OWN, "0.0.0.0", "10.9.0.254")),
    "arp of another make": frame(OWN, ARP, b"\0\6" + arp(OWN, "10.9.0.1", "10.9.0.2")[2:]),
    "ip": frame(OWN, IP, ip("10.9.0.254")),
    "ip zero": frame(OWN, IP, ip("0.0.0.0")),
    "dhcp request": frame(OWN, IP, netlab.ipv4("0.0.0.0", netlab.udp(b"", 68, 67))),
    "dhcp server": frame(OWN, IP, ip("10.9.0.1", port=67)),
    "ip6": frame(OWN, IP6, ip6("fd09::254")),
    "ip6 link-local": frame(OWN, IP6, ip6("fe80::1")),
    "ip6 nobody": frame(OWN, IP6, ip6("::")),
    "dhcp server 6": frame(OWN, IP6, ip6(LINK_LOCAL, port=547)),
    "is its address free": frame(OWN, IP6, icmp6("::", 135, "fd09::254")),
    "advertisement": frame(OWN, IP6, icmp6("fd09::1", 136, "fd09::254")),
    "router advertisement": frame(OWN, IP6, icmp6(LINK_LOCAL, 134, "::")),
    "redirect": frame(OWN, IP6, icmp6(LINK_LOCAL, 137, "fd09::254")),
    "later fragment": frame(OWN, IP6, netlab.ipv6("fd09::254", LATER + bytes(64), 44)),
    "behind a header": frame(
        OWN, IP6, netlab.ipv6("fd09::1", b"\x3a\0\1\4\0\0\0\0" + discovery(136, "fd09::254"), 60)
    ),
    "vlan": frame(OWN, VLAN, struct.pack("!HH", 5, IP) + ip("10.9.0.1")),
    "vlan zero": frame(OWN, VLAN, struct.pack("!HH", 0, ARP) + arp(OWN, "10.9.0.1", "10.9.0.2")),
    "two vlans": frame(OWN, 0x88A8, struct.pack("!HHHH", 5, VLAN, 6, IP) + ip("10.9.0.254")),
    "another kind": frame(OWN, 0x88B5, bytes(50)),
    "no kind": frame(OWN, 50, b"\xaa\xaa\3" + bytes(47)),
}
MARKER = {"marker": frame(OWN, IP, ip("10.9.0.1"))}


@pytest.fixture
def lab():
    made = Lab()
    run("ip", "link", "add", made.bridge, "type", "bridge", "mcast_snooping", "0")
    yield made
    made.close()


@pytest.fixture
def pair(lab) -> tuple[Guest, Guest]:
    return lab.plugged(), lab.plugged()


def lock(lab: Lab, guest: Guest, mode, **fields) -> None:
    before = lab.usual(guest)
    lab.network.configure(
        lab.usual(guest, locking_mode=mode, **fields),
        "locking_mode",
        guest.port,
        before=before,
        deadline=soon(),
    )


def forged() -> dict[str, bytes]:
    return {f"forged {name}": one for name, one in FORGED.items()}


@pytest.mark.parametrize("rate", [None, Rate(kbps=1_000_000)])
def test_a_locked_guest_speaks_for_itself_alone(lab, pair, rate):
    lock(lab, pair[0], LOCKED, rate=rate)
    assert arriving(forged() | HONEST, *pair) == set(HONEST)


def test_two_locked_guests_find_each_other(lab, pair):
    for number, guest in enumerate(pair, 1):
        lock(lab, guest, Locked(ipv4=[f"10.9.0.{number}"], ipv6=[f"fd09::{number}"]))
        guest.ip("neighbour", "flush", "dev", "eth0")
    assert passes(*pair, "10.9.0.2")
    assert passes(*pair, "fd09::2")
    lock(lab, pair[1], Locked(ipv4=["10.9.0.3"], ipv6=["fd09::3"]))
    pair[0].ip("neighbour", "flush", "dev", "eth0")
    assert not passes(*pair, "10.9.0.2", tries=3)
    assert not passes(*pair, "fd09::2", tries=3)


def test_unlocked_anything_passes(lab, pair):
    every = forged() | HONEST
    assert arriving(every, *pair) == set(every)
    lock(lab, pair[0], LOCKED)
    lock(lab, pair[0], Unlocked())
    assert arriving(every, *pair) == set(every)


def test_others_can_speak_to_a_locked_guest(lab, pair):
    lock(lab, pair[0], LOCKED)
    every = {"strange": FORGED["another kind"]} | MARKER
    assert arriving(every, pair[1], pair[0]) == set(every)


def test_a_guest_cannot_undo_it(lab, pair):
    sender, _ = pair
    lock(lab, sender, LOCKED)
    sender.ip("link", "set", "eth0", "down", "address", OTHER)
    sender.ip("link", "set", "eth0", "name", "mine")
    sender.ip("link", "set", "mine", "name", "eth0", "up")
    sender.ip("address", "add", "10.9.0.254/24", "dev", "eth0")
    assert arriving(forged() | MARKER, *pair) == {"marker"}


def test_without_addresses_it_is_mute(lab, pair):
    lock(lab, pair[0], Locked())
    with pair[0].wire() as mouth, pair[1].wire() as ear:
        speak(mouth, HONEST)
        lock(lab, pair[0], Unlocked())
        speak(mouth, MARKER)
        assert heard(ear, HONEST | MARKER) == {"marker"}


def test_with_dhcp_it_may_ask_for_an_address(lab, pair):
    asking = {"request": FORGED["dhcp request"]}
    lock(lab, pair[0], LOCKED, ipv4=IpConfiguration(type="dhcp"))
    others = forged()
    del others["forged dhcp request"]
    assert arriving(others | asking | MARKER, *pair) == {"request", "marker"}


def test_disabled_nothing_passes_either_way(lab, pair):
    lock(lab, pair[0], Disabled())
    with pair[0].wire() as one, pair[1].wire() as two:
        for wire in (one, two):
            speak(wire, HONEST)
        lock(lab, pair[0], Unlocked())
        for wire, other in ((one, two), (two, one)):
            speak(wire, MARKER)
            assert heard(other, HONEST | MARKER) == {"marker"}


def test_rules_hold_from_the_first_frame(lab):
    """A guest that sends as soon as it can."""
    listener, sender = lab.plugged(), lab.guest()
    vif = lab.usual(sender, locking_mode=Locked(ipv4=["10.9.0.2"]))
    every = {"forged": FORGED["mac"], "marker": frame(sender.mac, IP, ip("10.9.0.2"))}
    for _ in range(5):
        lab.network.plug(vif, sender.port, deadline=soon())
        assert arriving(every, sender, listener) == {"marker"}
        lab.network.unplug(sender.port.device, deadline=soon())
