"""PCI: a device of the host passed through to a VM."""

from typing import Annotated

from msgspec import Meta

from idl.ids import DeviceId
from idl.vbd import Position
from idl.wire import Config, Fact


class Pci(Config, frozen=True, kw_only=True):
    """The configuration of a passed-through device."""

    #: VM/NAME
    id: DeviceId
    #: its place among the VM's devices; null: the next free one
    position: Position | None = None
    #: domain:bus:slot.function on the host
    address: Annotated[
        str, Meta(pattern=r"^[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7](?!\n)$")
    ]


class PciState(Fact, frozen=True, kw_only=True):
    """`plugged`: given to the domain."""

    #: connected
    plugged: bool = False


class PciRecord(Fact, frozen=True, kw_only=True):
    """What PCI.stat and PCI.list answer."""

    #: VM/NAME
    id: str
    #: its configuration
    config: Pci
    #: what is observed
    state: PciState
