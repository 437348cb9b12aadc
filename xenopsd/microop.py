"""Micro-ops: the smallest steps that change the world, each repeatable, each with an inverse.

A micro-op is a value; `xenopsd.perform` carries it out. Its tag is the name that TASK.stat
shows, that deadlines and kill points are keyed by, and that stands in journals: a tag is
never changed or given another meaning.
"""

from typing import Any, Literal, TypeAlias

from msgspec import Struct

from idl.ids import DeviceId
from idl.vbd import Disk

Hook: TypeAlias = Literal[
    "vm-pre-start",
    "vm-post-start",
    "vm-pre-shutdown",
    "vm-post-shutdown",
    "vm-pre-reboot",
    "vm-pre-suspend",
    "vm-post-suspend",
    "vm-pre-resume",
    "vm-post-resume",
    "vm-pre-migrate",
    "vm-post-migrate",
]


class _MicroOp(Struct, frozen=True, kw_only=True, tag_field="op", forbid_unknown_fields=True):
    pass


class VmHook(_MicroOp, frozen=True, kw_only=True, tag="vm_hook"):
    """Run one script; with `tolerant` its failure is only logged."""

    hook: Hook
    script: str
    reason: str
    tolerant: bool = False


class VmDelay(_MicroOp, frozen=True, kw_only=True, tag="vm_delay"):
    """Wait, holding no worker."""

    seconds: float


class VmCreate(_MicroOp, frozen=True, kw_only=True, tag="vm_create"):
    """Reserve memory and make the empty, paused domain."""


class VmBuild(_MicroOp, frozen=True, kw_only=True, tag="vm_build"):
    """Memory and kernel."""


class VmCreateDeviceModel(_MicroOp, frozen=True, kw_only=True, tag="vm_create_device_model"):
    """Start the device model."""


class VmDestroyDeviceModel(_MicroOp, frozen=True, kw_only=True, tag="vm_destroy_device_model"):
    """Stop the device model."""


class VmDestroy(_MicroOp, frozen=True, kw_only=True, tag="vm_destroy"):
    """Remove the domain and every leftover, give its memory back."""


class VmPause(_MicroOp, frozen=True, kw_only=True, tag="vm_pause"):
    """Stop the vCPUs; with `if_running` those of a domain that has stopped are let be."""

    if_running: bool = False


class VmUnpause(_MicroOp, frozen=True, kw_only=True, tag="vm_unpause"):
    """Let the vCPUs run; those of a guest that has stopped since have run."""


class VmRequestShutdown(_MicroOp, frozen=True, kw_only=True, tag="vm_request_shutdown"):
    """Ask the guest; with `force` a guest that does not answer is passed over."""

    reason: Literal["poweroff", "reboot"]
    timeout: float
    force: bool = False


class VmAwaitShutdown(_MicroOp, frozen=True, kw_only=True, tag="vm_await_shutdown"):
    """Wait until the domain runs no more; with `force` a guest that stays is passed over."""

    timeout: float
    force: bool = False


class VmSave(_MicroOp, frozen=True, kw_only=True, tag="vm_save"):
    """Write the running guest to an image, complete and durable."""

    image: str


class VmResumeSaved(_MicroOp, frozen=True, kw_only=True, tag="vm_resume_saved"):
    """Let the guest run on after a save that is given up."""


class VmCommitImage(_MicroOp, frozen=True, kw_only=True, tag="vm_commit_image"):
    """Record, durably, that the VM is in this image: from here on it is suspended."""

    image: str
    plugged: list[DeviceId]


class VmDropImage(_MicroOp, frozen=True, kw_only=True, tag="vm_drop_image"):
    """Forget the image, then remove its file."""

    image: str


class VmCheckImage(_MicroOp, frozen=True, kw_only=True, tag="vm_check_image"):
    """Refuse a damaged image before anything is made."""

    image: str


class VmRestore(_MicroOp, frozen=True, kw_only=True, tag="vm_restore"):
    """Fill the created domain from the image."""

    image: str


class VmSpendImage(_MicroOp, frozen=True, kw_only=True, tag="vm_spend_image"):
    """Record, durably and before the first vCPU runs, that the image must not be used again."""

    image: str


class VmUnspendImage(_MicroOp, frozen=True, kw_only=True, tag="vm_unspend_image"):
    """Take back a spending that failed: no vCPU has run since."""

    image: str


class VmCoredump(_MicroOp, frozen=True, kw_only=True, tag="vm_coredump"):
    """Write the stopped guest's memory where an administrator finds it."""

    path: str


class VmAdopt(_MicroOp, frozen=True, kw_only=True, tag="vm_adopt"):
    """Have a domain that was not ours bear this VM's mark; `vcpus` and `memory` (the most it may
    have, in bytes) are what it runs with."""

    domain: str
    vcpus: int
    memory: int


