"""A VIF of a container: a veth pair from a bridge of the host into the guest's namespace.

Every effect is found by the name of the interface on the host's side, and every call may come
again after a crash at any point of it. What a guest may send is decided on the host's side
(`firewall`), where a guest is not, whatever it does to its own side: rename it, give it another
MAC, remove it. The kernel is spoken to by `rtnetlink`; nobody here knows what a VM is.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from backends.lxc import firewall
from backends.lxc.addressing import Addressing, addressing
from backends.lxc.rtnetlink import Link, Talk
from idl.errors import InvalidParameter, NetworkError
from idl.vif import Vif

#: The MAC of every host's side: the highest, so that no bridge takes it for its own.
HOST_MAC = "fe:ff:ff:ff:ff:ff"
#: What decides about the rules.
_FILTERED = {"locking_mode", "rate", "ipv4", "ipv6"}


@dataclass(frozen=True, slots=True)
class Port:
    """Where a VIF is connected: the host's interface `device` with its mark, and the guest's
    `inside` in the network namespace that is pinned at `netns`."""

    device: str
    alias: str
    inside: str
    netns: Path


class Network:
    """The host's bridges, and the VIFs on them. For any number of threads at once.

    Each call takes the monotonic time past which it raises `DeadlineExceeded`. What the kernel
    or nftables refuses is a `NetworkError` that names the interface or the bridge.
    """

    def __init__(self, bridges: Sequence[str]) -> None:
        """`bridges` are made when they are missing; any other has to exist."""
        self._bridges = frozenset(bridges)

    def plug(self, vif: Vif, port: Port, *, deadline: float) -> None:
        """Connect it. Nothing passes before its rules hold; the cable goes in last."""
        with _naming(port.device), Talk(deadline) as host:
            wanted = addressing(vif, "ipv4"), addressing(vif, "ipv6")
            rules = firewall.ruleset(vif, port.device, port.alias)
            bridge = self._bridge(host, vif.backend.name)
            link = self._pair(host, vif, port)
            host.mark(link.index, port.alias)
            host.silence(link.index)
            self._limit(host, link, vif)
            _filter(rules, port.device, deadline)
            host.enslave(link.index, bridge)
            with Talk(deadline, netns=port.netns) as guest:
                _wake(guest, link.peer)
                for one in wanted:
                    _address(guest, link.peer, one, Addressing())
            host.set_up(link.index, up=vif.carrier)

    def unplug(self, device: str, alias: str = "", *, deadline: float) -> None:
        """Remove both sides and the rules, and whatever else bears `alias`, as an interface does
        that somebody has renamed; nothing when there are none."""
        with _naming(device), Talk(deadline) as host:
            # The interface first: it is not to pass anything without its rules.
            for name in (device, *(host.aliased(alias) if alias else ())):
                host.remove_link(name)
            _filter(None, device, deadline)
            if host.link(device) is not None or device in _tables(deadline):
                raise NetworkError(what=device, reason="it was removed and is there again")

    def configure(self, vif: Vif, field: str, port: Port, *, before: Vif, deadline: float) -> None:
        """Make a plugged VIF's `field` what `vif` says, where it was what `before` says.

        The fields: backend, carrier, rate, locking_mode, ipv4, ipv6.
        Addresses and routes of `before` that are no longer wanted go; the guest's own stay.
        """
        with _naming(port.device), Talk(deadline) as host:
            link = _present(host, port)
            match field:
                case "backend":
                    self._move(host, link, vif)
                case "carrier":
                    host.set_up(link.index, up=vif.carrier)
                case "rate":
                    self._limit(host, link, vif)
                case "ipv4" | "ipv6":
                    with Talk(deadline, netns=port.netns) as guest:
                        now, then = addressing(vif, field), addressing(before, field)
                        _address(guest, link.peer, now, then)
                case "locking_mode":
                    pass
                case _:
                    raise InvalidParameter(name="field", reason=f"{field} cannot be changed")
            if field in _FILTERED:
                rules = firewall.ruleset(vif, port.device, port.alias)
                _filter(rules, port.device, deadline)

    def devices(self, alias_prefix: str, *, deadline: float) -> list[str]:
        """Names of interfaces, and of nftables tables without one, whose mark begins so."""
        with _naming("interfaces"), Talk(deadline) as host:
            named = host.aliases(alias_prefix)
        mark = firewall.described(alias_prefix)
        tables = _tables(deadline).items()
        return sorted({*named, *(name for name, said in tables if said.startswith(mark))})

    def counters(self, device: str, *, deadline: float) -> dict[str, int]:
        """What passed, as the guest sees it: rx_bytes, tx_bytes, rx_packets, tx_packets."""
        with _naming(device), Talk(deadline) as host:
            link = host.link(device)
        if link is None:
            raise NetworkError(what=device, reason="there is no such interface")
        here = link.counters
        return {
            f"{way}_{what}": here[f"{back}_{what}"]
            for way, back in (("rx", "tx"), ("tx", "rx"))
            for what in ("bytes", "packets")
        }

    def _bridge(self, host: Talk, name: str) -> int:
        """Index of a bridge; one of the configured ones is made, and switched on."""
        ours = name in self._bridges
        found = host.link(name)
        if found is None and ours:
            # Another thread, or another instance, may be faster.
            with suppress(FileExistsError):
                host.add_bridge(name, _bridge_mac(name))
            found = host.link(name)
        if found is None:
            reason = "there is no such bridge; make it, or list it in lxc.bridges"
            raise NetworkError(what=f"bridge {name}", reason=reason)
        if found.kind != "bridge":
            raise NetworkError(what=f"bridge {name}", reason="this interface is no bridge")
        if ours and not found.up:
            # Guests are there for each other: the host is reached at addresses given to it.
            host.silence(found.index)
            host.answer_for_itself(found.index)
            host.set_up(found.index, up=True)
        return found.index

    def _pair(self, host: Talk, vif: Vif, port: Port) -> Link:
        """The host's side of a pair whose other side is in the guest's namespace."""
        found = host.link(port.device)
        if found is not None and _reaches(host, found, port):
            return found
        # The guest, or somebody else, has put the other side where it is of no use.
        host.remove_link(port.device)
        fd = os.open(port.netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            peer = {"name": port.inside, "mac": vif.mac}
            host.add_veth(port.device, HOST_MAC, mtu=vif.mtu, peer=peer, fd=fd)
        except FileExistsError:
            reason = f"the guest has an interface {port.inside} of its own; rename or remove it"
            raise NetworkError(what=port.device, reason=reason) from None
        finally:
            os.close(fd)
        return _present(host, port)

    def _limit(self, host: Talk, link: Link, vif: Vif) -> None:
        """What goes to the guest waits its turn; what comes from it is `firewall`'s to limit."""
        if vif.rate is None:
            host.unshape(link.index)
        else:
            rate = firewall.bytes_a_second(vif.rate)
            host.shape(link.index, rate, firewall.burst_bytes(vif.rate))

    def _move(self, host: Talk, link: Link, vif: Vif) -> None:
        bridge = self._bridge(host, vif.backend.name)
        if link.master != bridge:
            # Off meanwhile: between two bridges it would be an interface of the host's own.
            host.set_up(link.index, up=False)
            host.enslave(link.index, bridge)
        host.set_up(link.index, up=vif.carrier)


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Make the kernel's errors ones that name the thing."""
    try:
        yield
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename else ""
        raise NetworkError(what=what, reason=f"{where}{exc.strerror or exc}") from exc
    except ValueError as exc:
        # An address that has the shape of one, and is none.
        raise NetworkError(what=what, reason=str(exc)) from exc


