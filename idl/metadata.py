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

    version: int = METADATA_VERSION
    vm: Vm
    vbds: list[Vbd] = []
    vifs: list[Vif] = []
    pcis: list[Pci] = []
    extra: dict[str, Any] | None = None
