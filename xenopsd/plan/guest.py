"""What a guest's own stop asks for: the on_* actions, with crash loops damped. Pure."""

from idl.vm import Action
from xenopsd import microop
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
    vm = snapshot.meta.vm
    actions = {
        "reboot": vm.on_reboot,
        "crash": vm.on_crash,
    }.get(domain.stopped, vm.on_shutdown)
    started = snapshot.extra.last_start_time
    young = started is not None and snapshot.now - started < snapshot.limits.crash_window
    reason = REASONS[domain.stopped]
    if Action.START in actions and domain.stopped == "crash" and young:
        # A crash loop: what crashed this soon after its start would crash again.
        return Plan(
            reason=f"{reason} too soon after its start to be started again",
            segments=[tear_down(snapshot)],
        )
    if Action.START in actions:
        wait = [microop.VmDelay(seconds=snapshot.limits.reboot_delay)] if young else []
        up = bring_up(snapshot, paused=False, why=domain.stopped)
        again = Segment(incarnation=up.incarnation, steps=[*wait, *up.steps])
        return Plan(reason=reason, segments=[tear_down(snapshot), again])
    if Action.PAUSE in actions and Action.SHUTDOWN not in actions:
        return Plan(reason=reason)
    return Plan(reason=reason, segments=[tear_down(snapshot)])
