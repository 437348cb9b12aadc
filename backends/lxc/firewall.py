"""Which frames a guest may send: the text of an interface's nftables table, and loading it.

Each interface with rules has a table of the family netdev that bears its name, on the host's
side of the veth, where a guest cannot undo it. What a locked guest may not send:

- a frame with another source MAC, a VLAN tag, or of another kind than ARP, IPv4 and IPv6;
- ARP with another sender than the VIF's MAC and one of its IPv4 addresses (asking whether one of
  them is free, with no sender address, it may);
- IPv4 and IPv6 from other addresses than those listed. A network stands for all its addresses;
  an address with a prefix length (10.0.0.2/24) for itself;
- neighbour advertisements for other addresses, router advertisements, redirects, and answers of a
  DHCP server: these speak for addresses of others.

With IPv6 addresses, the link-local address made of the MAC passes too, and what has no source
address yet: neighbour solicitation for its own addresses, router solicitation, listener reports.
A family without a listed address is mute, unless its type is dhcp: then DHCP's requests pass.

A limit on what a guest sends drops what is too much. nftables counts by the second: beside the
burst, what the rate allows in one second may pass at once.

The module thinks in text, but for `load`; it does not look at interfaces.
"""

import subprocess
import time
from collections.abc import Iterator, Sequence
from ipaddress import (
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_address,
    ip_network,
)

from idl.errors import DeadlineExceeded, NetworkError
from idl.vif import Disabled, Locked, Rate, Unlocked, Vif

#: Bytes a second that the limits can count; beyond it no link is faster than the limit.
FASTEST = 2**32 - 1
#: Bytes that pass at once at least: one frame as segmentation offload makes them.
LEAST_BURST = 66_000
#: nftables takes no longer comment.
_COMMENT = 128

Network = IPv4Network | IPv6Network


def bytes_a_second(rate: Rate) -> int:
    """What a limit comes to, in bytes a second."""
    return min(rate.kbps * 125, FASTEST)


