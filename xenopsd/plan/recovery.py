"""What recovery carries out: a verdict on what a crash has left becomes a plan. Pure."""

from collections.abc import Sequence

from msgspec.structs import replace

from xenopsd import microop
from xenopsd.microop import NEEDS_DOMAIN, MicroOp
from xenopsd.plan.lifecycle import tear_down
from xenopsd.plan.plan import Plan, Segment, Snapshot, rest, undo

#: Once one of these has been carried out nothing of a domain that is gone is left.
SETTLES = (microop.VmCreate, microop.VmDestroy, microop.VmRemoveRecord)


def cleared(snapshot: Snapshot, ahead: Sequence[MicroOp] = ()) -> Plan:
    """Remove what is left of a domain; of an image that was spent, the record too.

    An image that the cut plan had `ahead` to be dropped is dropped, unless it is good.
    """
    image = snapshot.extra.image
    drop: list[MicroOp] = []
    if image is None:
        # Forgotten already; its file may still be there.
        drop = [op for op in ahead if isinstance(op, microop.VmDropImage)]
    elif image.spent:
        drop = [microop.VmDropImage(image=image.path)]
    down = tear_down(snapshot)
    return Plan(segments=[replace(down, steps=[*down.steps, *drop])])


def turned_back(
    plan: Plan, done: int, snapshot: Snapshot, *, intended: bool, loss: str | None
) -> Plan:
    """What undoes the cut segment, and clears what is left of a domain that is gone."""
    back = undo(plan, done, intended=intended)
    return _settled(back, snapshot, loss=loss, back=True)


def carried_on(plan: Plan, done: int, snapshot: Snapshot, *, loss: str | None, back: bool) -> Plan:
    """The rest of the cut plan, and what clears what is left of a domain that is gone."""
    return _settled(rest(plan, done), snapshot, loss=loss, back=back)


def _settled(plan: Plan, snapshot: Snapshot, *, loss: str | None, back: bool) -> Plan:
    """Without a domain: less what would undo something in it, and with its residues cleared.

    `loss` is why it is without one; None where nothing is to be cleared.
    """
    if back and snapshot.domain is None:
        plan = replace(plan, segments=[_without_domain(s) for s in plan.segments])
    if loss is None or any(isinstance(step, SETTLES) for step, _ in plan.steps()):
        return plan
    segments = [*plan.segments, *cleared(snapshot).segments]
    return Plan(segments=segments, reason=loss or plan.reason)


def _without_domain(segment: Segment) -> Segment:
    steps = [op for op in segment.steps if not isinstance(op, (*NEEDS_DOMAIN, microop.VmPause))]
    return replace(segment, steps=steps)
