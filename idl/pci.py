"""PCI: a device of the host passed through to a VM."""

from typing import Annotated

from msgspec import Meta

from idl.ids import DeviceId
from idl.vbd import Position
from idl.wire import Config, Fact


class Pci(Config, frozen=True, kw_only=True):
    """The configuration of a passed-through device."""

    id: DeviceId
    position: Position | None = None
    address: Annotated[
        str, Meta(pattern=r"^[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7](?!\n)$")
    ]


class PciState(Fact, frozen=True, kw_only=True):
    """`plugged`: given to the domain."""

    plugged: bool = False


class PciRecord(Fact, frozen=True, kw_only=True):
    """What PCI.stat and PCI.list answer."""

    id: str
    config: Pci
    state: PciState
