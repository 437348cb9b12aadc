"""How an operation ends: the record, the answer, the journal, the update, in this order.

The queue is released after all of it. A crash after the task log has the answer only leaves a
journal to be truncated; a crash before it repeats what was done already.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from msgspec import Raw

from idl import calls
from idl.errors import Cancelled, Interrupted, XenopsError
from idl.ids import VmId
from idl.task import ErrorObject
from journal.errors import JournalUnwritable
from journal.records import Ended
from xenopsd.cause import cause
from xenopsd.context import Context
from xenopsd.execution import Execution, Run
from xenopsd.inventory import Entry
from xenopsd.metrics import Ending
from xenopsd.observation import Observation

log = structlog.get_logger(__name__)


class Endings:
    """Ends operations. `after` is told of each, from the thread that ended it."""

    def __init__(
        self,
        context: Context,
        observation: Observation,
        after: Callable[[Execution, str | None], None],
        check: Callable[[VmId], None],
    ) -> None:
        self.context = context
        self._observation = observation
        self._after = after
        self._check = check

    def end(self, execution: Execution, entry: Entry) -> None:
        """Every step is done: settle the record, then answer."""
        run = execution.run
        if self.context.inventory.get(entry.id) is entry and run is not None:
            if entry.attention is None or not isinstance(execution.request, calls.Queued):
                # Dropping a device's record says nothing about a VM that is in doubt.
                self._observation.settle(entry, run.plan.reason)
            self._say_failure(execution, run, entry)
        self.finish(execution, entry)

    def _say_failure(self, execution: Execution, run: Run, entry: Entry) -> None:
        """Why the VM is where it is; attention, where it is not where it should be."""
        _name_end(execution, entry)
        words = f"{execution.name} failed: {execution.error}"
        explained = run.plan.reason and not run.skipped
        if execution.error and execution.state_before != state_of(entry) and not explained:
            self._observation.explain(entry, words)
        if not run.skipped or entry.domain is None:
            return
        if run.direction == "back" and entry.domain.stopped is not None:
            # Its guest has stopped beside it: what could not be undone in it does not matter.
            self._check(entry.id)
        else:
            self._observation.doubt(entry, words)

    def finish(self, execution: Execution, entry: Entry | None) -> None:
        """Answer, cross out the journal, tell: in this order. The queue is released after."""
        task = execution.task.id if execution.task else None
        if entry is not None:
            self._leave(execution, entry)
        logged = self.answer(execution)
        if entry is not None:
            # What was not logged is repeated after a crash, unless it was taken back.
            if execution.run is not None and (logged or execution.run.turned_untold):
                self.cross_out(entry)
            for kind, id in set(execution.objects_before) - set(entry.objects()):
                self.context.updates.remove(kind, id)
            self._observation.touch(entry)
        # The lease bears the execution: else every operation would wait for the cycle collector.
        execution.lease = None
        self._after(execution, task)

    def _leave(self, execution: Execution, entry: Entry) -> None:
        """Before the answer: who reads after it does not find the operation still there."""
        if execution in entry.operations:
            entry.operations.remove(execution)
        if execution.begun_at:  # else what shows is the operation before it
            entry.running = None
            entry.rebooting = False
        entry.changed()

    def cross_out(self, entry: Entry) -> None:
        """The operation has ended and was answered: nothing is open any more."""
        if self.context.inventory.get(entry.id) is not entry:
            return
        try:
            entry.journal.end()
        except JournalUnwritable:
            log.exception("journal_not_truncated", vm=entry.id)

    def answer(self, execution: Execution) -> bool:
        """Say how it ended; False when the task log could not be told."""
        future, task = execution.future, execution.task
        if future is not None:
            error, result = execution.error, execution.result
            self.context.bridge.post(partial(_resolve, future, result, error))
        if task is None:
            return True
        task.interrupted = task.interrupted or execution.interrupted
        final = self.context.tasks.final(
            task,
            now=self.context.wall(),
            result=execution.result,
            error=self._error_object(execution),
        )
        logged = True
        try:
            self.context.tasklog.append([Ended(id=task.id, task=Raw(final))])
        except JournalUnwritable:
            logged = False
            log.exception("task_end_unlogged", task=task.id)
        self.context.metrics.task_ended(_outcome(execution.error))
        self.context.tasks.end(task, final)
        log.info(
            "task_ended",
            task=task.id,
            vm=task.vm,
            operation=task.operation,
            debug_info=task.debug_info,
            error=str(execution.error) if execution.error else None,
        )
        self.context.updates.touch("task", task.id)
        return logged

    def _error_object(self, execution: Execution) -> ErrorObject | None:
        _name_end(execution, self.context.inventory.get(execution.vm))
        return cause(execution)

    def cancelled(self, execution: Execution) -> None:
        """End an operation that was cancelled before it had begun."""
        execution.error = Cancelled(task=execution.task_id)
        self.finish(execution, self.context.inventory.get(execution.vm))


def _name_end(execution: Execution, entry: Entry | None) -> None:
    """An interrupted operation says where the VM was brought."""
    error = execution.error
    if isinstance(error, Interrupted) and error.begun and error.recovered_to is None:
        error.recovered_to = str(entry.power_state) if entry else "removed"


def state_of(entry: Entry) -> tuple[str, str | None]:
    """What a client sees change: the power state and which domain it is."""
    return str(entry.power_state), entry.domain.incarnation if entry.domain else None


def _outcome(error: XenopsError | None) -> Ending:
    match error:
        case None:
            return "completed"
        case Cancelled():
            return "cancelled"
        case Interrupted():
            return "interrupted"
        case _:
            return "failed"


def _resolve(future: Any, result: object, error: XenopsError | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
