"""Carries operations out: one micro-op a lease, journalled before and after.

What survives which crash is decided by the order here and nowhere else:

- begun, then intent, then effect, then done: an effect without a record is always announced;
- at the end: running record, task log, journal truncated, update, release of the queue. A crash
  after the task log has it only truncates; a crash before it repeats what was done already.
"""

from collections.abc import Callable
from functools import partial

import structlog

from backends.interface import Waiting
from idl.errors import (
    DeadlineExceeded,
    DeviceDetachRejected,
    FailedToAcknowledge,
    FailedToShutdown,
    NotEnoughMemory,
    StorageError,
    XenopsError,
)
from idl.ids import VmId
from journal.errors import JournalUnwritable, StoreUnwritable
from journal.records import Done
from xenopsd import hooks, microop, queues
from xenopsd.context import Context
from xenopsd.ending import Endings, state_of
from xenopsd.execution import BackendCall, Check, Execution, Job, Recover, Run
from xenopsd.incident import incident
from xenopsd.inventory import Entry
from xenopsd.jobs import Jobs
from xenopsd.journalling import Journalling
from xenopsd.killlane import KillLane
from xenopsd.log import about
from xenopsd.microop import JOBS, MicroOp
from xenopsd.observation import Observation
from xenopsd.plan.plan import Plan, rest, undo
from xenopsd.progress import Progress
from xenopsd.queues import Again, Lease, Outcome, Parked

log = structlog.get_logger(__name__)

#: How often a step that can only be finished is tried, and how long after the first failure.
ATTEMPTS = 5
BACKOFF = 0.05
#: How old an observation may be when a micro-op has ended before the VM is looked at again.
STALE = 1.0


