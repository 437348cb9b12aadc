"""VBD: a virtual block device."""

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from idl.ids import DeviceId
from idl.wire import Config, Count, Fact, Text

Position: TypeAlias = Annotated[int, Meta(ge=0, le=65535)]


class Mount(Config, frozen=True, kw_only=True):
    """Where a container sees the device; position 0 is `/`."""

    path: Text
    options: list[Text] = []


class Local(Config, frozen=True, kw_only=True, tag="local"):
    """A path on this host. With `overlay` it is a shared base that nobody writes."""

    path: Annotated[str, Meta(min_length=1, max_length=4096)]
    format: Literal["raw", "qcow2", "directory", "tar", "squashfs"] = "raw"
    overlay: bool = False


class Vdi(Config, frozen=True, kw_only=True, tag="vdi"):
    """A disk of a storage plugin."""

    sr: Text
    vdi: Text


Disk: TypeAlias = Local | Vdi


class VbdQos(Config, frozen=True, kw_only=True):
    """Limits a second; 0 is none."""

    read_bytes: Count = 0
    write_bytes: Count = 0
    read_iops: Count = 0
    write_iops: Count = 0


class Vbd(Config, frozen=True, kw_only=True):
    """The configuration of a VBD; `position` null is the next free one, `bus` null the
    backend's.
    """

    id: DeviceId
    position: Position | None = None
    bus: Literal["virtio", "scsi", "sata", "ide", "xen"] | None = None
    mount: Mount | None = None
    mode: Literal["ro", "rw"] = "rw"
    type: Literal["disk", "cdrom", "floppy"] = "disk"
    backend: Disk | None = None
    unpluggable: bool = True
    persistent: bool = True
    qos: VbdQos | None = None


class VbdState(Fact, frozen=True, kw_only=True):
    """`active`: assigned to a domain; `plugged`: connected; `detaching`: asked to go and not
    gone yet; `backend_present`: the medium in it."""

    active: bool = False
    plugged: bool = False
    detaching: bool = False
    backend_present: Disk | None = None


class VbdRecord(Fact, frozen=True, kw_only=True):
    """What VBD.stat and VBD.list answer."""

    id: str
    config: Vbd
    state: VbdState
