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
from xenopsd.microop import NEEDS_DOMAIN, VmCreate
from xenopsd.plan.plan import Plan
from xenopsd.record import VmExtra, half_built


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
            return False
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
        """The next step needs a domain, and there is none."""
        if self.open is None or self.domain is not None:
            return False
        ahead = self.open.plan.steps()[self.open.done :]
        return bool(ahead) and isinstance(ahead[0][0], NEEDS_DOMAIN)

    @property
    def outlived(self) -> bool:
        """The plan is about a domain that the host's restart has taken away."""
        if self.open is None or not self.rebooted:
            return False
        ahead = self.open.plan.steps()[self.open.done :]
        return any(isinstance(step, (*NEEDS_DOMAIN, VmCreate)) for step, _ in ahead)

    @property
    def lost(self) -> bool:
        """It is recorded as running, or something of it is left, and it has no domain."""
        if self.domain is not None:
            return False
        image = self.extra.image
        if image is not None:
            # What a suspended VM leaves (its layers) it needs again.
            return image.spent
        return self.leftovers or self.extra.power_state is not PowerState.HALTED


Row = tuple[Callable[[Facts], bool], Verdict, str]

TABLE: tuple[Row, ...] = (
    (
        lambda f: f.stranger,
        Verdict.DOUBT,
        "a domain bears its mark that no record and no journal knows of",
    ),
    (lambda f: f.back, Verdict.CONTINUE, "its operation was being undone: undo the rest"),
    (
        lambda f: f.finishing and f.bereft,
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
    (lambda f: f.open is not None, Verdict.CONTINUE, "its operation can be carried on"),
    (
        lambda f: f.lost and f.rebooted,
        Verdict.CLEAR,
        "the host restarted",
    ),
    (lambda f: f.lost, Verdict.CLEAR, "lost"),
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