class VmPreserve(_MicroOp, frozen=True, kw_only=True, tag="vm_preserve"):
    """Keep the stopped domain as it is, to be looked at."""


class VmSetVcpus(_MicroOp, frozen=True, kw_only=True, tag="vm_set_vcpus"):
    """Number of vCPUs online."""

    vcpus: int
    was: int


class VmSetMemory(_MicroOp, frozen=True, kw_only=True, tag="vm_set_memory"):
    """Balloon target, in bytes."""

    target: int
    was: int


class VmSetXsdata(_MicroOp, frozen=True, kw_only=True, tag="vm_set_xsdata"):
    """Guest-visible pairs."""

    xsdata: dict[str, str]
    was: dict[str, str]


class VmRecord(_MicroOp, frozen=True, kw_only=True, tag="vm_record"):
    """Write changed fields of the VM's (or a device's) configuration, durably; of a VM with a
    domain they are what has been applied to it."""

    object: str
    changes: dict[str, Any]
    was: dict[str, Any]


class VmRemoveLayers(_MicroOp, frozen=True, kw_only=True, tag="vm_remove_layers"):
    """Drop the layers of these VBDs; None: every layer of the VM."""

    vbds: list[DeviceId] | None


class VmPackLayers(_MicroOp, frozen=True, kw_only=True, tag="vm_pack_layers"):
    """Move the VM's layers into a parcel for another instance."""

    parcel: str


class VmTakeLayers(_MicroOp, frozen=True, kw_only=True, tag="vm_take_layers"):
    """Move the VM's layers out of a parcel to their place."""

    parcel: str


class VmHandOver(_MicroOp, frozen=True, kw_only=True, tag="vm_hand_over"):
    """Have another instance of this host record the VM: from then on it is that one's."""

    instance: str
    state_dir: str


class VmRemoveDevice(_MicroOp, frozen=True, kw_only=True, tag="vm_remove_device"):
    """Drop a device's record, durably."""

    id: DeviceId


class VmRemoveRecord(_MicroOp, frozen=True, kw_only=True, tag="vm_remove_record"):
    """Drop the VM's record, durably: the last step of its life."""


class VbdPlug(_MicroOp, frozen=True, kw_only=True, tag="vbd_plug"):
    """Attach, activate, connect."""

    id: DeviceId


class VbdUnplug(_MicroOp, frozen=True, kw_only=True, tag="vbd_unplug"):
    """Disconnect, deactivate, detach."""

    id: DeviceId
    force: bool = False


class VbdInsert(_MicroOp, frozen=True, kw_only=True, tag="vbd_insert"):
    """Put a medium into the drive."""

    id: DeviceId
    backend: Disk
    was: Disk | None


class VbdEject(_MicroOp, frozen=True, kw_only=True, tag="vbd_eject"):
    """Take the medium out."""

    id: DeviceId
    was: Disk | None


class VifPlug(_MicroOp, frozen=True, kw_only=True, tag="vif_plug"):
    """Make the interface and connect it."""

    id: DeviceId


class VifUnplug(_MicroOp, frozen=True, kw_only=True, tag="vif_unplug"):
    """Disconnect and remove the interface."""

    id: DeviceId
    force: bool = False


class VifConfigure(_MicroOp, frozen=True, kw_only=True, tag="vif_configure"):
    """Change one field of a plugged VIF."""

    id: DeviceId
    field: str
    value: Any
    was: Any


class PciPlug(_MicroOp, frozen=True, kw_only=True, tag="pci_plug"):
    """Bind and assign."""

    id: DeviceId


class PciUnplug(_MicroOp, frozen=True, kw_only=True, tag="pci_unplug"):
    """Give the device back to the host."""

    id: DeviceId
    force: bool = False


MicroOp: TypeAlias = (
    VmHook
    | VmDelay
    | VmCreate
    | VmBuild
    | VmCreateDeviceModel
    | VmDestroyDeviceModel
    | VmDestroy
    | VmPause
    | VmUnpause
    | VmRequestShutdown
    | VmAwaitShutdown
    | VmSave
    | VmResumeSaved
    | VmCommitImage
    | VmDropImage
    | VmCheckImage
    | VmRestore
    | VmSpendImage
    | VmUnspendImage
    | VmCoredump
    | VmAdopt
    | VmPreserve
    | VmSetVcpus
    | VmSetMemory
    | VmSetXsdata
    | VmRecord
    | VmRemoveLayers
    | VmPackLayers
    | VmTakeLayers
    | VmHandOver
    | VmRemoveDevice
    | VmRemoveRecord
    | VbdPlug
    | VbdUnplug
    | VbdInsert
    | VbdEject
    | VifPlug
    | VifUnplug
    | VifConfigure
    | PciPlug
    | PciUnplug
)

