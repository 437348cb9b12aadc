"""What stands in the way and is moved out of it: cancels, hard shutdowns, calls that hang.

Runs beside the workers: on threads of its own, on the thread that accepts, on the loop's timers.
It touches of an execution only what is marked there as other threads'.
"""

from collections.abc import Callable
from functools import partial

import structlog

from idl import calls
from idl.errors import DeadlineExceeded, XenopsError
from idl.ids import VmId
from xenopsd import microop
from xenopsd.context import Context
from xenopsd.ending import Endings
from xenopsd.errands import Errands
from xenopsd.execution import Execution, Recover
from xenopsd.incident import incident
from xenopsd.journalling import Journalling
from xenopsd.observation import Observation
from xenopsd.plan.plan import rest, undo
from xenopsd.queues import Lease

log = structlog.get_logger(__name__)


class KillLane:
    """Breaks calls, and answers for those that do not break."""

    def __init__(
        self,
        context: Context,
        observation: Observation,
        endings: Endings,
        journalling: Journalling,
    ) -> None:
        self.context = context
        self._observation = observation
        self._endings = endings
        self._journalling = journalling
        self._kills = Errands("kill", 8)
        self._errands = Errands("later", 2)

    # Of the pool

    def overdue(self, lease: Lease[Execution]) -> None:
        """On a kill thread: break the call that is past its deadline."""
        execution = lease.item
        call = execution.call
        if call is not None:
            call.give_up()
        self.break_call(execution)

    def written_off(self, lease: Lease[Execution]) -> None:
        """The call did not let go: answer for it, and let nothing else near its VM."""
        execution = lease.item
        execution.abandoned = True
        self.abandon(execution)

    def returned(self, lease: Lease[Execution]) -> None:
        """The call is back: what is owed can be carried on."""
        execution = lease.item
        execution.abandoned = False
        self.context.pool.unblock(lease.key)

    def crashed(self, lease: Lease[Execution], error: BaseException) -> None:
        """A bug of ours: the task is failed, the VM needs a look."""
        execution = lease.item
        execution.error = incident(error)
        entry = self.context.inventory.get(execution.vm)
        if entry is not None:
            reason = f"{execution.request.method} broke off: {execution.error}"
            self._observation.doubt(entry, reason)
        self._endings.finish(execution, entry)

    # Of other threads

    def cancel(self, execution: Execution) -> None:
        """Give up a task: at once where it has not begun, else at its next cancel point.

        A repair begins all the same: its operation had begun.
        """
        if not isinstance(execution.request, Recover) and self.withdraw(execution):
            self._endings.cancelled(execution)
            return
        execution.cancel()
        run = execution.run
        if run is not None and run.cancellable:
            self.context.pool.wake(execution.vm)
            self._kills.send(partial(self._interrupt, execution.vm))

    def later(self, call: Callable[[], None]) -> None:
        """Make a call that takes its time, but does not hang, on a thread that is not the
        caller's."""
        self._errands.send(call)

    def kill(self, vm: VmId) -> None:
        """Kill a VM's domain out of band, beside whatever is going on."""
        if self.context.opened is not None:
            self._kills.send(partial(self.context.performer.backend.kill, vm))

    def withdraw(self, execution: Execution) -> bool:
        """Take back what has not begun."""
        return bool(self.context.pool.withdraw(execution.vm, lambda item: item is execution))

    def expire(self, execution: Execution, error: XenopsError) -> None:
        """Fail an operation that could not begin in time."""
        if self.withdraw(execution):
            execution.error = error
            self._endings.finish(execution, self.context.inventory.get(execution.vm))

    def clear_way(self, execution: Execution) -> None:
        """Cancel every T operation accepted before a hard shutdown; Q calls keep their place."""
        vm = execution.vm
        for queued in self.context.pool.withdraw(vm, lambda item: item.is_operation):
            self._endings.cancelled(queued)
        head = self.context.pool.head(vm)
        if head is None or isinstance(head.request, calls.Queued) or head.is_hard_shutdown:
            return
        head.cancel()
        head.hurried = True
        self.context.pool.wake(vm)
        self.hasten(head)

    def break_soon(self, execution: Execution) -> None:
        """`break_call`, on a thread that may hang in it."""
        self._kills.send(partial(self.break_call, execution))

    def hasten(self, execution: Execution) -> None:
        """Let the kill lane take over if the micro-op has not let go soon."""
        lease = execution.lease
        if lease is not None and execution.call is not None:
            self.context.pool.hasten(lease, self.context.clock() + self.context.deadlines.hurry)

    # Calls that hang

    def break_call(self, execution: Execution) -> None:
        """Break what the VM's call is in; with a hard shutdown waiting, kill the domain."""
        if execution.hurried:
            self.context.performer.backend.kill(execution.vm)
        self._interrupt(execution.vm)

    def _interrupt(self, vm: VmId) -> None:
        if self.context.opened is not None:
            self.context.performer.backend.interrupt(vm)

    def abandon(self, execution: Execution) -> None:
        """End the task of an operation whose call is still out; what it owes stays journalled."""
        entry = self.context.inventory.require(execution.vm)
        run = execution.run
        seconds = self.context.deadlines.short
        what = f"{execution.micro_op or execution.request.method} of VM {execution.vm}"
        error = DeadlineExceeded(what=what, seconds=seconds)
        entry.stuck = True
        self._observation.doubt(entry, f"{what} does not return; shut the VM down hard")
        execution.failed_at = execution.failed_at or execution.micro_op
        execution.error = execution.error or error
        if run is not None:
            if not run.over:
                op = run.step[0]
                execution.stuck_in = microop.name(op), microop.subject(op, entry.id)
            owed = rest(run.plan, run.done)
            if run.cancellable:
                owed = undo(run.plan, run.done, intended=True)
            # Before the task is answered: after a crash the repair is still owed, and without
            # this record an ended task would have its journal thrown away.
            self._journalling.turn(execution, entry, owed, outlives=True)
        self._endings.answer(execution)
        execution.task = None
        execution.future = None
        for queued in self.context.pool.withdraw(entry.id, lambda i: not i.is_hard_shutdown):
            queued.error = DeadlineExceeded(what=what, seconds=seconds)
            self._endings.finish(queued, entry)
        # One that is pushed after `stuck` was set looks for itself.
        for waiting in list(entry.operations):
            if waiting.is_hard_shutdown and waiting is not execution:
                self.behind_stuck(waiting)
        self._observation.touch(entry)

    def behind_stuck(self, execution: Execution) -> None:
        """A hard shutdown behind a call that does not return: kill, and wait only so long."""
        self.kill(execution.vm)
        seconds = self.context.deadlines.kill
        error = DeadlineExceeded(
            what=f"The hard shutdown of VM {execution.vm}, whose hypervisor call does not return,",
            seconds=seconds,
        )
        expire = partial(self.expire, execution, error)
        self.context.bridge.later(seconds, partial(self.later, expire))
