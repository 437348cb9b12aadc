"""What the journal is told, and when: before anything happens."""

import msgspec
import structlog
from msgspec import Raw

from journal.errors import JournalUnwritable
from journal.records import Begun, Direction, Intent, Turned
from xenopsd import microop
from xenopsd.cause import cause
from xenopsd.context import Context
from xenopsd.execution import Execution, Run
from xenopsd.inventory import Entry
from xenopsd.microop import DURABLE, MicroOp
from xenopsd.plan.plan import Plan

log = structlog.get_logger(__name__)

_encode = msgspec.json.Encoder().encode


class Journalling:
    """Writes the journals of VMs, for the holder of each VM's lease."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def begun(self, execution: Execution, entry: Entry, plan: Plan) -> None:
        """An operation has begun. Raises JournalUnwritable: then it has not."""
        incarnation = next((s.incarnation for s in plan.segments if s.incarnation), None)
        entry.journal.append(
            Begun(
                task=execution.task.id if execution.task else None,
                operation=execution.request.method,
                params=Raw(b"null"),
                boot=self.context.performer.boot,
                incarnation=incarnation,
                plan=Raw(_encode(plan)),
                at=execution.begun_at,
            ),
            durable=self.context.always_fsync,
        )

    def intend(self, execution: Execution, run: Run, entry: Entry, op: MicroOp) -> None:
        """The next micro-op's effect is about to begin, and those before it are done.

        Raises JournalUnwritable where nothing may happen unannounced: going forward. But what
        was begun has to be taken back or finished even when that cannot be written.
        """
        durable = self.context.always_fsync or isinstance(op, DURABLE)
        intent = Intent(step=run.done, name=microop.name(op))
        try:
            entry.journal.append(*run.owed, intent, durable=durable)
            run.owed = []
        except JournalUnwritable:
            if run.cancellable:
                raise
            log.exception("journal_unwritable", vm=entry.id, operation=execution.request.method)

    def turn(
        self,
        execution: Execution,
        entry: Entry,
        plan: Plan,
        *,
        direction: Direction = "back",
        outlives: bool = False,
    ) -> None:
        """Go another way from here, and say so in the journal first."""
        task = None if outlives or execution.task is None else execution.task.id
        record = Turned(
            direction=direction,
            task=task,
            plan=Raw(_encode(plan)),
            error=Raw(_encode(cause(execution))),
        )
        before = execution.run
        run = Run(plan, direction=direction, skipped=before is not None and before.skipped)
        # What outlives the host is not undone before it is known that it is being undone.
        durable = any(isinstance(op, DURABLE) for op, _ in run.steps)
        try:
            entry.journal.append(record, durable=durable or self.context.always_fsync)
        except JournalUnwritable:
            log.exception("journal_unwritable", vm=entry.id)
            run.owed = [record]
        execution.run = run
        if execution.task is not None:
            execution.task.cancellable = False
