"""What a guest's own stop asks for: the on_* actions, with crash loops damped. Pure."""

from msgspec.structs import replace

from backends.interface import Domain
from idl.vm import Action
from xenopsd import microop
from xenopsd.microop import MicroOp
from xenopsd.plan.lifecycle import bring_up, tear_down
from xenopsd.plan.plan import Plan, Segment, Snapshot

#: Why the VM is then where it is, by how its guest stopped.
REASONS = {
    "poweroff": "guest shut down",
    "reboot": "guest rebooted",
    "crash": "crashed",
    "suspend": "guest suspended itself",
}


def check(snapshot: Snapshot) -> Plan:
    """What to do about a VM that needs attention: nothing, where its domain did not stop."""
    domain = snapshot.domain
    if domain is None or domain.stopped is None:
        return Plan()
    if snapshot.extra.preserved == domain.incarnation:
        return Plan()
    image = snapshot.extra.image
    if image is not None and not image.spent and image.incarnation == domain.incarnation:
        # A suspend that could not be finished: started anew, it could be resumed all the same.
        return Plan(reason="suspended", segments=[tear_down(snapshot)])
    vm = snapshot.meta.vm
    actions = {"reboot": vm.on_reboot, "crash": vm.on_crash}.get(domain.stopped, vm.on_shutdown)
    reason = REASONS[domain.stopped]
    dump: list[MicroOp] = []
    if Action.COREDUMP in actions:
        dump = [microop.VmCoredump(path=snapshot.core)]
    if Action.START in actions:
        return _restart(snapshot, domain, dump, reason)
    if Action.PAUSE in actions and Action.SHUTDOWN not in actions:
        keep = Segment(
            finish=True, incarnation=domain.incarnation, steps=[*dump, microop.VmPreserve()]
        )
        return Plan(reason=reason, segments=[keep])
    return Plan(reason=reason, segments=[_down(snapshot, dump)])


def _restart(snapshot: Snapshot, domain: Domain, dump: list[MicroOp], reason: str) -> Plan:
    started = snapshot.extra.last_start_time
    young = started is not None and snapshot.now - started < snapshot.limits.crash_window
    if domain.stopped == "crash" and young:
        # A crash loop: what crashed this soon after its start would crash again.
        reason = f"{reason} too soon after its start to be started again"
        return Plan(reason=reason, segments=[_down(snapshot, dump)])
    wait = [microop.VmDelay(seconds=snapshot.limits.reboot_delay)] if young else []
    up = bring_up(snapshot, paused=False, why=domain.stopped or "")
    again = replace(up, steps=[*wait, *up.steps])
    return Plan(reason=reason, segments=[_down(snapshot, dump), again])


def _down(snapshot: Snapshot, dump: list[MicroOp]) -> Segment:
    down = tear_down(snapshot)
    return replace(down, steps=[*dump, *down.steps])
