"""The kernel's links, addresses, routes and queues over netlink, in any network namespace.

The only module that knows pyroute2, of which it uses the messages alone: its sockets keep an
event loop, and with it descriptors, for each thread. Here a `Talk` is one socket of the thread
that asks, with a deadline on every answer. It decides nothing: what to make is `network`'s.
"""

import errno
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from threading import Thread
from typing import Any, Self

from pyroute2.netlink import nlmsg
from pyroute2.netlink.nfnetlink.nftsocket import nft_table_msg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.nsidmsg import nsidmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from pyroute2.netlink.rtnl.tcmsg import sched_tbf, tcmsg

from backends.lxc.addressing import Gateway, Interface
from backends.lxc.apart import syscalls
from idl.errors import DeadlineExceeded

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_ACK, _DUMP, _CHANGED = 0x5, 0x301, 0x10
_REPLACE, _EXCL, _CREATE = 0x100, 0x200, 0x400
_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE = 24, 25
_NEWQDISC, _DELQDISC = 36, 37
_GETNSID = 90
_GETTABLE = 10 << 8 | 1

_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT = 270, 10, 11, 12
_NETLINK_NETFILTER = 12
_NFPROTO_NETDEV = 5
_SKIP_STATS = 1 << 3
_ADDR_GEN_NONE = 1
_IFA_F_NODAD = 0x02
_RTNH_F_ONLINK = 4
_ROOT = 0xFFFFFFFF
_IFF_UP = 1
_LONGEST = 2**32 - 1
_HEADER = struct.Struct("IHHII")
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_ARP_IGNORE, _PROMOTE_SECONDARIES = 19, 20


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as it is. `peer` and `peer_netns` say where a veth's other side is: its
    index, and the id of its network namespace (None: the same one)."""

    index: int
    name: str
    alias: str
    kind: str
    up: bool
    carrier: bool
    master: int
    peer: int
    peer_netns: int | None
    counters: Mapping[str, int]


class Talk:
    """A netlink socket, for one thread; a context manager.

    Every method raises OSError with the kernel's errno and words, and `DeadlineExceeded`.
    """

    def __init__(
        self, deadline: float, *, netns: Path | None = None, netfilter: bool = False
    ) -> None:
        self._deadline = deadline
        self._began = time.monotonic()
        self._changed = False
        family = _NETLINK_NETFILTER if netfilter else socket.NETLINK_ROUTE
        self._socket = _opened(family) if netns is None else _opened_in(netns, family)
        for option in (_CAP_ACK, _EXT_ACK, _STRICT):
            # A kernel that lacks one says less.
            with suppress(OSError):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def link(self, which: str | int) -> Link | None:
        """The interface with this name or index; None when there is none."""
        message = ifinfmsg()
        _name_link(message, which)
        try:
            found = list(self._ask(_GETLINK, message))
        except OSError as exc:
            if exc.errno == errno.ENODEV:
                return None
            raise
        return _link(found[0])

    def aliases(self, prefix: str) -> list[str]:
        """The names of the interfaces whose alias begins so."""
        return [link.name for link in self._marked(prefix)]

    def aliased(self, alias: str) -> list[str]:
        """The names of the interfaces that have this alias."""
        return [link.name for link in self._marked(alias) if link.alias == alias]

    def _marked(self, prefix: str) -> list[Link]:
        message = ifinfmsg()
        message["attrs"] = [("IFLA_EXT_MASK", _SKIP_STATS)]
        # Looked for in the bytes first: to decode a message costs a quarter of a millisecond.
        needle = prefix.encode()
        found = [_link(raw) for raw in self._dump(_GETLINK, message) if needle in raw]
        return [link for link in found if link.alias.startswith(prefix)]

    def tables(self) -> dict[str, str]:
        """The nftables tables of the family netdev: name to comment ("" without one)."""
        message = nft_table_msg()
        message["nfgen_family"] = _NFPROTO_NETDEV
        return dict(map(_table, self._dump(_GETTABLE, message)))

    def nsid(self, netns: Path) -> int:
        """The id of a network namespace as seen from this one; negative: no link leads there."""
        fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            message = nsidmsg()
            message["attrs"] = [("NETNSA_FD", fd)]
            found = nsidmsg(next(self._ask(_GETNSID, message)))
        finally:
            os.close(fd)
        found.decode()
        value: int = struct.unpack("i", struct.pack("I", found.get_attr("NETNSA_NSID")))[0]
        return value

    def add_bridge(self, name: str, mac: str) -> None:
        """A bridge without addresses, not up. A MAC that was set stays when ports come and go."""
        self._add_link(name, "bridge", [("IFLA_ADDRESS", mac)])

    def add_veth(self, name: str, mac: str, *, mtu: int, peer: Mapping[str, str], fd: int) -> None:
        """A veth pair, both sides down: `peer` (name, mac) in the network namespace of `fd`."""
        other = ifinfmsg()
        other["attrs"] = [
            ("IFLA_IFNAME", peer["name"]),
            ("IFLA_ADDRESS", peer["mac"]),
            ("IFLA_MTU", mtu),
            ("IFLA_NET_NS_FD", fd),
        ]
        data = {"attrs": [("VETH_INFO_PEER", {"attrs": other["attrs"]})]}
        self._add_link(name, "veth", [("IFLA_ADDRESS", mac), ("IFLA_MTU", mtu)], data)

    def _add_link(
        self, name: str, kind: str, attrs: list[Any], data: dict[str, Any] | None = None
    ) -> None:
        info: list[Any] = [("IFLA_INFO_KIND", kind)]
        if data is not None:
            info.append(("IFLA_INFO_DATA", data))
        message = ifinfmsg()
        message["attrs"] = [("IFLA_IFNAME", name), *attrs, ("IFLA_LINKINFO", {"attrs": info})]
        self._do(_NEWLINK, message, _CREATE | _EXCL)

    def remove_link(self, which: str | int) -> None:
        """Remove it, a veth with its other side; nothing when there is none."""
        message = ifinfmsg()
        _name_link(message, which)
        try:
            self._do(_DELLINK, message)
        except OSError as exc:
            if exc.errno != errno.ENODEV:
                raise

    def mark(self, index: int, alias: str) -> None:
        """Give it an alias."""
        self._set_link(index, [("IFLA_IFALIAS", alias)])

    def silence(self, index: int) -> None:
        """Let the kernel give it no IPv6 link-local address when it comes up."""
        inet6 = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_NONE)]}
        try:
            self._set_link(index, [("IFLA_AF_SPEC", {"attrs": [("AF_INET6", inet6)]})])
        except OSError as exc:
            # The host has no IPv6, and so no address to give.
            if exc.errno != errno.EAFNOSUPPORT:
                raise

    def enslave(self, index: int, master: int) -> None:
        """Put it on a bridge, off the one it was on."""
        self._set_link(index, [("IFLA_MASTER", master)])

    def set_up(self, index: int, *, up: bool) -> None:
        """Switch it on or off."""
        message = ifinfmsg()
        message["flags"], message["change"] = _IFF_UP if up else 0, _IFF_UP
        self._set_link(index, [], message)

    def _set_link(self, index: int, attrs: list[Any], message: Any = None) -> None:
        message = ifinfmsg() if message is None else message
        message["index"], message["attrs"] = index, attrs
        self._do(_NEWLINK, message)

    def addresses(self, index: int) -> list[Interface]:
        """The addresses of an interface."""
        message = ifaddrmsg()
        message["index"] = index
        found = map(_address, self._dump(_GETADDR, message))
        # A kernel that cannot filter tells of every interface.
        return [address for where, address in found if where == index]

    def add_address(self, index: int, address: Interface) -> None:
        """Add it, in use at once: whoever configured it knows that it is free."""
        with suppress(FileExistsError):
            self._do(_NEWADDR, _address_message(index, address), _CREATE | _EXCL)

    def remove_address(self, index: int, address: Interface) -> None:
        """Remove it; nothing when it is not there."""
        try:
            self._do(_DELADDR, _address_message(index, address))
        except OSError as exc:
            if exc.errno != errno.EADDRNOTAVAIL:
                raise

    def keep_secondaries(self, index: int) -> None:
        """Let an IPv4 address outlive the first one of its network."""
        self._tune(index, _PROMOTE_SECONDARIES)

    def answer_for_itself(self, index: int) -> None:
        """Let ARP there tell of the interface's own addresses, not of all that the host has."""
        self._tune(index, _ARP_IGNORE)

    def _tune(self, index: int, key: int) -> None:
        message = ifinfmsg()
        message["index"] = index
        # IFLA_AF_SPEC{AF_INET{IFLA_INET_CONF{key: 1}}}
        extra = struct.pack("HHHHHHHHI", 20, 26, 16, socket.AF_INET, 12, 1, 8, key, 1)
        self._do(_NEWLINK, message, extra=extra)

    def set_route(self, index: int, gateway: Gateway, metric: int) -> None:
        """A default route; in place of one with this metric."""
        self._do(_NEWROUTE, _route_message(index, gateway, metric), _CREATE | _REPLACE)

    def remove_route(self, index: int, gateway: Gateway, metric: int) -> None:
        """Remove it; nothing when it is not there."""
        with suppress(ProcessLookupError):
            self._do(_DELROUTE, _route_message(index, gateway, metric))

    def shape(self, index: int, rate: int, burst: int) -> None:
        """Let no more go out than `rate` bytes a second, after `burst` bytes at once.

        What waits meanwhile: a burst, and 50 ms more.
        """
        message = _queue_message(index)
        limit = min(2 * burst + rate // 20, _LONGEST)
        options = sched_tbf.get_parameters({"rate": rate, "burst": burst, "limit": limit})
        message["attrs"] = [("TCA_KIND", "tbf"), ("TCA_OPTIONS", options)]
        self._do(_NEWQDISC, message, _CREATE | _REPLACE)

    def unshape(self, index: int) -> None:
        """Undo it; nothing where it is not."""
        # The kernel's own queue, which cannot be removed: ENOENT, EINVAL on older ones.
        try:
            self._do(_DELQDISC, _queue_message(index))
        except OSError as exc:
            if exc.errno not in {errno.ENOENT, errno.EINVAL}:
                raise

    def _do(self, kind: int, message: nlmsg, flags: int = 0, *, extra: bytes = b"") -> None:
        for _ in self._ask(kind, message, _ACK | flags, extra=extra):
            pass

    def _ask(
        self, kind: int, message: nlmsg, flags: int = 1, *, extra: bytes = b""
    ) -> Iterator[bytes]:
        """What the kernel answers; `extra` is an attribute that pyroute2 cannot write."""
        message.encode()
        body = bytes(message.data[_HEADER.size :]) + extra
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0) + body)
        return self._answers(only=flags == 1)

    def _dump(self, kind: int, message: nlmsg) -> list[bytes]:
        """All that there is; asked for again when it changed meanwhile, as some may be missing."""
        while True:
            self._changed = False
            found = list(self._ask(kind, message, _DUMP))
            if not self._changed:
                return found

    def _answers(self, *, only: bool) -> Iterator[bytes]:
        while True:
            for kind, flags, raw in _messages(self._receive()):
                self._changed |= bool(flags & _CHANGED)
                if kind == _NLMSG_ERROR:
                    _raise(raw)
                if kind in {_NLMSG_ERROR, _NLMSG_DONE}:
                    return
                yield raw
                if only:
                    return

    def _receive(self) -> bytes:
        left = self._deadline - time.monotonic()
        if left > 0:
            self._socket.settimeout(left)
            with suppress(TimeoutError):
                return self._socket.recv(1 << 17)
        raise DeadlineExceeded(what="netlink", seconds=round(time.monotonic() - self._began, 1))


