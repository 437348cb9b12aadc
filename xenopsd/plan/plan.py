"""What a plan is made of, what the planner looks at, and the rows that plans share. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from backends.interface import Domain
from idl.errors import BadPowerState, DoesNotExist
from idl.ids import DeviceId
from idl.metadata import Metadata
from idl.pci import Pci
from idl.vbd import Vbd
from idl.vif import Vif
from idl.vm import PowerState
from xenopsd.microop import Hook, MicroOp, VmHook, inverse
from xenopsd.record import VmExtra, power_state

_Device = TypeVar("_Device", Vbd, Vif, Pci)


class Segment(Struct, frozen=True, kw_only=True):
    """Steps that act for one incarnation, undone together or only ever finished."""

    steps: list[MicroOp]
    incarnation: str | None = None
    finish: bool = False


class Plan(Struct, frozen=True, kw_only=True):
    """Segments in order; `reason` is why the VM is then in its power state."""

    segments: list[Segment] = []
    reason: str = ""

    def steps(self) -> list[tuple[MicroOp, Segment]]:
        """Every step with its segment, in order: their indices are the journal's."""
        return [(step, segment) for segment in self.segments for step in segment.steps]


def undo(plan: Plan, done: int, *, intended: bool) -> Plan:
    """What undoes the segment that step number `done` stands in, in reverse.

    With `intended` that step itself may be half done, and is undone too.
    """
    first = 0
    for segment in plan.segments:
        if done < first + len(segment.steps):
            begun = segment.steps[: done - first + (1 if intended else 0)]
            steps = [back for step in reversed(begun) for back in inverse(step)]
            return Plan(
                segments=[Segment(steps=steps, incarnation=segment.incarnation, finish=True)]
            )
        first += len(segment.steps)
    return Plan()


def rest(plan: Plan, done: int) -> Plan:
    """What is left of a plan after its first `done` steps."""
    left: list[Segment] = []
    for segment in plan.segments:
        steps = segment.steps[max(0, done) :]
        done -= len(segment.steps)
        if steps:
            left.append(replace(segment, steps=steps))
    return Plan(segments=left, reason=plan.reason)


@dataclass(frozen=True, slots=True)
class Limits:
    """Deadlines that plans carry, in seconds."""

    shutdown_ack: float = 60.0
    crash_window: float = 120.0
    reboot_delay: float = 15.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A VM as the planner sees it; `fresh` is the incarnation of a domain to be made,
    `lacking` why the backend lacks a feature here, `hooks` the scripts of each hook, `image` and
    `core` the instance's own places for its suspend image and for what is left of a crash.
    """

    meta: Metadata
    extra: VmExtra
    domain: Domain | None
    fresh: str
    image: str
    core: str = ""
    backend: str = ""
    features: frozenset[str] = frozenset()
    lacking: Mapping[str, str] = field(default_factory=dict)
    hooks: Mapping[Hook, Sequence[str]] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    now: float = 0.0

    @property
    def id(self) -> str:
        """The VM."""
        return self.meta.vm.id

    @property
    def state(self) -> PowerState:
        """Its power state."""
        return power_state(self.domain, self.extra)

    @property
    def lost(self) -> bool:
        """Its domain went by itself, and what was plugged may be left."""
        return self.domain is None and self.extra.incarnation is not None

    def require(self, *expected: PowerState) -> None:
        """Raises BadPowerState unless the VM is in one of these."""
        if self.state not in expected:
            raise BadPowerState(
                id=self.id, actual=str(self.state), expected=[str(e) for e in expected]
            )

    def require_domain(self) -> Domain:
        """The domain. Raises BadPowerState without one."""
        if self.domain is None:
            self.require(PowerState.RUNNING, PowerState.PAUSED)
        assert self.domain is not None
        return self.domain

    def vbd(self, id: DeviceId) -> Vbd:
        """The VBD. Raises DoesNotExist."""
        return _find(self.meta.vbds, "VBD", id)

    def vif(self, id: DeviceId) -> Vif:
        """The VIF. Raises DoesNotExist."""
        return _find(self.meta.vifs, "VIF", id)

    def pci(self, id: DeviceId) -> Pci:
        """The PCI device. Raises DoesNotExist."""
        return _find(self.meta.pcis, "PCI", id)

    def scripts(self, hook: Hook, reason: str, *, tolerant: bool = False) -> list[MicroOp]:
        """The hook's scripts as micro-ops, in name order."""
        return [
            VmHook(hook=hook, script=script, reason=reason, tolerant=tolerant)
            for script in self.hooks.get(hook, ())
        ]


def _find(devices: Iterable[_Device], kind: str, id: DeviceId) -> _Device:
    for device in devices:
        if device.id == id:
            return device
    raise DoesNotExist(kind=kind, id=id)
