"""A VM with its devices: what is stored, exported and imported as one."""

from typing import Any

from idl.pci import Pci
from idl.vbd import Vbd
from idl.vif import Vif
from idl.vm import Vm
from idl.wire import Config

METADATA_VERSION = 1


class Metadata(Config, frozen=True, kw_only=True):
    """What VM.export_metadata answers and VM.import_metadata takes; `extra` is the running
    configuration, opaque to clients."""

    #: of this format
    version: int = METADATA_VERSION
    #: the VM
    vm: Vm
    #: its VBDs
    vbds: list[Vbd] = []
    #: its VIFs
    vifs: list[Vif] = []
    #: its PCI devices
    pcis: list[Pci] = []
    #: of the running VM, to be read and not imported
    extra: dict[str, Any] | None = None