def _opened(family: int) -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)


def _opened_in(netns: Path, family: int) -> socket.socket:
    """A socket belongs to the network namespace of the thread that opened it: this one goes in
    for that, and ends there, so that none can be left behind in a guest's."""
    outcome: list[socket.socket | OSError] = []

    def inside() -> None:
        try:
            fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
            try:
                syscalls.setns(fd, syscalls.CLONE_NEWNET)
            finally:
                os.close(fd)
            outcome.append(_opened(family))
        except OSError as exc:
            outcome.append(exc)

    thread = Thread(target=inside, name="netns")
    thread.start()
    thread.join()
    if isinstance(outcome[0], OSError):
        raise outcome[0]
    return outcome[0]


def _messages(packet: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Kind, flags and all of each message."""
    at = 0
    while at < len(packet):
        length, kind, flags, *_ = _HEADER.unpack_from(packet, at)
        yield kind, flags, packet[at : at + length]
        at += (length + 3) & ~3


def _raise(raw: bytes) -> None:
    """The error of an answer, with the kernel's own words where it has some."""
    number = -struct.unpack_from("i", raw, _HEADER.size)[0]
    if number == 0:
        return
    # The error, and the header of the request; attributes follow.
    words = dict(_attributes(raw[_HEADER.size * 2 + 4 :])).get(1, b"")
    said = words.rstrip(b"\0").decode(errors="replace")
    raise OSError(number, said or os.strerror(number))


def _attributes(raw: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(raw):
        length, kind = struct.unpack_from("HH", raw, at)
        yield kind & 0x3FFF, raw[at + 4 : at + length]
        at += max((length + 3) & ~3, 4)


def _name_link(message: ifinfmsg, which: str | int) -> None:
    if isinstance(which, int):
        message["index"] = which
    else:
        message["attrs"] = [("IFLA_IFNAME", which)]


def _link(raw: bytes) -> Link:
    message = ifinfmsg(raw)
    message.decode()
    info = message.get_attr("IFLA_LINKINFO")
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        alias=message.get_attr("IFLA_IFALIAS") or "",
        kind=(info and info.get_attr("IFLA_INFO_KIND")) or "",
        up=bool(message["flags"] & _IFF_UP),
        carrier=bool(message.get_attr("IFLA_CARRIER")),
        master=message.get_attr("IFLA_MASTER") or 0,
        peer=message.get_attr("IFLA_LINK") or 0,
        peer_netns=message.get_attr("IFLA_LINK_NETNSID"),
        counters=dict(message.get_attr("IFLA_STATS64") or {}),
    )


def _table(raw: bytes) -> tuple[str, str]:
    """Name and comment; read here, since each version of pyroute2 reads comments otherwise."""
    found = dict(_attributes(raw[_HEADER.size + 4 :]))
    # The user data are type, length, value; type 0 is the comment.
    data = found.get(6, b"")
    comment = data[2 : 2 + data[1]] if data[:1] == b"\0" else b""
    return _text(found[1]), _text(comment)


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")


def _address(raw: bytes) -> tuple[int, Interface]:
    message = ifaddrmsg(raw)
    message.decode()
    found = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return message["index"], ip_interface(f"{found}/{message['prefixlen']}")


def _address_message(index: int, address: Interface) -> ifaddrmsg:
    message = ifaddrmsg()
    message["index"] = index
    message["family"] = _FAMILY[address.version]
    message["prefixlen"] = address.network.prefixlen
    message["flags"] = _IFA_F_NODAD if address.version == 6 else 0
    attrs = [("IFA_LOCAL", str(address.ip)), ("IFA_ADDRESS", str(address.ip))]
    if address.version == 4 and address.network.prefixlen < 31:
        attrs.append(("IFA_BROADCAST", str(address.network.broadcast_address)))
    message["attrs"] = attrs
    return message


def _route_message(index: int, gateway: Gateway, metric: int) -> rtmsg:
    message = rtmsg()
    message["family"] = _FAMILY[gateway.version]
    message["table"], message["proto"] = 254, 4
    message["scope"], message["type"] = 0, 1
    # The gateway is on this link, whatever networks the addresses are of.
    message["flags"] = _RTNH_F_ONLINK
    message["attrs"] = [
        ("RTA_OIF", index),
        ("RTA_GATEWAY", str(gateway)),
        ("RTA_PRIORITY", metric),
    ]
    return message


def _queue_message(index: int) -> tcmsg:
    message = tcmsg()
    message["index"], message["parent"] = index, _ROOT
    return message
