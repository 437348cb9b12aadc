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


class Bridge(Config, frozen=True, kw_only=True, tag="bridge"):
    """A bridge of this host."""

    name: Annotated[str, Meta(min_length=1, max_length=15)]


class Rate(Config, frozen=True, kw_only=True):
    """A limit in kilobits a second, with a burst in kilobytes."""

    kbps: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    burst: Count = 0


class Unlocked(Config, frozen=True, kw_only=True, tag="unlocked"):
    """Any address may be used."""


class Disabled(Config, frozen=True, kw_only=True, tag="disabled"):
    """Nothing passes."""


class Locked(Config, frozen=True, kw_only=True, tag="locked"):
    """Only the VIF's MAC with these addresses passes."""

    ipv4: list[Text] = []
    ipv6: list[Text] = []


LockingMode: TypeAlias = Unlocked | Disabled | Locked


class IpConfiguration(Config, frozen=True, kw_only=True):
    """How the guest's interface gets its addresses (CIDR notation where static)."""

    type: Literal["none", "static", "dhcp"] = "none"
    addresses: list[Text] = []
    gateway: Text | None = None


class Vif(Config, frozen=True, kw_only=True):
    """The configuration of a VIF; `mac` "" is derived from VM and position."""

    id: DeviceId
    position: Position | None = None
    model: Text | None = None
    mac: Mac = ""
    mtu: Annotated[int, Meta(ge=68, le=65535)] = 1500
    carrier: bool = True
    rate: Rate | None = None
    backend: Bridge
    locking_mode: LockingMode = field(default_factory=Unlocked)
    ipv4: IpConfiguration = field(default_factory=IpConfiguration)
    ipv6: IpConfiguration = field(default_factory=IpConfiguration)
    other_config: dict[str, Text] = {}


class VifState(Fact, frozen=True, kw_only=True):
    """`device` is the host's interface, null without one."""

    active: bool = False
    plugged: bool = False
    device: str | None = None
    media_present: bool = False


class VifRecord(Fact, frozen=True, kw_only=True):
    """What VIF.stat and VIF.list answer."""

    id: str
    config: Vif
    state: VifState
