"""What would bring a VM into a sensible state: the table of recovery. Pure.

`reconcile` looks at what is recorded, what is observed, and what the journal leaves open, and
answers with the first row of `TABLE` that fits. The rows are in the order in which they are
asked; each says in words what it found. An open intent decides before the seed's tell.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from backends.interface import Domain
from idl.vm import PowerState
from xenopsd.microop import NEEDS_DOMAIN, MicroOp, VmCreate, VmDelay, VmDestroy, VmPause
from xenopsd.plan.plan import Plan
from xenopsd.record import VmExtra, half_built

#: Why a VM is without its domain.
LOST = "lost"
RESTARTED = "the host restarted"


class Verdict(StrEnum):
    """What to do about a VM."""

    SETTLE = "settle"  # nothing: it is sensible as it is
    CONTINUE = "continue"  # carry the open plan on from its first step that is not done
    TURN_BACK = "turn back"  # undo what the open plan's present segment has done
    CLEAR = "clear"  # remove what is left of its domain: it is halted
    DOUBT = "doubt"  # touch nothing, ask an administrator


@dataclass(frozen=True, slots=True)
class Repair:
    """The verdict, and what it was drawn from, in words."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True)
class OpenPlan:
    """What a journal leaves open, decoded."""

    plan: Plan
    direction: Literal["forward", "back"]
    done: int
    intended: bool

    @property
    def ahead(self) -> list[MicroOp]:
        """The steps that are not done."""
        return [step for step, _ in self.plan.steps()[self.done :]]

    @property
    def in_domain(self) -> bool:
        """It has come to where there is a domain: made by it, or needed by the next step."""
        past = [step for step, _ in self.plan.steps()[: self.done]]
        made = next((s for s in reversed(past) if isinstance(s, VmCreate | VmDestroy)), None)
        following = self.ahead[:1]
        needed = bool(following) and isinstance(following[0], NEEDS_DOMAIN)
        return isinstance(made, VmCreate) or needed or following == [VmPause()]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rows of the table ask about."""

    extra: VmExtra
    domain: Domain | None
    open: OpenPlan | None
    leftovers: bool
    rebooted: bool

    @property
    def stranger(self) -> bool:
        """A domain bears this VM's mark that neither record nor journal knows of."""
        if self.domain is None:
            return False
        known = {self.extra.incarnation, None}
        if self.open is not None:
            known |= {segment.incarnation for segment in self.open.plan.segments}
        elif self.extra.incarnation is None:
            # Ours though no record has it; but what runs beside its own image is not told by it.
            return self.extra.image is not None and not self.extra.image.spent
        return self.domain.incarnation not in known

    @property
    def back(self) -> bool:
        """The plan was being undone."""
        return self.open is not None and self.open.direction == "back"

    @property
    def finishing(self) -> bool:
        """The next step can only be carried on."""
        if self.open is None:
            return False
        steps = self.open.plan.steps()
        return self.open.done >= len(steps) or steps[self.open.done][1].finish

    @property
    def bereft(self) -> bool:
        """The plan has come to where there is a domain, and there is none."""
        return self.open is not None and self.domain is None and self.open.in_domain

    @property
    def waited(self) -> bool:
        """Nothing of the plan is left but a wait: to begin that anew would be no repair."""
        ahead = self.open.ahead if self.open is not None else []
        return bool(ahead) and all(isinstance(step, VmDelay) for step in ahead)

    @property
    def spent(self) -> bool:
        """The memory in its image may have run on: after a crash of the host the record, which
        is durable, knows that better than the journal."""
        return self.extra.image is not None and self.extra.image.spent

    @property
    def outlived(self) -> bool:
        """The plan is about a domain that the host's restart has taken away."""
        if self.open is None or not self.rebooted:
            return False
        return any(isinstance(step, (*NEEDS_DOMAIN, VmCreate)) for step in self.open.ahead)

    @property
    def lost(self) -> bool:
        """It has no domain, and is recorded as having one, or as having run on from its image."""
        if self.domain is not None or self.extra.image is not None:
            return self.domain is None and self.spent
        return self.extra.power_state is not PowerState.HALTED

    @property
    def littered(self) -> bool:
        """It has no domain, and something of one is left."""
        return self.domain is None and (self.leftovers or self.lost)

    @property
    def falls(self) -> bool:
        """It was not halted, and without a domain it will be."""
        recorded = self.extra.power_state is not PowerState.HALTED
        return recorded and (self.extra.image is None or self.spent)

    @property
    def loss(self) -> str | None:
        """Why it has no domain any more, "" where it had none; None where nothing is left of
        one."""
        if not self.littered:
            return None
        if not self.falls:
            return ""
        return RESTARTED if self.rebooted else LOST


Row = tuple[Callable[[Facts], bool], Verdict, str]

TABLE: tuple[Row, ...] = (
    (
        lambda f: f.stranger,
        Verdict.DOUBT,
        "a domain bears its mark that no record and no journal knows of",
    ),
    (lambda f: f.back, Verdict.CONTINUE, "its operation was being undone: undo the rest"),
    (
        lambda f: f.bereft and (f.finishing or f.spent),
        Verdict.CLEAR,
        "its domain is gone, and its image was spent or is none",
    ),
    (lambda f: f.finishing, Verdict.CONTINUE, "its operation can only be carried on"),
    (
        lambda f: f.bereft,
        Verdict.TURN_BACK,
        "its operation needs a domain, and the domain is gone",
    ),
    (
        lambda f: f.outlived,
        Verdict.TURN_BACK,
        "the host restarted in the middle of its operation",
    ),
    (lambda f: f.waited, Verdict.TURN_BACK, "its operation did nothing but wait"),
    (lambda f: f.open is not None, Verdict.CONTINUE, "its operation can be carried on"),
    (lambda f: f.lost and f.rebooted, Verdict.CLEAR, RESTARTED),
    (lambda f: f.lost, Verdict.CLEAR, LOST),
    (lambda f: f.littered, Verdict.CLEAR, "something is left of a domain that is gone"),
    (
        lambda f: f.domain is not None and half_built(f.domain, f.extra),
        Verdict.CLEAR,
        "half built: paused, no vCPU time, and no operation has ended for it",
    ),
    (lambda _: True, Verdict.SETTLE, "as recorded"),
)


def reconcile(facts: Facts) -> Repair:
    """The first row that fits."""
    for fits, verdict, words in TABLE:
        if fits(facts):
            return Repair(verdict, words)
    raise AssertionError("the last row fits everything")
