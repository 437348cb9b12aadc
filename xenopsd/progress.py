"""What clients see of an operation under way: its task, its progress, its micro-op."""

from msgspec.structs import replace

from idl.task import Subtask
from idl.vm import RunningOperation
from xenopsd import microop
from xenopsd.context import Context
from xenopsd.execution import Execution, Run
from xenopsd.inventory import Entry
from xenopsd.microop import MicroOp


class Progress:
    """Tells of operations, for the holder of the VM's lease."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def show(self, entry: Entry, execution: Execution) -> None:
        """The VM's `operation` is this one, in its present micro-op."""
        entry.running = RunningOperation(
            task=execution.task.id if execution.task else None,
            name=execution.request.method,
            micro_op=execution.micro_op,
            since=execution.begun_at,
        )
        entry.changed()
        self.context.updates.touch("vm", entry.id)

    def step_began(self, execution: Execution, entry: Entry, op: MicroOp) -> None:
        """A micro-op is a subtask now."""
        subject = microop.subject(op, entry.id)
        if subject != entry.id:
            entry.active |= {subject}
        if execution.task is not None:
            subtask = Subtask(name=microop.name(op), object=subject, state="pending")
            execution.task.subtasks.append(subtask)
        execution.step_began = self.context.clock()
        self.show(entry, execution)
        self._about(entry, subject)
        self.touch(execution)

    def step_ended(self, execution: Execution, entry: Entry, op: MicroOp, state: str) -> None:
        """It is over, completed or failed."""
        seconds = self.context.clock() - execution.step_began
        self.context.metrics.micro_op_ended(microop.name(op), seconds)
        subject = microop.subject(op, entry.id)
        entry.active -= {subject}
        self._about(entry, subject)
        task = execution.task
        if task is not None and task.subtasks:
            last = task.subtasks[-1]
            task.subtasks[-1] = replace(last, state=state, duration=seconds)

    def _about(self, entry: Entry, subject: str) -> None:
        """Announce the device that a step is about: of a VM without a domain, no observation
        tells that its record has changed."""
        entry.changed()
        for kind, id in entry.objects():
            if id == subject and kind != "vm":
                self.context.updates.touch(kind, id)

    def reached(self, execution: Execution, run: Run, fraction: float) -> None:
        """The present step is so far, 0 to 1."""
        task = execution.task
        if task is None or run.direction != "forward" or execution.error is not None:
            return
        weights = run.weights
        total = sum(weights) or 1
        part = weights[run.done] * fraction if not run.over else 0.0
        reached = (sum(weights[: run.done]) + part) / total
        # 1.0 is said only at success, and what was said is never taken back.
        task.progress = max(task.progress, min(reached, 0.99))
        if fraction:
            self.touch(execution)

    def touch(self, execution: Execution) -> None:
        """Announce the task."""
        if execution.task is not None:
            run = execution.run
            execution.task.cancellable = run is None or run.over or run.cancellable
            self.context.updates.touch("task", execution.task.id)
