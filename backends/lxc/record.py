"""A container's record, and what a backend tells of it. Values only."""

import signal
from dataclasses import dataclass
from typing import Literal

from backends.interface import Domain, PluggedVbd, PluggedVif, StopReason
from idl.ids import DeviceId
from idl.vbd import Position, Vbd
from idl.vif import Vif
from idl.vm import Console, Scheduler
from idl.wire import Fact


class ContainerVbd(PluggedVbd, frozen=True, kw_only=True, omit_defaults=True):
    """A plugged VBD: `target` is where the container sees it, `device` (MAJOR:MINOR) what its
    writes end on, `config` the configuration that it was plugged with."""

    position: Position
    target: str
    type: Literal["disk", "cdrom", "floppy"] = "disk"
    unpluggable: bool = True
    device: str | None = None
    config: Vbd | None = None


class ContainerVif(PluggedVif, frozen=True, kw_only=True, omit_defaults=True):
    """A plugged VIF with the configuration that it has, and its name in the container."""

    config: Vif
    position: Position
    inside: str


class Record(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """Everything that is true of one container and stands nowhere else.

    `first_id` is the host's id of the container's root, 0 where it is privileged. `group` is
    the control group, `marked` how the marks of everything that belongs to it begin, `state`
    the STATE/lxc with its layers: of an adopted one they are still its former owner's. From
    `built` on the fields about the guest hold; `started` is set before its first process is
    made. `asked` is what the guest was last asked for. `saved`: it stands frozen, and its image
    is complete. `restored`: it is made from an image, and has not run since.
    """

    id: str
    name: str
    vm: str
    instance: str
    incarnation: str
    created: float
    first_id: int
    group: str
    marked: str
    state: str
    memory_target: int
    memory_limit: int
    built: bool = False
    started: bool = False
    asked: Literal["poweroff", "reboot"] | None = None
    saved: bool = False
    restored: bool = False
    vcpus: int = 0
    init: list[str] | None = None
    environment: dict[str, str] = {}
    hostname: str = ""
    nesting: bool = False
    scheduler: Scheduler = Scheduler()
    platform: dict[str, str | int | float | bool] = {}
    vbds: dict[DeviceId, ContainerVbd] = {}
    vifs: dict[DeviceId, ContainerVif] = {}

    @property
    def privileged(self) -> bool:
        """Whether its root is the host's."""
        return self.first_id == 0


@dataclass(frozen=True, slots=True)
class Life:
    """What the kernel and the keeper say of a container that was started.

    `status` is how init ended, as a return code or minus a signal; None while it runs and where
    nobody saw its end.
    """

    populated: bool
    kept: bool
    frozen: bool = False
    status: int | None = None
    cpu_seconds: float = 0.0
    memory_used: int = 0
    console: str | None = None


#: Before its start.
NOT_STARTED = Life(populated=False, kept=False)


def stopped(record: Record, life: Life) -> StopReason | None:
    """Why the container runs no more; None while it does, or has not begun to."""
    if not record.started:
        return None
    if record.saved:
        return "suspend"
    if life.status is not None:
        return reason(life.status, record.asked)
    # Of one that is being made from its image there may be nothing, and nothing is lost.
    if life.populated or life.kept or record.restored:
        return None
    # The keeper was killed and has not seen the end.
    return record.asked or "crash"


def reason(status: int, asked: Literal["poweroff", "reboot"] | None) -> StopReason:
    """What an end of init means. In a PID namespace the kernel has reboot(2) show as a death by
    SIGHUP, and power-off or halt as one by SIGINT."""
    if status == -signal.SIGHUP:
        return "reboot"
    if status == -signal.SIGINT:
        return "poweroff"
    # A program that is no init ends the same way whatever it was asked for.
    return asked or "poweroff" if status == 0 else "crash"


def observed(record: Record, life: Life) -> Domain:
    """The domain as a backend tells of it."""
    consoles = [] if life.console is None else [Console(protocol="text", path=life.console)]
    return Domain(
        id=record.id,
        name=record.name,
        vm=record.vm,
        instance=record.instance,
        incarnation=record.incarnation,
        built=record.built,
        paused=not record.started or life.frozen or record.restored,
        stopped=stopped(record, life),
        vcpu_seconds=life.cpu_seconds,
        vcpus=record.vcpus,
        memory_target=record.memory_target,
        memory_actual=life.memory_used,
        memory_limit=record.memory_limit,
        uncooperative_balloon=life.memory_used > record.memory_target,
        consoles=consoles,
        vbds={
            id: PluggedVbd(medium=vbd.medium, detaching=vbd.detaching)
            for id, vbd in record.vbds.items()
        },
        vifs={
            id: PluggedVif(device=vif.device, media_present=vif.media_present)
            for id, vif in record.vifs.items()
        },
    )
