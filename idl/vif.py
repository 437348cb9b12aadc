"""VIF: a virtual network interface."""

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, field

from idl.ids import DeviceId
from idl.vbd import Position
from idl.wire import Config, Count, Fact, Text

Mac: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^$|^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}(?!\n)$",
        description="a MAC like 02:00:00:00:00:01",
    ),
]

_PLAIN4 = r"(25[0-5]|2[0-4]\d|1?\d?\d)(\.(25[0-5]|2[0-4]\d|1?\d?\d)){3}"
#: Its shape: at least two colons, perhaps an IPv4 address at the end.
_PLAIN6 = r"(?=[^/]*:[^/]*:)[0-9a-fA-F:.]{2,45}"
_IPV4 = rf"{_PLAIN4}(/(3[0-2]|[12]?\d))?"
_IPV6 = rf"{_PLAIN6}(/(12[0-8]|1[01]\d|\d?\d))?"

Ipv4: TypeAlias = Annotated[
    str,
    Meta(
        pattern=rf"^{_IPV4}(?!\n)$",
        description="an IPv4 address like 10.0.0.2, or a network like 10.0.0.0/24",
    ),
]
Ipv6: TypeAlias = Annotated[
    str,
    Meta(
        pattern=rf"^{_IPV6}(?!\n)$",
        description="an IPv6 address like fd00::2, or a network like fd00::/64",
    ),
]
Ip: TypeAlias = Annotated[
    str,
    Meta(
        pattern=rf"^({_IPV4}|{_IPV6})(?!\n)$",
        description="an address like 10.0.0.2/24 or fd00::2/64",
    ),
]
Gateway: TypeAlias = Annotated[
    str,
    Meta(
        pattern=rf"^({_PLAIN4}|{_PLAIN6})(?!\n)$",
        description="an address like 10.0.0.1 or fd00::1, without a prefix length",
    ),
]


class Bridge(Config, frozen=True, kw_only=True, tag="bridge"):
    """A bridge of this host."""

    #: name of the bridge
    name: Annotated[str, Meta(min_length=1, max_length=15)]


class Rate(Config, frozen=True, kw_only=True):
    """A limit in kilobits a second, with a burst in kilobytes."""

    #: kilobits a second
    kbps: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    #: kilobytes that may pass at once
    burst: Count = 0


class Unlocked(Config, frozen=True, kw_only=True, tag="unlocked"):
    """Any address may be used."""


class Disabled(Config, frozen=True, kw_only=True, tag="disabled"):
    """Nothing passes."""


class Locked(Config, frozen=True, kw_only=True, tag="locked"):
    """Only the VIF's MAC with these addresses passes."""

    #: addresses that pass
    ipv4: list[Ipv4] = []
    #: addresses that pass
    ipv6: list[Ipv6] = []


LockingMode: TypeAlias = Unlocked | Disabled | Locked


class IpConfiguration(Config, frozen=True, kw_only=True):
    """How the guest's interface gets its addresses (CIDR notation where static)."""

    #: how the guest gets its addresses
    type: Literal["none", "static", "dhcp"] = "none"
    #: with prefix length, where static
    addresses: list[Ip] = []
    #: the default route; null: none
    gateway: Gateway | None = None


class Vif(Config, frozen=True, kw_only=True):
    """The configuration of a VIF; `mac` "" is derived from VM and position."""

    #: VM/NAME
    id: DeviceId
    #: its place among the VM's VIFs; null: the next free one
    position: Position | None = None
    #: how the guest sees it; null: the backend's natural model
    model: Text | None = None
    #: its address; "": derived from VM and position, for ever the same
    mac: Mac = ""
    #: largest packet
    mtu: Annotated[int, Meta(ge=68, le=65535)] = 1500
    #: whether the cable is in
    carrier: bool = True
    #: a limit; null: none
    rate: Rate | None = None
    #: what it is connected to
    backend: Bridge
    #: which packets pass
    locking_mode: LockingMode = field(default_factory=Unlocked)
    #: what the guest is told to use
    ipv4: IpConfiguration = field(default_factory=IpConfiguration)
    #: what the guest is told to use
    ipv6: IpConfiguration = field(default_factory=IpConfiguration)
    #: whatever the toolstack wants to keep
    other_config: dict[str, Text] = {}


class VifState(Fact, frozen=True, kw_only=True):
    """`device` is the host's interface, null without one."""

    #: assigned to a domain
    active: bool = False
    #: connected
    plugged: bool = False
    #: the host's interface; null without one
    device: str | None = None
    #: whether the guest sees a cable
    media_present: bool = False


class VifRecord(Fact, frozen=True, kw_only=True):
    """What VIF.stat and VIF.list answer."""

    #: VM/NAME
    id: str
    #: its configuration
    config: Vif
    #: what is observed
    state: VifState
