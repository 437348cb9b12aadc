"""Start, shutdown, reboot, pause, unpause, and the single micro-ops. Pure."""

from collections.abc import Sequence

from msgspec.structs import replace

from backends.interface import Domain
from idl.calls import (
    VmBuild,
    VmCreate,
    VmCreateDeviceModel,
    VmDelay,
    VmDestroy,
    VmReboot,
    VmShutdown,
    VmStart,
)
from idl.errors import BadPowerState, DomainNotBuilt
from idl.ids import DeviceId
from idl.pci import Pci
from idl.vbd import Vbd
from idl.vif import Vif
from idl.vm import PowerState
from xenopsd import microop
from xenopsd.microop import MicroOp
from xenopsd.plan.plan import Plan, Segment, Snapshot

HARD = "hard"
CLEAN = "clean"


def writable_first(vbd: Vbd) -> tuple[bool, int]:
    """Order of VBDs: writable ones first, for storage cannot upgrade a read-only attach."""
    return (vbd.mode == "ro", vbd.position or 0)


def by_position(device: Vif | Pci) -> int:
    """Order of VIFs and PCI devices."""
    return device.position or 0


def plugs(snapshot: Snapshot, only: Sequence[DeviceId] | None = None) -> list[MicroOp]:
    """Plug every VBD, then every VIF: before the device model, which opens them."""
    meta = snapshot.meta
    vbds = sorted(meta.vbds, key=writable_first)
    vifs = sorted(meta.vifs, key=by_position)
    return [
        *(microop.VbdPlug(id=v.id) for v in vbds if only is None or v.id in only),
        *(microop.VifPlug(id=v.id) for v in vifs if only is None or v.id in only),
    ]


def pci_plugs(snapshot: Snapshot) -> list[MicroOp]:
    """Plug PCI devices one after another, after the device model, which is told of each."""
    return [microop.PciPlug(id=p.id) for p in sorted(snapshot.meta.pcis, key=by_position)]


def bring_up(snapshot: Snapshot, *, paused: bool, why: str = "none") -> Segment:
    """From nothing to running (or paused)."""
    return Segment(
        incarnation=snapshot.fresh,
        steps=[
            *snapshot.scripts("vm-pre-start", why),
            microop.VmCreate(),
            microop.VmBuild(),
            *plugs(snapshot),
            microop.VmCreateDeviceModel(),
            *pci_plugs(snapshot),
            *([] if paused else [microop.VmUnpause()]),
            *snapshot.scripts("vm-post-start", why),
        ],
    )


def unplugs(domain: Domain) -> list[MicroOp]:
    """Take out what is in the domain, by force: its guest runs no more."""
    return [
        *(microop.PciUnplug(id=pci, force=True) for pci in reversed(domain.pcis)),
        *(microop.VifUnplug(id=vif, force=True) for vif in reversed(list(domain.vifs))),
        *(microop.VbdUnplug(id=vbd, force=True) for vbd in reversed(list(domain.vbds))),
    ]


def tear_down(snapshot: Snapshot, *, hooks: Sequence[MicroOp] = ()) -> Segment:
    """From a domain in any condition to nothing; also clears leftovers where there is none."""
    domain = snapshot.domain
    steps: list[MicroOp] = []
    if domain is not None:
        runs = domain.built and not domain.paused and domain.stopped is None
        # Stopped first: no guest writes to a disk while it is being taken away.
        steps += [microop.VmPause(if_running=True)] if runs else []
        steps += [microop.VmDestroyDeviceModel(), *unplugs(domain)]
    steps += [microop.VmDestroy(), *hooks]
    incarnation = domain.incarnation if domain else snapshot.extra.incarnation
    return Segment(finish=True, incarnation=incarnation, steps=steps)


def _cleared(snapshot: Snapshot) -> list[Segment]:
    """Before a new domain: what a lost one has left behind goes."""
    return [tear_down(snapshot)] if snapshot.lost else []


def ask_guest(
    snapshot: Snapshot, *, timeout: float, force: bool, reboot: bool, hooks: Sequence[MicroOp]
) -> Segment:
    """Ask the guest to stop and wait for it."""
    domain = snapshot.require_domain()
    steps = list(hooks)
    if domain.stopped is None:
        ack = min(timeout, snapshot.limits.shutdown_ack)
        steps += [
            microop.VmRequestShutdown(
                reason="reboot" if reboot else "poweroff", timeout=ack, force=force
            ),
            microop.VmAwaitShutdown(timeout=timeout, force=force),
        ]
    return Segment(incarnation=domain.incarnation, steps=steps)


def start(call: VmStart, snapshot: Snapshot) -> Plan:
    """VM.start."""
    snapshot.require(PowerState.HALTED)
    up = bring_up(snapshot, paused=call.paused)
    return Plan(reason="started", segments=[*_cleared(snapshot), up])


