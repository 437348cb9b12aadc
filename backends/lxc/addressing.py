"""What a VIF's configuration says of addresses, as values. Touches nothing."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Literal, TypeAlias

from idl.vif import IpConfiguration, Vif

Interface: TypeAlias = IPv4Interface | IPv6Interface
Gateway: TypeAlias = IPv4Address | IPv6Address
Family = Literal["ipv4", "ipv6"]

#: The metric of the default route of the VIF at position 0; the others' follow.
METRIC = 1024


@dataclass(frozen=True, slots=True)
class Addressing:
    """Addresses of one family with their prefix lengths, and the default route."""

    addresses: tuple[Interface, ...] = ()
    gateway: Gateway | None = None
    metric: int = METRIC


def addressing(vif: Vif, family: Family) -> Addressing:
    """What the guest's side is to have; nothing unless it is static.

    An address without a prefix length has a network of its own. Raises ValueError for one of
    the other family, or none at all.
    """
    wanted: IpConfiguration = getattr(vif, family)
    if wanted.type != "static":
        return Addressing()
    metric = METRIC + (vif.position or 0)
    if family == "ipv4":
        return Addressing(
            tuple(map(IPv4Interface, wanted.addresses)),
            IPv4Address(wanted.gateway) if wanted.gateway else None,
            metric,
        )
    return Addressing(
        tuple(map(IPv6Interface, wanted.addresses)),
        IPv6Address(wanted.gateway) if wanted.gateway else None,
        metric,
    )
