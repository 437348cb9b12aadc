"""Bridges, network namespaces that stand for guests, and frames between them."""

import os
import socket
import struct
import subprocess
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from backends.lxc.apart import syscalls
from backends.lxc.network import Network, Port
from idl.vif import Bridge, IpConfiguration, Vif

T = TypeVar("T")
#: How long anything may take here, in seconds.
LIMIT = 10.0
BROADCAST = "ff:ff:ff:ff:ff:ff"
ARP, IP, VLAN, IP6 = 0x0806, 0x0800, 0x8100, 0x86DD


def soon() -> float:
    """A deadline."""
    return time.monotonic() + LIMIT


def run(*command: str) -> str:
    """What a program prints; its complaint is the test's failure."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def within(netns: Path, function: Callable[..., T], *args: Any) -> T:
    """Call it in a network namespace; sockets that it opens stay in there."""
    outcome: list[T | BaseException] = []

    def inside() -> None:
        try:
            fd = os.open(netns, os.O_RDONLY)
            syscalls.setns(fd, syscalls.CLONE_NEWNET)
            os.close(fd)
            outcome.append(function(*args))
        except BaseException as exc:  # noqa: BLE001  # raised again below
            outcome.append(exc)

    thread = Thread(target=inside)
    thread.start()
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


class Guest:
    """A network namespace with a VIF."""

    def __init__(self, lab: "Lab", number: int) -> None:
        self.name = f"{lab.mark}g{number}"
        self.netns = Path("/run/netns") / self.name
        self.mac = f"02:00:00:00:00:{number:02x}"
        self.port = Port(f"xv{lab.mark}{number:04x}", f"{lab.alias}g{number}", "eth0", self.netns)
        run("ip", "netns", "add", self.name)

    def vif(self, bridge: str, **fields: Any) -> Vif:
        return Vif(id=f"{self.name}/0", mac=self.mac, backend=Bridge(name=bridge), **fields)

    def ip(self, *args: str) -> str:
        return run("ip", "-n", self.name, *args)

    def addresses(self) -> set[str]:
        """Those of eth0, without what the kernel gives by itself."""
        lines = self.ip("-o", "address", "show", "dev", "eth0").splitlines()
        return {a for line in lines if not (a := line.split()[3]).startswith("fe80:")}

    def wire(self, device: str = "eth0") -> socket.socket:
        """Everything that comes in at its side, and frames as they are."""

        def opened() -> socket.socket:
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            wire.bind((device, 3))
            return wire

        return within(self.netns, opened)


class Lab:
    """What a test makes on the host, with names of its own; all of it goes in `close`."""

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex[:8]
        self.alias = f"xenopsd {self.mark} "
        self.bridge, self.other = f"{self.mark}a", f"{self.mark}b"
        self.network = Network([self.bridge, self.other])
        self.guests: list[Guest] = []

    def guest(self) -> Guest:
        self.guests.append(Guest(self, len(self.guests) + 1))
        return self.guests[-1]

    def plugged(self, **fields: Any) -> Guest:
        """A guest with a VIF on the bridge, 10.9.0.N and fd09::N."""
        guest = self.guest()
        self.network.plug(self.usual(guest, **fields), guest.port, deadline=soon())
        return guest

    def usual(self, guest: Guest, **fields: Any) -> Vif:
        number = self.guests.index(guest) + 1
        own = {"ipv4": static(f"10.9.0.{number}/24"), "ipv6": static(f"fd09::{number}/64")}
        return guest.vif(self.bridge, **own | fields)

    def left(self) -> list[str]:
        return self.network.devices(self.alias, deadline=soon())

    def close(self) -> None:
        for guest in self.guests:
            self.network.unplug(guest.port.device, deadline=soon())
            run("ip", "netns", "delete", guest.name)
        for bridge in (self.bridge, self.other):
            with suppress(AssertionError):
                run("ip", "link", "delete", bridge)


def passes(sender: Guest, receiver: Guest, address: str, tries: int = 100) -> bool:
    """Whether a datagram comes through, again and again until it does."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def opened() -> socket.socket:
        return socket.socket(family, socket.SOCK_DGRAM)

    with within(receiver.netns, opened) as ear, within(sender.netns, opened) as mouth:
        ear.bind((address, 5005))
        ear.settimeout(0.1)
        for _ in range(tries):
            mouth.sendto(b"hello", (address, 5005))
            try:
                return ear.recv(10) == b"hello"
            except TimeoutError:
                continue
    return False


def static(*addresses: str, gateway: str | None = None) -> IpConfiguration:
    return IpConfiguration(type="static", addresses=list(addresses), gateway=gateway)


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def frame(source: str, kind: int, payload: bytes, to: str = BROADCAST) -> bytes:
    return mac(to) + mac(source) + struct.pack("!H", kind) + payload


def arp(sender: str, ip: str, target: str, operation: int = 1) -> bytes:
    head = struct.pack("!HHBBH", 1, IP, 6, 4, operation)
    ends = mac(sender) + IPv4Address(ip).packed + bytes(6) + IPv4Address(target).packed
    return head + ends


def udp(payload: bytes, source: int = 5000, to: int = 5000) -> bytes:
    return struct.pack("!HHHH", source, to, 8 + len(payload), 0) + payload


def ipv4(source: str, payload: bytes, to: str = "10.9.0.255", protocol: int = 17) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
    ends = IPv4Address(source).packed + IPv4Address(to).packed
    total = sum(struct.unpack("!10H", head + ends))
    checksum = ~((total >> 16) + (total & 0xFFFF)) & 0xFFFF
    return head[:10] + struct.pack("!H", checksum) + ends + payload


def ipv6(source: str, payload: bytes, protocol: int = 17, to: str = "ff02::1") -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 255)
    return head + IPv6Address(source).packed + IPv6Address(to).packed + payload


def discovery(kind: int, target: str) -> bytes:
    """ICMPv6: a neighbour solicitation (135), an advertisement (136) and the like."""
    return struct.pack("!BBHI", kind, 0, 0, 0) + IPv6Address(target).packed


def groups(frames: Iterable[str]) -> dict[bytes, str]:
    """Where each of them goes: to a group of its own, by which it is told when it arrives."""
    return {b"\3\0" + struct.pack("!I", zlib.crc32(name.encode())): name for name in frames}


def speak(wire: socket.socket, frames: Mapping[str, bytes]) -> None:
    """Send them."""
    for group, name in groups(frames).items():
        wire.send(group + frames[name][6:])


def inbound(wire: socket.socket, last: Mapping[str, bytes]) -> Iterator[bytes]:
    """What comes in, up to and with this frame, which has to."""
    deadline, (end,), raw = soon(), groups(last), b""
    while raw[:6] != end:
        wire.settimeout(max(deadline - time.monotonic(), 0.001))
        raw, (_, _, direction, *_) = wire.recvfrom(1 << 17)
        if direction != socket.PACKET_OUTGOING:
            yield raw


def heard(wire: socket.socket, frames: Mapping[str, bytes]) -> set[str]:
    """The names of the frames that come in. The last one has to: it ends the wait."""
    names, last = groups(frames), list(frames)[-1]
    found = inbound(wire, {last: frames[last]})
    return {names[raw[:6]] for raw in found if raw[:6] in names}


def arriving(frames: Mapping[str, bytes], sender: Guest, receiver: Guest) -> set[str]:
    """The names of those that arrive."""
    with sender.wire() as mouth, receiver.wire() as ear:
        speak(mouth, frames)
        return heard(ear, frames)