def shutdown(call: VmShutdown, snapshot: Snapshot) -> Plan:
    """VM.shutdown: of a halted VM nothing, of a suspended one its image goes."""
    if snapshot.domain is None:
        image = snapshot.extra.image
        drop: list[MicroOp] = [microop.VmDropImage(image=image.path)] if image else []
        down = tear_down(snapshot)
        return Plan(reason="shut down", segments=[replace(down, steps=[*drop, *down.steps])])
    post = snapshot.scripts("vm-post-shutdown", HARD, tolerant=True)
    if call.timeout is None:
        # A hook that fails must not stand between an administrator and a hard shutdown.
        pre = snapshot.scripts("vm-pre-shutdown", HARD, tolerant=True)
        down = tear_down(snapshot, hooks=post)
        return Plan(
            reason="shut down",
            segments=[Segment(finish=True, incarnation=down.incarnation, steps=pre), down],
        )
    if snapshot.state is PowerState.PAUSED and not call.force:
        raise BadPowerState(id=snapshot.id, actual="paused", expected=["running"])
    pre = snapshot.scripts("vm-pre-shutdown", CLEAN)
    ask = ask_guest(snapshot, timeout=call.timeout, force=call.force, reboot=False, hooks=pre)
    return Plan(reason="shut down", segments=[ask, tear_down(snapshot, hooks=post)])


def reboot(call: VmReboot, snapshot: Snapshot) -> Plan:
    """VM.reboot: down as VM.shutdown does, and up again with the present configuration."""
    snapshot.require(PowerState.RUNNING, PowerState.PAUSED)
    kind = HARD if call.timeout is None else CLEAN
    pre = snapshot.scripts("vm-pre-reboot", kind)
    if call.timeout is None:
        domain = snapshot.require_domain()
        first = Segment(incarnation=domain.incarnation, steps=pre)
    else:
        if snapshot.state is PowerState.PAUSED and not call.force:
            raise BadPowerState(id=snapshot.id, actual="paused", expected=["running"])
        first = ask_guest(
            snapshot, timeout=call.timeout, force=call.force, reboot=True, hooks=pre
        )
    up = bring_up(snapshot, paused=False, why=f"{kind}-reboot")
    return Plan(reason="rebooted", segments=[first, tear_down(snapshot), up])


def pause(snapshot: Snapshot) -> Plan:
    """VM.pause: of a paused VM nothing."""
    domain = built(snapshot)
    steps: list[MicroOp] = [] if domain.paused else [microop.VmPause()]
    return Plan(reason="paused", segments=[Segment(incarnation=domain.incarnation, steps=steps)])


def unpause(snapshot: Snapshot) -> Plan:
    """VM.unpause: of a running VM nothing."""
    domain = built(snapshot)
    steps: list[MicroOp] = [microop.VmUnpause()] if domain.paused else []
    return Plan(
        reason="unpaused", segments=[Segment(incarnation=domain.incarnation, steps=steps)]
    )


def built(snapshot: Snapshot) -> Domain:
    """The domain. Raises BadPowerState without one, DomainNotBuilt before build."""
    domain = snapshot.require_domain()
    if not domain.built:
        raise DomainNotBuilt(id=snapshot.id)
    if domain.stopped is not None:
        raise BadPowerState(
            id=snapshot.id, actual=f"stopped ({domain.stopped})", expected=["running", "paused"]
        )
    return domain


def delay(call: VmDelay, snapshot: Snapshot) -> Plan:
    """VM.delay."""
    incarnation = snapshot.domain.incarnation if snapshot.domain else None
    steps: list[MicroOp] = [microop.VmDelay(seconds=call.seconds)]
    return Plan(segments=[Segment(incarnation=incarnation, steps=steps)])


def single(call: VmCreate | VmBuild | VmCreateDeviceModel | VmDestroy, snapshot: Snapshot) -> Plan:
    """One micro-op, for toolstacks that sequence them themselves."""
    match call:
        case VmCreate():
            snapshot.require(PowerState.HALTED)
            alone = _alone(microop.VmCreate(), snapshot.fresh)
            return replace(alone, segments=[*_cleared(snapshot), *alone.segments])
        case VmBuild():
            snapshot.require(PowerState.PAUSED)
            domain = snapshot.require_domain()
            return Plan() if domain.built else _alone(microop.VmBuild(), domain.incarnation)
        case VmCreateDeviceModel():
            domain = built(snapshot)
            # One that is there must not be destroyed because another could not be made.
            return (
                Plan()
                if domain.device_model
                else _alone(microop.VmCreateDeviceModel(), domain.incarnation)
            )
        case VmDestroy():
            return Plan(reason="destroyed", segments=[tear_down(snapshot)])


def _alone(step: MicroOp, incarnation: str | None) -> Plan:
    return Plan(reason="created", segments=[Segment(incarnation=incarnation, steps=[step])])