#: May take minutes: carried out in a thread of its own, waited for without a worker.
JOBS: tuple[type[MicroOp], ...] = (
    VmHook,
    VmSave,
    VmResumeSaved,
    VmRestore,
    VmCoredump,
    VmPackLayers,
    VmTakeLayers,
    VmHandOver,
)

#: Effects that outlive the host: their intent is fsynced before them.
DURABLE: tuple[type[MicroOp], ...] = (
    VmSave,
    VmCommitImage,
    VmDropImage,
    VmSpendImage,
    VmUnspendImage,
    VmRecord,
    VmRemoveLayers,
    VmPackLayers,
    VmTakeLayers,
    VmHandOver,
    VmRemoveDevice,
    VmRemoveRecord,
)

#: Make no sense without a domain.
NEEDS_DOMAIN: tuple[type[MicroOp], ...] = (
    VmBuild,
    VmCreateDeviceModel,
    VmUnpause,
    VmSave,
    VmResumeSaved,
    VmRestore,
    VmSpendImage,
    VmSetVcpus,
    VmSetMemory,
    VmSetXsdata,
    VbdPlug,
    VbdInsert,
    VbdEject,
    VifPlug,
    VifConfigure,
    PciPlug,
)

#: Share of a task's progress; what is not named weighs 1.
WEIGHTS: dict[type[MicroOp], int] = {VmSave: 10, VmRestore: 10}


def name(op: MicroOp) -> str:
    """The name as TASK.stat shows it."""
    return str(op.__struct_config__.tag)


def subject(op: MicroOp, vm: str) -> str:
    """The VM or device that a micro-op is about."""
    match op:
        case VmRecord(object=object):
            return object
        case (
            VbdPlug(id=id)
            | VbdUnplug(id=id)
            | VbdInsert(id=id)
            | VbdEject(id=id)
            | VifPlug(id=id)
            | VifUnplug(id=id)
            | VifConfigure(id=id)
            | PciPlug(id=id)
            | PciUnplug(id=id)
            | VmRemoveDevice(id=id)
        ):
            return id
        case _:
            return vm


def inverse(op: MicroOp) -> tuple[MicroOp, ...]:  # noqa: PLR0911, PLR0912, C901  # one arm a micro-op
    """What undoes it, done or half done; nothing where there is nothing to undo."""
    match op:
        case VmCreate():
            return (VmDestroy(),)
        case VmCreateDeviceModel():
            return (VmDestroyDeviceModel(),)
        case VmPause():
            return (VmUnpause(),)
        case VmUnpause():
            return (VmPause(if_running=True),)
        case VmSave(image=image):
            return (VmResumeSaved(), VmDropImage(image=image))
        case VmSpendImage(image=image):
            return (VmUnspendImage(image=image),)
        case VmSetVcpus(vcpus=vcpus, was=was):
            return (VmSetVcpus(vcpus=was, was=vcpus),)
        case VmSetMemory(target=target, was=was):
            return (VmSetMemory(target=was, was=target),)
        case VmSetXsdata(xsdata=xsdata, was=was):
            return (VmSetXsdata(xsdata=was, was=xsdata),)
        case VmRecord(object=object, changes=changes, was=was):
            return (VmRecord(object=object, changes=was, was=changes),)
        case VmPackLayers(parcel=parcel):
            return (VmTakeLayers(parcel=parcel),)
        case VbdPlug(id=id):
            return (VbdUnplug(id=id, force=True),)
        case VbdUnplug(id=id):
            return (VbdPlug(id=id),)
        case VbdInsert(id=id, backend=backend, was=was):
            if was is None:
                return (VbdEject(id=id, was=backend),)
            return (VbdInsert(id=id, backend=was, was=backend),)
        case VbdEject(id=id, was=was):
            return (VbdInsert(id=id, backend=was, was=None),) if was else ()
        case VifPlug(id=id):
            return (VifUnplug(id=id, force=True),)
        case VifUnplug(id=id):
            return (VifPlug(id=id),)
        case VifConfigure(id=id, field=field, value=value, was=was):
            return (VifConfigure(id=id, field=field, value=was, was=value),)
        case PciPlug(id=id):
            return (PciUnplug(id=id, force=True),)
        case PciUnplug(id=id):
            return (PciPlug(id=id),)
        case (
            VmHook()
            | VmDelay()
            | VmBuild()
            | VmDestroyDeviceModel()
            | VmDestroy()
            | VmRequestShutdown()
            | VmAwaitShutdown()
            | VmResumeSaved()
            | VmCommitImage()
            | VmDropImage()
            | VmCheckImage()
            | VmRestore()
            | VmUnspendImage()
            | VmCoredump()
            | VmAdopt()
            | VmPreserve()
            | VmRemoveLayers()
            | VmTakeLayers()
            | VmHandOver()
            | VmRemoveDevice()
            | VmRemoveRecord()
        ):
            return ()