class Executor:
    """The step function of the worker pool, and the way onto its queues."""

    def __init__(
        self,
        context: Context,
        *,
        begin: Callable[[Execution, Entry | None], Plan | None],
        after: Callable[[Execution, str | None], None],
    ) -> None:
        self.context = context
        self.observation = Observation(context)
        self.endings = Endings(context, self.observation, after, self.check)
        self.journalling = Journalling(context)
        self.kill_lane = KillLane(context, self.observation, self.endings, self.journalling)
        self._progress = Progress(context)
        self._jobs = Jobs(context)
        self._begin_request = begin

    def step(self, lease: Lease[Execution]) -> Outcome:
        """One micro-op, or the beginning or end of an operation."""
        execution = lease.item
        if self.context.opened is None:
            return Parked(None)  # until the backend has been observed
        if execution.abandoned and not self._returned(execution):
            return Parked(None)
        with about(execution.facts):
            if execution.run is None:
                return self._begin(execution, lease)
            return self._carry(execution, execution.run, lease)

    def enqueue(self, execution: Execution) -> None:
        """Put an accepted operation on its queue; a hard shutdown first clears its way."""
        if execution.is_hard_shutdown:
            self.kill_lane.clear_way(execution)
        self.context.pool.push(
            execution.vm,
            execution,
            limited=False,
            urgent=execution.is_hard_shutdown,
            coalesce="check" if isinstance(execution.request, Check) else None,
        )
        entry = self.context.inventory.get(execution.vm)
        if execution.is_hard_shutdown and entry is not None and entry.stuck:
            self.kill_lane.behind_stuck(execution)

    def check(self, vm: VmId) -> None:
        """From the backend: a VM needs attention. Wakes what waits for it, queues a look."""
        self.context.pool.wake(vm)
        if self.context.inventory.get(vm) is not None:
            self.enqueue(Execution(Check(vm), vm))

    def _returned(self, execution: Execution) -> bool:
        """Whether an abandoned job is back at last."""
        job = execution.lost_job
        if job is not None and job.finished.is_set():
            execution.lost_job = None
            execution.abandoned = False
        return not execution.abandoned

    def _begin(self, execution: Execution, lease: Lease[Execution]) -> Outcome:
        entry = self.context.inventory.get(execution.vm)
        execution.begun_at = self.context.wall()
        execution.lease = lease
        if entry is not None:
            execution.state_before = state_of(entry)
            if not execution.is_operation:
                execution.objects_before = entry.objects()
            self._progress.show(entry, execution)
        failed = False
        try:
            if not isinstance(execution.request, Recover):
                execution.checkpoint()
            plan = self._begin_request(execution, entry)
            if execution.run is None and plan is not None and plan.steps():
                entry = self.context.inventory.require(execution.vm)
                self.journalling.begun(execution, entry, plan)
                entry.rebooting = _reboots(plan)
                execution.run = Run(plan)
        except (XenopsError, JournalUnwritable, StoreUnwritable) as error:
            execution.error, failed = wire_error(error), True
        except Exception as error:  # noqa: BLE001  # a worker's top frame: the task must end
            execution.error, failed = incident(error), True
        if execution.run is None:
            if isinstance(execution.request, Recover) and failed and entry is not None:
                self.observation.doubt(entry, f"its repair could not begin: {execution.error}")
            self.endings.finish(execution, self.context.inventory.get(execution.vm))
            return queues.Ended()
        return self._carry(execution, execution.run, lease)

    def _carry(self, execution: Execution, run: Run, lease: Lease[Execution]) -> Outcome:
        entry = self.context.inventory.require(execution.vm)
        execution.lease = lease
        if run.over:
            self.endings.end(execution, entry)
            return queues.Ended()
        op, _segment = run.step
        try:
            outcome = self._attempt(execution, run, entry, op, lease)
        except (XenopsError, JournalUnwritable, StoreUnwritable, OSError) as error:
            outcome = self._failed(execution, run, entry, op, wire_error(error))
        except Exception as error:  # noqa: BLE001  # a worker's top frame: the VM must end sensible
            outcome = self._failed(execution, run, entry, op, incident(error))
        if outcome is None:
            return queues.Ended()  # written off meanwhile: the pool drops this
        if isinstance(outcome, Parked):
            self.observation.look(entry)
        elif execution.run is not None and execution.run.over:
            self.endings.end(execution, entry)
            return queues.Ended()
        return outcome

    def _attempt(
        self, execution: Execution, run: Run, entry: Entry, op: MicroOp, lease: Lease[Execution]
    ) -> Outcome | None:
        """Carry the present step on; None when this thread was written off meanwhile."""
        if run.job is None:
            # A job under way is told to stop by its own call, and must be gone before anything
            # is undone beside it.
            execution.checkpoint()
        if not run.begun_step:
            self._intend(execution, run, entry, op)
        if isinstance(op, JOBS):
            return self._attempt_job(execution, run, entry, op)
        call = self._call(execution, run, op)
        execution.call = call
        if not self.context.pool.deadline(lease, call.deadline):
            return None
        if execution.hurried:
            # Looked at after the call has been declared: who hurries later finds it there.
            self.kill_lane.hasten(execution)
        waiting: Waiting | None = None
        failure: Exception | None = None
        try:
            waiting = self._perform(entry, op, call)
        except Exception as error:  # noqa: BLE001  # raised again below
            failure = error
        execution.call = None
        if not self.context.pool.deadline(lease, None):
            # Written off: from then on the operation is another thread's.
            return None
        if failure is not None:
            raise failure
        return self._after_attempt(execution, run, entry, op, waiting)

    def _perform(self, entry: Entry, op: MicroOp, call: BackendCall) -> Waiting | None:
        return self.context.performer.perform(entry, op, call)

    def _after_attempt(
        self, execution: Execution, run: Run, entry: Entry, op: MicroOp, waiting: Waiting | None
    ) -> Outcome:
        if waiting is None:
            return self._done(execution, run, entry, op)
        now = self.context.clock()
        if run.waiting_since is None:
            run.waiting_since = now
        since = run.waiting_since
        timeout = waiting.timeout
        if isinstance(op, microop.VmRequestShutdown):
            run.asked_at, timeout = since, op.timeout
        elif isinstance(op, microop.VmAwaitShutdown):
            # Asking and waiting share one time.
            since, timeout = run.asked_at or since, op.timeout
        elif isinstance(op, microop.VbdUnplug | microop.VifUnplug | microop.PciUnplug):
            timeout = self.context.deadlines.hotplug
        if now < since + timeout:
            return Parked(min(now + waiting.recheck, since + timeout))
        if isinstance(op, microop.VmDelay) or getattr(op, "force", False):
            return self._done(execution, run, entry, op)
        raise self._too_late(entry.id, op, waiting, timeout)

    def _too_late(self, vm: VmId, op: MicroOp, waiting: Waiting, timeout: float) -> XenopsError:
        match op:
            case microop.VmRequestShutdown(timeout=ack, reason=reason):
                if ack < self.context.limits.shutdown_ack:
                    return FailedToShutdown(id=vm, timeout=ack)
                return FailedToAcknowledge(id=vm, request=reason, timeout=ack)
            case microop.VmAwaitShutdown():
                return FailedToShutdown(id=vm, timeout=op.timeout)
            case microop.VbdUnplug(id=id) | microop.VifUnplug(id=id) | microop.PciUnplug(id=id):
                return DeviceDetachRejected(id=id, reason=f"not within {timeout:g} s")
            case microop.VmCreate():
                needed = self.context.inventory.require(vm).metadata().vm.memory_dynamic_min
                return NotEnoughMemory(needed=needed, free=self.context.memory.free)
            case _:
                return DeadlineExceeded(what=f"{waiting.what} of {vm}", seconds=timeout)

    def _intend(self, execution: Execution, run: Run, entry: Entry, op: MicroOp) -> None:
        self.journalling.intend(execution, run, entry, op)
        run.begun_step = True
        self._progress.step_began(execution, entry, op)
        self.context.killpoints.passing(f"{microop.name(op)}:before")

    def _done(self, execution: Execution, run: Run, entry: Entry, op: MicroOp) -> Outcome:
        self.context.killpoints.passing(f"{microop.name(op)}:after")
        incarnation = run.step[1].incarnation
        self.context.performer.advance(entry, op, incarnation, self.context.wall())
        # Written with the next intent: a crash before has this step repeated, and no more.
        run.owed.append(Done(step=run.done))
        self._progress.step_ended(execution, entry, op, "completed")
        run.next()
        if not run.over:
            self._progress.reached(execution, run, 0.0)
        self._progress.touch(execution)
        stale = self.context.wall() - (entry.observed_at or 0) > STALE
        if stale and self.context.inventory.get(entry.id) is entry:
            self.observation.look(entry)
        return Again()

    def _call(self, execution: Execution, run: Run, op: MicroOp) -> BackendCall:
        seconds = self._seconds(op, hurried=execution.hurried)
        _op, segment = run.step
        return BackendCall(
            execution,
            microop.name(op),
            segment.incarnation or "",
            self.context.clock() + seconds,
            seconds=seconds,
            progress=partial(self._progress.reached, execution, run),
            clock=self.context.clock,
        )

    def _seconds(self, op: MicroOp, *, hurried: bool) -> float:
        deadlines = self.context.deadlines
        if isinstance(op, microop.VmHook):
            return deadlines.hook
        if isinstance(op, JOBS):
            return deadlines.job
        return 2 * deadlines.hurry if hurried else deadlines.short

    # Jobs

    def _attempt_job(
        self, execution: Execution, run: Run, entry: Entry, op: MicroOp
    ) -> Outcome:
        job = run.job
        if job is None:
            return self._start_job(execution, run, entry, op)
        if not job.finished.is_set():
            return self._await_job(execution, job)
        run.job = None
        execution.call = None
        if job.error is not None:
            raise job.error
        return self._done(execution, run, entry, op)

    def _start_job(self, execution: Execution, run: Run, entry: Entry, op: MicroOp) -> Outcome:
        call = self._call(execution, run, op)
        execution.call = call
        # A hook keeps its deadline by itself, and then takes its time to end what it has started.
        slack = hooks.GRACE if isinstance(op, microop.VmHook) else 0.0
        work = partial(self._perform, entry, op, call)
        abroad = isinstance(op, microop.VmHandOver)
        run.job = self._jobs.start(entry.id, call.deadline + slack, work, abroad=abroad)
        if run.job is None:
            execution.call = None
            return Parked(self.context.clock() + 1.0)
        return Parked(run.job.deadline)

    def _await_job(self, execution: Execution, job: Job) -> Outcome:
        now = self.context.clock()
        deadlines = self.context.deadlines
        if execution.hurried:
            job.press(now + deadlines.hurry)
        elif execution.cancelled:
            job.press(now + deadlines.cancel)
        if now < job.deadline:
            return Parked(job.deadline)
        if not job.broken:
            job.broken = True
            job.deadline = now + deadlines.grace
            if execution.call is not None:
                execution.call.give_up()
            self.kill_lane.break_soon(execution)
            return Parked(job.deadline)
        execution.lost_job = job
        execution.abandoned = True
        self.kill_lane.abandon(execution)
        return Parked(None)

    # Failure

    def _failed(
        self, execution: Execution, run: Run, entry: Entry, op: MicroOp, error: XenopsError
    ) -> Outcome:
        """Turn back what can be undone; try again what can only be finished."""
        name = microop.name(op)
        log.warning(
            "micro_op_failed",
            vm=entry.id,
            task=execution.task_id,
            micro_op=name,
            direction=run.direction,
            error=str(error),
        )
        started = run.begun_step
        if started:
            self._progress.step_ended(execution, entry, op, "failed")
        if run.cancellable:
            self._blame(execution, error, name if started else None)
            back = undo(run.plan, run.done, intended=started)
            self.journalling.turn(execution, entry, back)
            return Again()
        run.attempts += 1
        run.begun_step = False
        run.waiting_since = None
        run.job = None
        # What a waiting hard shutdown will do anyway need not be tried long.
        if run.attempts < ATTEMPTS and not execution.hurried:
            return Parked(self.context.clock() + BACKOFF * 2**run.attempts)
        self._skip(execution, run, entry, name, error)
        return Again()

    def _skip(
        self, execution: Execution, run: Run, entry: Entry, name: str, error: XenopsError
    ) -> None:
        """Leave out what was tried long enough: the operation has failed, the rest is done."""
        log.error("micro_op_skipped", vm=entry.id, micro_op=name)
        run.skipped = True
        run.owed.append(Done(step=run.done))
        run.next()
        if execution.error is None:
            self._blame(execution, error, name)
            # So that it has failed after a crash as well.
            left = rest(run.plan, run.done)
            self.journalling.turn(execution, entry, left, direction=run.direction)

    def _blame(self, execution: Execution, error: XenopsError, micro_op: str | None) -> None:
        """What an operation fails with is what went wrong first."""
        if execution.error is None:
            execution.error = error
            execution.failed_at = micro_op



def wire_error(error: Exception) -> XenopsError:
    """What a client is told of an exception that has a meaning."""
    match error:
        case XenopsError():
            return error
        case JournalUnwritable() | StoreUnwritable():
            return StorageError(plugin="state directory", reason=str(error))
        case OSError():
            reason = error.strerror or type(error).__name__
            return StorageError(plugin="host", reason=f"{error.filename or ''} {reason}".strip())
        case _:
            return incident(error)


def _reboots(plan: Plan) -> bool:
    """Whether the VM goes down only to come up again."""
    names = [microop.name(step) for step, _ in plan.steps()]
    return "vm_destroy" in names and "vm_create" in names
