"""A pure world in which plans are carried out and cut: domain, image, records, journal.

`Life` carries plans out as the executor does, in its order, and may be cut at any point; then the
world is what survives, and the next life recovers with the daemon's own thinking parts. Nothing
here blocks, sleeps or writes.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec.structs import replace
from rigs.values import FRESH, META, NOW

from backends.interface import Domain, PluggedVbd, PluggedVif
from idl.metadata import Metadata
from xenopsd import microop as m
from xenopsd.microop import DURABLE, MicroOp
from xenopsd.plan import guest, recovery
from xenopsd.plan.plan import Limits, Plan, Snapshot, rest, undo
from xenopsd.reconcile import Facts, OpenPlan, Verdict, reconcile
from xenopsd.record import VmExtra, advanced, concluded


class Cut(Exception):
    """The daemon dies here."""


class StepFailed(Exception):
    """A micro-op raises."""


class LawBroken(AssertionError):
    """The world did what destroys data."""


@dataclass
class Record:
    """One line of the journal, and whether it was fsynced."""

    kind: str
    durable: bool
    plan: Plan = field(default_factory=Plan)
    direction: str = "forward"
    step: int = 0
    failed: bool = False
    boot: str = ""


@dataclass
class World:
    """What outlives the daemon. `kept` is what would outlive the host too."""

    meta: Metadata = META
    extra: VmExtra = field(default_factory=VmExtra)
    kept_extra: VmExtra = field(default_factory=VmExtra)
    domain: Domain | None = None
    #: A complete image is there; the guest has run on since.
    image: bool = False
    stale: bool = False
    residues: bool = False
    removed: bool = False
    boot: str = "boot"
    journal: list[Record] = field(default_factory=list)
    kept_journal: list[Record] = field(default_factory=list)
    task: str = "open"

    def copy(self) -> "World":
        """Another world, alike."""
        return dataclasses.replace(
            self, journal=list(self.journal), kept_journal=list(self.kept_journal)
        )

    @property
    def condition(self) -> str:
        """What an outsider calls it."""
        if self.removed:
            return "removed"
        if self.domain is None:
            good = self.extra.image is not None and not self.extra.image.spent
            return "suspended" if good else "halted"
        if self.domain.stopped:
            return "stopped"
        if not self.domain.built:
            return "shell"
        return "paused" if self.domain.paused else "running"


# What happens while the daemon is down


def nothing(_world: World) -> None:
    """It was only the daemon that died."""


def domain_lost(world: World) -> None:
    """The domain vanishes without an event; what was plugged into it stays behind."""
    gone = world.domain
    if gone is not None:
        world.residues = bool(gone.vbds or gone.vifs or gone.pcis)
        world.domain = None


def guest_stops(world: World) -> None:
    """The guest shuts itself down."""
    domain = world.domain
    if domain is not None and not domain.paused and domain.stopped is None:
        world.domain = replace(domain, stopped="poweroff")


def host_reboots(world: World) -> None:
    """The host goes down in order: what was written is there."""
    domain_lost(world)
    world.boot += "+"


def power_fails(world: World) -> None:
    """Only what was fsynced is there."""
    world.extra = world.kept_extra
    world.journal = list(world.kept_journal)
    host_reboots(world)


class Life:
    """One life of the daemon. `cut_at` is the number of the point at which it dies."""

    def __init__(
        self,
        world: World,
        *,
        cut_at: int | None = None,
        fails: Callable[[MicroOp], bool] = lambda _op: False,
    ) -> None:
        self.world = world
        self.cut_at = cut_at
        self.fails = fails
        self.points: list[str] = []
        self.extra = world.extra
        self.skipped: list[MicroOp] = []
        self.done: list[MicroOp] = []
        self.attention: str | None = None
        self.verdict: Verdict | None = None
        self.went_back = False

    def passing(self, point: str) -> None:
        if self.cut_at == len(self.points):
            raise Cut(point)
        self.points.append(point)

    # As the executor

    def operate(self, plan: Plan) -> None:
        """Carry a plan out to its end."""
        if plan.steps():
            self._write(Record("begun", durable=False, plan=plan, boot=self.world.boot))
            failed = self._run(plan, "forward", 0, failed=False)
            self._end(plan.reason, failed=failed)

    def _run(self, plan: Plan, direction: str, done: int, *, failed: bool) -> bool:
        """Whether the operation failed."""
        self.went_back = direction == "back"
        owed: list[Record] = []
        steps = plan.steps()
        while done < len(steps):
            op, segment = steps[done]
            intent = Record("intent", durable=isinstance(op, DURABLE), step=done)
            self._write(*owed, intent)
            owed = []
            self.passing(f"{m.name(op)}:before")
            tries = 1 if direction == "forward" and not segment.finish else 2
            if self._tried(op, segment.incarnation, tries):
                self.done.append(op)
                self.passing(f"{m.name(op)}:after")
            elif tries == 1:
                back = undo(plan, done, intended=True)
                self._turn(back, "back", failed=True)
                self._run(back, "back", 0, failed=True)
                return True
            else:
                self.skipped.append(op)
                if not failed:
                    left = rest(plan, done + 1)
                    self._turn(left, direction, failed=True)
                    return self._run(left, direction, 0, failed=True)
            owed = [Record("done", durable=False, step=done)]
            done += 1
        return failed

    def _tried(self, op: MicroOp, incarnation: str | None, tries: int) -> bool:
        for _ in range(tries):
            try:
                self._perform(op, incarnation)
            except StepFailed:
                continue
            return True
        return False

    def _turn(self, plan: Plan, direction: str, *, failed: bool) -> None:
        durable = any(isinstance(op, DURABLE) for op, _ in plan.steps())
        self._write(Record("turned", durable, plan=plan, direction=direction, failed=failed))

    def _end(self, reason: str, *, failed: bool) -> None:
        world = self.world
        if not world.removed:
            self.extra = concluded(self.extra, world.domain, reason=reason, now=NOW)
            self._save(self.extra, durable=self.extra.image is not None)
            # A guest that has stopped is for its policy, whatever could not be undone in it.
            undone = self.went_back and world.domain is not None and world.domain.stopped
            if self.skipped and world.domain is not None and not undone:
                self.attention = "failed"
        self.passing("settled")
        world.task = "failed" if failed else "completed"
        self.passing("journal:end")
        world.journal = []
        self.passing("ended")

    def _write(self, *records: Record) -> None:
        journal = self.world.journal
        if records[0].kind == "begun":
            journal.clear()
        journal.extend(records)
        if any(record.durable for record in records):
            self.world.kept_journal = list(journal)
        self.passing("journal:append")

    def _save(self, extra: VmExtra, *, durable: bool) -> None:
        self.world.extra = extra
        if durable:
            self.world.kept_extra = extra

    # As the daemon's start

    def recover(self) -> None:
        """Bring the VM into a sensible state, and then do what its guest asked for."""
        world = self.world
        if world.task != "open":
            world.journal = []  # answered: only to be truncated
        opened = _fold(world.journal)
        boot = world.journal[0].boot if opened else self.extra.boot
        rebooted = boot not in (None, world.boot)
        facts = Facts(
            self.extra, world.domain, opened[0] if opened else None, world.residues, rebooted
        )
        repair = reconcile(facts)
        self.verdict = repair.verdict
        failed = opened[1] if opened else False
        match repair.verdict:
            case Verdict.DOUBT:
                self.attention = repair.reason
                world.task = "failed"
                world.journal = []
            case Verdict.SETTLE:
                self._end("", failed=False)
            case Verdict.CLEAR if facts.open is None:
                self.operate(recovery.cleared(self._snapshot()))
            case Verdict.CLEAR:
                plan = recovery.cleared(self._snapshot(), facts.open.ahead)
                self._carry(plan, "back", failed=True)
            case Verdict.TURN_BACK:
                assert facts.open is not None
                self._replay(facts.open)
                back = recovery.turned_back(
                    facts.open.plan,
                    facts.open.done,
                    self._snapshot(),
                    intended=facts.open.intended,
                    loss=facts.loss,
                )
                self._carry(back, "back", failed=True)
            case Verdict.CONTINUE:
                assert facts.open is not None
                self._continue(facts.open, failed=failed, loss=facts.loss)
        self._check()

    def _carry(self, plan: Plan, direction: str, *, failed: bool) -> None:
        self._turn(plan, direction, failed=failed)
        failed = self._run(plan, direction, 0, failed=failed)
        self._end(plan.reason, failed=failed)

    def _continue(self, opened: OpenPlan, *, failed: bool, loss: str | None) -> None:
        self._replay(opened)
        back = opened.direction == "back"
        if self.world.domain is None:
            plan = recovery.carried_on(
                opened.plan, opened.done, self._snapshot(), loss=loss, back=back
            )
            if plan != rest(opened.plan, opened.done):
                self._carry(plan, opened.direction, failed=failed)
                return
        failed = self._run(opened.plan, opened.direction, opened.done, failed=failed)
        self._end(opened.plan.reason, failed=failed)

    def _replay(self, opened: OpenPlan) -> None:
        for op, segment in opened.plan.steps()[: opened.done]:
            self._advance(op, segment.incarnation)

    def _check(self) -> None:
        if self.attention is None and not self.world.removed:
            plan = guest.check(self._snapshot())
            if plan.steps():
                task = self.world.task
                self.operate(plan)
                self.world.task = task

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            meta=self.world.meta,
            extra=self.extra,
            domain=self.world.domain,
            fresh=f"{FRESH}+",
            image="/state/suspend/vm1.image",
            limits=Limits(reboot_delay=0.0),
            now=NOW,
        )

    # As the backend

    def _advance(self, op: MicroOp, incarnation: str | None) -> None:
        self.extra = advanced(
            self.extra,
            op,
            incarnation=incarnation,
            vm=self.world.meta.vm,
            boot=self.world.boot,
            now=NOW,
        )

    def _perform(self, op: MicroOp, incarnation: str | None) -> None:
        if self.fails(op):
            raise StepFailed(m.name(op))
        self._effect(op, incarnation)
        self._advance(op, incarnation)
        durable = m.VmCommitImage | m.VmSpendImage | m.VmUnspendImage | m.VmDropImage
        if isinstance(op, durable):
            self._save(self.extra, durable=True)
        if isinstance(op, m.VmDropImage):
            self.passing("forgotten")
            self.world.image = self.world.stale = False

    def _effect(self, op: MicroOp, incarnation: str | None) -> None:
        world, domain = self.world, self.world.domain
        match op:
            case m.VmCreate():
                if domain is None:
                    world.domain = Domain(
                        id="8", name="vm1", vm="vm1", instance="default", incarnation=incarnation
                    )
                elif domain.incarnation != incarnation:
                    raise StepFailed("another domain is there")
            case m.VmDestroy():
                world.domain, world.residues = None, False
            case m.VmPause(if_running=True) if domain is None or domain.stopped:
                pass
            case m.VmUnpause() if domain is not None and domain.stopped:
                pass
            case m.VmRecord(object=object, changes=changes):
                world.meta = _recorded(world.meta, object, changes)
            case m.VmRemoveRecord():
                world.removed = True
            case m.VmCheckImage() if not world.image:
                raise StepFailed("no image")
            case m.VmCommitImage() if not world.image:
                raise LawBroken("an image was committed that is not there")
            case _:
                if isinstance(op, (*m.NEEDS_DOMAIN, m.VmPause)):
                    if domain is None or domain.incarnation != incarnation:
                        raise StepFailed(f"{m.name(op)}: no domain")
                    world.domain = self._in_domain(op, domain)
                elif domain is not None and domain.incarnation == incarnation:
                    world.domain = _beside(op, domain)

    def _in_domain(self, op: MicroOp, domain: Domain) -> Domain:  # noqa: PLR0911  # one arm a micro-op
        world = self.world
        if domain.stopped and not isinstance(op, m.VmSave | m.VmResumeSaved | m.VmSpendImage):
            raise StepFailed("it has stopped")
        match op:
            case m.VmBuild():
                return replace(domain, built=True)
            case m.VmRestore():
                if not world.image:
                    raise StepFailed("no image")
                if world.stale:
                    raise LawBroken("a guest was restored that has run on since")
                return replace(domain, built=True)
            case m.VmPause():
                return replace(domain, paused=True)
            case m.VmUnpause():
                world.stale = world.image
                return replace(domain, paused=False, vcpu_seconds=domain.vcpu_seconds + 1)
            case m.VmSave():
                if domain.stopped not in (None, "suspend"):
                    raise StepFailed("it has stopped")
                world.image, world.stale = True, False
                return replace(domain, stopped="suspend")
            case m.VmResumeSaved():
                if domain.stopped == "suspend":
                    world.stale = world.image
                    return replace(domain, stopped=None)
                return domain
            case m.VbdPlug(id=id):
                return replace(domain, vbds={**domain.vbds, id: PluggedVbd()})
            case m.VifPlug(id=id):
                return replace(domain, vifs={**domain.vifs, id: PluggedVif()})
            case m.PciPlug(id=id):
                return replace(domain, pcis=[*(p for p in domain.pcis if p != id), id])
            case m.VbdInsert(id=id, backend=medium):
                return replace(domain, vbds={**domain.vbds, id: PluggedVbd(medium=medium)})
            case m.VbdEject(id=id):
                return replace(domain, vbds={**domain.vbds, id: PluggedVbd(medium=None)})
            case m.VmSetVcpus(vcpus=vcpus):
                return replace(domain, vcpus=vcpus)
            case m.VmSetMemory(target=target):
                return replace(domain, memory_target=target)
            case _:
                return domain


def _beside(op: MicroOp, domain: Domain) -> Domain:
    """What may be asked of a domain that is not there."""
    match op:
        case m.VmRequestShutdown(reason=reason) if not domain.paused and domain.stopped is None:
            return replace(domain, stopped=reason)
        case m.VbdUnplug(id=id):
            return replace(domain, vbds={k: v for k, v in domain.vbds.items() if k != id})
        case m.VifUnplug(id=id):
            return replace(domain, vifs={k: v for k, v in domain.vifs.items() if k != id})
        case m.PciUnplug(id=id):
            return replace(domain, pcis=[p for p in domain.pcis if p != id])
        case _:
            return domain


def _recorded(meta: Metadata, object: str, changes: dict[str, Any]) -> Metadata:
    def altered(record: Any) -> Any:
        plain = {**msgspec.to_builtins(record), **changes}
        return msgspec.convert(plain, type(record)) if record.id == object else record

    return replace(
        meta,
        vm=altered(meta.vm),
        vbds=[altered(v) for v in meta.vbds],
        vifs=[altered(v) for v in meta.vifs],
    )


def _fold(journal: list[Record]) -> tuple[OpenPlan, bool] | None:
    """What a journal leaves open, and whether its operation had failed."""
    if not journal:
        return None
    opened = OpenPlan(plan=Plan(), direction="forward", done=0, intended=False)
    failed = False
    for record in journal:
        match record.kind:
            case "begun" | "turned":
                opened = OpenPlan(record.plan, record.direction, 0, intended=False)  # type: ignore[arg-type]
                failed = record.failed
            case "intent":
                assert record.step == opened.done, "intents come in order"
                opened = OpenPlan(opened.plan, opened.direction, opened.done, intended=True)
            case "done":
                assert record.step == opened.done, "steps are done in order"
                opened = OpenPlan(opened.plan, opened.direction, opened.done + 1, intended=False)
    return opened, failed
