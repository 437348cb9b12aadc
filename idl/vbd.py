"""VBD: a virtual block device."""

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from idl.ids import DeviceId
from idl.wire import Config, Count, Fact, Text

Position: TypeAlias = Annotated[int, Meta(ge=0, le=65535)]


class Mount(Config, frozen=True, kw_only=True):
    """Where a container sees the device; position 0 is `/`."""

    #: where it appears within
    path: Text
    #: options of the mount
    options: list[Text] = []


class Local(Config, frozen=True, kw_only=True, tag="local"):
    """A path on this host. With `overlay` it is a shared base that nobody writes."""

    #: a path under the configured roots
    path: Annotated[str, Meta(min_length=1, max_length=4096)]
    #: what is at the path
    format: Literal["raw", "qcow2", "directory", "tar", "squashfs"] = "raw"
    #: nobody writes the path: writes go to a layer of this VBD's own
    overlay: bool = False


class Vdi(Config, frozen=True, kw_only=True, tag="vdi"):
    """A disk of a storage plugin."""

    #: storage repository
    sr: Text
    #: disk within it
    vdi: Text


Disk: TypeAlias = Local | Vdi


class VbdQos(Config, frozen=True, kw_only=True):
    """Limits a second; 0 is none."""

    #: bytes read
    read_bytes: Count = 0
    #: bytes written
    write_bytes: Count = 0
    #: reads
    read_iops: Count = 0
    #: writes
    write_iops: Count = 0


class Vbd(Config, frozen=True, kw_only=True):
    """The configuration of a VBD; `position` null is the next free one, `bus` null the
    backend's.
    """

    #: VM/NAME
    id: DeviceId
    #: its place among the VM's VBDs; null: the next free one
    position: Position | None = None
    #: how the guest sees it; null: the backend's natural bus
    bus: Literal["virtio", "scsi", "sata", "ide", "xen"] | None = None
    #: where a container sees it; position 0 is `/`
    mount: Mount | None = None
    #: whether the guest may write
    mode: Literal["ro", "rw"] = "rw"
    #: disk, or a drive with removable media
    type: Literal["disk", "cdrom", "floppy"] = "disk"
    #: what is in it; null: an empty drive
    backend: Disk | None = None
    #: it may be unplugged from a running VM
    unpluggable: bool = True
    #: what is written stays; false: thrown away at each start
    persistent: bool = True
    #: limits; null: none
    qos: VbdQos | None = None


class VbdState(Fact, frozen=True, kw_only=True):
    """`active`: assigned to a domain; `plugged`: connected; `detaching`: asked to go and not
    gone yet; `backend_present`: the medium in it."""

    #: assigned to a domain
    active: bool = False
    #: connected
    plugged: bool = False
    #: asked to go, and not gone yet
    detaching: bool = False
    #: the medium in it
    backend_present: Disk | None = None


class VbdRecord(Fact, frozen=True, kw_only=True):
    """What VBD.stat and VBD.list answer."""

    #: VM/NAME
    id: str
    #: its configuration
    config: Vbd
    #: what is observed
    state: VbdState