def burst_bytes(rate: Rate) -> int:
    """How much may pass at once, in bytes: what is asked, 20 ms of the rate, or one frame."""
    return min(max(rate.burst * 1000, bytes_a_second(rate) // 50, LEAST_BURST), FASTEST)


def link_local(mac: str) -> IPv6Address:
    """The link-local address made of a MAC (EUI-64)."""
    raw = bytes.fromhex(mac.replace(":", ""))
    host = bytes([raw[0] ^ 2, *raw[1:3], 0xFF, 0xFE, *raw[3:]])
    return IPv6Address(bytes.fromhex("fe80000000000000") + host)


def networks(addresses: Sequence[str]) -> list[Network]:
    """What a list of addresses and networks lets pass. Raises ValueError."""
    found = [_network(address) for address in addresses]
    return list(collapse_addresses(found))  # type: ignore[type-var]  # all of one family


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError:
        return ip_network(ip_address(text.partition("/")[0]))


def described(alias: str) -> str:
    """The comment of the table of an interface with this alias."""
    return alias[:_COMMENT]


def removal(table: str) -> str:
    """What removes a table, also when it is not there."""
    return f"table netdev {table}\ndelete table netdev {table}\n"


def ruleset(vif: Vif, device: str, alias: str) -> str | None:
    """The table of a VIF, in place of the one that it has; None when it needs none.

    Raises ValueError for an address that is none.
    """
    if isinstance(vif.locking_mode, Unlocked) and vif.rate is None:
        return None
    named = f'table netdev {device} {{\ncomment "{described(alias)}"\n'
    return removal(device) + named + "\n".join(_table(vif, device)) + "\n}\n"


def _table(vif: Vif, device: str) -> Iterator[str]:
    match vif.locking_mode:
        case Disabled():
            yield from _base("from_guest", "ingress", device, [], policy="drop")
            yield from _base("to_guest", "egress", device, [], policy="drop")
        case Unlocked():
            yield from _base("from_guest", "ingress", device, _limit(vif.rate), policy="accept")
        case Locked() as locked:
            yield from _chain("pass", [*_limit(vif.rate), "accept"])
            yield from _chain("speak_arp", _arp(vif.mac, networks(locked.ipv4)))
            yield from _chain("speak_ip", _ip(vif, networks(locked.ipv4)))
            own = _own_ip6(vif, networks(locked.ipv6))
            yield from _chain("listed_ip6", _listed_ip6(own))
            yield from _chain("speak_ip6", _ip6(own))
            yield from _base("from_guest", "ingress", device, _kinds(vif.mac), policy="drop")


def _base(name: str, hook: str, device: str, rules: Sequence[str], policy: str) -> list[str]:
    place = f'type filter hook {hook} device "{device}" priority 0; policy {policy};'
    return _chain(name, [place, *rules])


def _chain(name: str, rules: Sequence[str]) -> list[str]:
    return [f"chain {name} {{", *rules, "}"]


def _limit(rate: Rate | None) -> list[str]:
    if rate is None:
        return []
    most, burst = bytes_a_second(rate), burst_bytes(rate)
    return [f"limit rate over {most} bytes/second burst {burst} bytes drop"]


def _kinds(mac: str) -> list[str]:
    return [
        f"ether saddr != {mac} drop",
        "ether type arp goto speak_arp",
        "ether type ip goto speak_ip",
        "ether type ip6 goto speak_ip6",
    ]


def _arp(mac: str, allowed: Sequence[Network]) -> list[str]:
    if not allowed:
        return []
    own = _set(allowed)
    plain = f"arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp saddr ether {mac}"
    return [
        f"{plain} arp saddr ip {own} goto pass",
        f"{plain} arp operation request arp saddr ip 0.0.0.0 arp daddr ip {own} goto pass",
    ]


def _ip(vif: Vif, allowed: Sequence[Network]) -> list[str]:
    rules = ["udp sport 67 drop"]
    if vif.ipv4.type == "dhcp":
        rules.append("ip saddr 0.0.0.0 udp sport 68 udp dport 67 goto pass")
    if allowed:
        rules.append(f"ip saddr {_set(allowed)} goto pass")
    return rules


def _own_ip6(vif: Vif, allowed: Sequence[Network]) -> list[Network]:
    if not allowed and vif.ipv6.type != "dhcp":
        return []
    return [*allowed, IPv6Network(link_local(vif.mac))]


def _ip6(own: Sequence[Network]) -> list[str]:
    if not own:
        return []
    first = "icmpv6 type { nd-router-solicit, mld-listener-report, mld2-listener-report }"
    return [
        f"ip6 saddr :: {first} goto pass",
        *(f"ip6 saddr :: icmpv6 type nd-neighbor-solicit {_target(one)} goto pass" for one in own),
        f"ip6 saddr {_set(own)} goto listed_ip6",
    ]


def _listed_ip6(own: Sequence[Network]) -> list[str]:
    # Told by what they are, not by what they are not: a later fragment has no type to look at.
    return [
        *(f"icmpv6 type nd-neighbor-advert {_target(one)} goto pass" for one in own),
        "icmpv6 type { nd-neighbor-advert, nd-router-advert, nd-redirect } drop",
        "udp sport 547 drop",
        "goto pass",
    ]


def _target(network: Network) -> str:
    """The target of a neighbour solicitation or advertisement, after eight bytes of header."""
    mask, value = int(network.netmask), int(network.network_address)
    return f"@th,64,128 & {mask:#x} == {value:#x}"


def _set(allowed: Sequence[Network]) -> str:
    return "{ " + ", ".join(str(network) for network in allowed) + " }"


def load(text: str, what: str, deadline: float) -> None:
    """Have nftables take it, whole or not at all.

    Raises NetworkError naming `what`, and DeadlineExceeded.
    """
    left = deadline - time.monotonic()
    try:
        done = subprocess.run(
            ["nft", "-f", "-"],  # noqa: S607  # where it is, PATH knows
            input=text,
            capture_output=True,
            text=True,
            timeout=max(left, 0),
            check=False,
        )
    except FileNotFoundError:
        reason = "there is no program nft; install nftables"
        raise NetworkError(what=what, reason=reason) from None
    except subprocess.TimeoutExpired:
        raise DeadlineExceeded(what="nft", seconds=round(left, 1)) from None
    if done.returncode:
        raise NetworkError(what=what, reason=f"nft said: {done.stderr.strip()[:500]}")
