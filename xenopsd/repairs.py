"""How every VM is brought into a sensible state after a start of the daemon.

What is to be done is decided in `xenopsd.reconcile`; here it is made into plans, on the worker
that leases the VM.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec
import structlog
from msgspec.structs import replace

from backends.interface import Domain
from idl.errors import Interrupted, MetadataCorrupt, from_object
from idl.task import ErrorObject
from journal.replay import OpenIntent, unasked
from xenopsd.execution import Execution, Run
from xenopsd.executor import Executor
from xenopsd.inventory import Entry
from xenopsd.perform import Performer
from xenopsd.plan import adoption, handover, recovery
from xenopsd.plan.plan import Plan, Snapshot, rest
from xenopsd.reconcile import Facts, OpenPlan, Repair, Verdict, reconcile

log = structlog.get_logger(__name__)

_decode_plan = msgspec.json.Decoder(Plan).decode
_decode_error = msgspec.json.Decoder(ErrorObject | None).decode

#: What an operation is recovered to that nobody dares to carry on or undo.
UNKNOWN = "unknown: it needs attention"


@dataclass(slots=True)
class Repairs:
    """Begins repairs. `snapshot` looks at a VM afresh; `unpacked` sees to the parcel that it came
    in; `found` are the domains that bear a VM's mark, as they were when the backend was opened.
    """

    executor: Executor
    snapshot: Callable[[Entry], Snapshot]
    unpacked: Callable[[Entry, Plan | None], Plan | None]
    found: Mapping[str, Domain] = field(default_factory=dict)

    def begin(self, execution: Execution, entry: Entry) -> Plan | None:
        """Bring the VM into a sensible state after a start of the daemon."""
        killpoints = self.executor.context.killpoints
        killpoints.passing("recovery:observe")
        if entry.meta is None or entry.damaged:
            execution.error = MetadataCorrupt(path=str(entry.damaged[0].path))
            self._leave_open(entry)
            return None
        intent = entry.journal.intent
        try:
            open_plan = self._cut(execution, intent)
        except msgspec.MsgspecError as error:
            self._doubt(execution, entry, f"its journal cannot be understood: {error}")
            return None
        if entry.contested is not None and not (open_plan and handover.hands_over(open_plan.plan)):
            self._doubt(execution, entry, entry.contested)
            return None
        domain = self.found.get(entry.id)
        self.executor.observation.observed(entry, domain)
        if domain is not None:
            self.executor.context.memory.set(entry.id, domain.memory_held)
        leftovers = bool(self._performer.backend.host.leftovers(entry.id))
        boot = intent.begun.boot if intent is not None else entry.extra.boot
        rebooted = boot not in (None, self._performer.boot)
        facts = Facts(entry.extra, domain, open_plan, leftovers, rebooted)
        repair = reconcile(facts)
        log.info("reconciled", vm=entry.id, verdict=str(repair.verdict), reason=repair.reason)
        killpoints.passing("recovery:reconcile")
        plan = self._repair(execution, entry, facts, repair)
        killpoints.passing("recovery:repair")
        return plan

    def _cut(self, execution: Execution, intent: OpenIntent | None) -> OpenPlan | None:
        """The operation that was cut. Raises MsgspecError."""
        if intent is None:
            return None
        execution.interrupted = True
        logged = _decode_error(intent.error)
        if logged is not None:
            execution.error = from_object(logged)
            execution.failed_at = logged.data.get("micro_op")
        return OpenPlan(
            plan=_decode_plan(intent.plan),
            direction=intent.direction,
            done=intent.done,
            intended=intent.intended is not None,
        )

    def _repair(
        self, execution: Execution, entry: Entry, facts: Facts, repair: Repair
    ) -> Plan | None:
        open_plan = facts.open
        match repair.verdict:
            case Verdict.DOUBT:
                self._doubt(execution, entry, repair.reason)
                return None
            case Verdict.SETTLE:
                self._settled(entry)
                return self.unpacked(entry, None)
            case Verdict.CLEAR:
                ahead = [] if open_plan is None else open_plan.ahead
                plan = recovery.cleared(self.snapshot(entry), ahead)
                if facts.falls:
                    plan = replace(plan, reason=repair.reason)
                if open_plan is not None:
                    self._turn_back(execution, entry, plan)
                    return None
                return plan
            case Verdict.TURN_BACK:
                assert open_plan is not None
                self._replay(entry, open_plan)
                back = recovery.turned_back(
                    open_plan.plan,
                    open_plan.done,
                    self.snapshot(entry),
                    intended=open_plan.intended,
                    loss=facts.loss,
                )
                self._turn_back(execution, entry, back)
                return None
            case Verdict.CONTINUE:
                assert open_plan is not None
                self._carry_on(execution, entry, open_plan, facts.loss)
                return None

    def _carry_on(
        self, execution: Execution, entry: Entry, open_plan: OpenPlan, loss: str | None
    ) -> None:
        self._replay(entry, open_plan)
        back = open_plan.direction == "back"
        execution.run = Run(open_plan.plan, direction=open_plan.direction, done=open_plan.done)
        if entry.domain is not None:
            return
        snapshot = self.snapshot(entry)
        plan = recovery.carried_on(
            open_plan.plan, open_plan.done, snapshot, loss=loss, back=back
        )
        if plan != rest(open_plan.plan, open_plan.done):
            self.executor.journalling.turn(execution, entry, plan, direction=open_plan.direction)

    def _replay(self, entry: Entry, open_plan: OpenPlan) -> None:
        """Take in what the steps that were done have changed of the running record."""
        intent = entry.journal.intent
        at = intent.begun.at if intent else time.time()
        for step, segment in open_plan.plan.steps()[: open_plan.done]:
            self._performer.advance(entry, step, segment.incarnation, at)
        entry.changed()

    def _turn_back(self, execution: Execution, entry: Entry, plan: Plan) -> None:
        """Undo, or clear, what a cut operation has left; its task is `Interrupted`."""
        if execution.error is None:
            execution.error = Interrupted(task=execution.task_id, begun=True)
        self.executor.journalling.turn(execution, entry, plan)

    def _doubt(self, execution: Execution, entry: Entry, reason: str) -> None:
        """Touch nothing; what is open stays open, so that every later start doubts again."""
        if entry.journal.intent is not None:
            execution.error = Interrupted(
                task=execution.task_id, begun=True, recovered_to=UNKNOWN
            )
            self._leave_open(entry)
        self.executor.observation.doubt(entry, reason)

    def _leave_open(self, entry: Entry) -> None:
        """Have the journal outlive its task: what an ended task left would be crossed out."""
        intent = entry.journal.intent
        if intent is not None and intent.task is not None:
            durable = self.executor.context.always_fsync
            entry.journal.append(*unasked(intent), durable=durable)

    def _settled(self, entry: Entry) -> None:
        domain = entry.domain
        if domain is not None and entry.extra.incarnation is None:
            # Ours by its mark, though its record was lost: it runs, and is ours again.
            entry.extra = replace(
                entry.extra, incarnation=domain.incarnation, running=entry.metadata().vm
            )
        if domain is not None and (reason := adoption.unrecorded(entry.metadata(), domain)):
            self.executor.observation.doubt(entry, f"{reason}, then VM.adopt")
            return
        self.executor.observation.settle(entry, None)

    @property
    def _performer(self) -> Performer:
        return self.executor.context.performer
