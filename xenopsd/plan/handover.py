"""The plans by which a VM goes from one instance of the host to another. Pure.

Its layers are packed into a parcel in the other one's state directory, the other one records the
VM, and then this one's record goes. The writing of that record is the moment at which the VM
changes hands: before, everything is taken back; after, the rest is finished.
"""

from idl.vm import PowerState
from xenopsd import microop
from xenopsd.plan.lifecycle import tear_down
from xenopsd.plan.plan import Plan, Segment, Snapshot

#: Where parcels for an instance lie, below its state directory.
INCOMING = "incoming"


def released(snapshot: Snapshot, *, instance: str, state_dir: str) -> Plan:
    """Hand a halted VM to `instance`. Raises BadPowerState."""
    snapshot.require(PowerState.HALTED)
    parcel = f"{state_dir}/{INCOMING}/{snapshot.id}"
    give = Segment(
        steps=[
            microop.VmPackLayers(parcel=parcel),
            microop.VmHandOver(instance=instance, state_dir=state_dir),
        ]
    )
    drop = Segment(finish=True, steps=[microop.VmRemoveRecord()])
    cleared = [tear_down(snapshot)] if snapshot.lost else []
    return Plan(segments=[*cleared, give, drop])


def unpacked(plan: Plan, parcel: str) -> Plan:
    """A plan for a VM whose layers still lie in the parcel that they came in: first they go to
    their place, and where they cannot nothing else is done."""
    take = Segment(steps=[microop.VmTakeLayers(parcel=parcel)])
    return Plan(segments=[take, *plan.segments], reason=plan.reason)


def hands_over(plan: Plan) -> bool:
    """Whether another instance may have the VM by now."""
    return any(isinstance(step, microop.VmHandOver) for step, _ in plan.steps())