def _tables(deadline: float) -> dict[str, str]:
    with Talk(deadline, netfilter=True) as talk:
        return talk.tables()


def _filter(rules: str | None, device: str, deadline: float) -> None:
    """Have these rules and no others hold."""
    if rules is not None:
        firewall.load(rules, device, deadline)
    elif device in _tables(deadline):
        firewall.load(firewall.removal(device), device, deadline)


def _reaches(host: Talk, link: Link, port: Port) -> bool:
    # Below zero are those that no interface of the host leads to.
    return link.peer_netns is not None and link.peer_netns == host.nsid(port.netns) >= 0


def _present(host: Talk, port: Port) -> Link:
    link = host.link(port.device)
    if link is None or not _reaches(host, link, port):
        reason = "the guest has removed its side or moved it away; unplug it and plug it again"
        raise NetworkError(what=port.device, reason=reason)
    return link


def _wake(guest: Talk, index: int) -> None:
    """Switch on the guest's side, and its loopback."""
    for which in (1, index):
        guest.set_up(which, up=True)


def _address(guest: Talk, index: int, now: Addressing, then: Addressing) -> None:
    """Give the guest's side the addresses and the default route that are configured."""
    if gone := [address for address in then.addresses if address not in now.addresses]:
        guest.keep_secondaries(index)
        for address in gone:
            guest.remove_address(index, address)
    if then.gateway is not None and now.gateway is None:
        guest.remove_route(index, then.gateway, then.metric)
    for address in now.addresses:
        guest.add_address(index, address)
    if now.gateway is not None:
        guest.set_route(index, now.gateway, now.metric)


def _bridge_mac(name: str) -> str:
    """For ever the same, so that a guest's ARP cache outlives the bridge."""
    raw = hashlib.blake2b(name.encode(), digest_size=5).digest()
    return bytes([0x02, *raw]).hex(":")
