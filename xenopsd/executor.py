"""Carries operations out: one micro-op a lease, journalled before and after.

What survives which crash is decided by the order here and nowhere else:

- begun, then intent, then effect, then done: an effect without a record is always announced;
- at the end: running record, task log, journal truncated, update, release of the queue. A crash
  after the task log has it only truncates; a crash before it repeats what was done already.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import structlog
from msgspec import Raw
from msgspec.structs import replace

from backends.interface import Domain, Waiting
from idl import calls
from idl.errors import (
    Cancelled,
    DeadlineExceeded,
    DeviceDetachRejected,
    FailedToAcknowledge,
    FailedToShutdown,
    Interrupted,
    NotEnoughMemory,
    StorageError,
    XenopsError,
)
from idl.ids import VmId
from idl.task import ErrorObject, Subtask
from idl.vm import Attention, RunningOperation
from journal.errors import JournalUnwritable, StoreUnwritable
from journal.records import Begun, Direction, Done, Ended, Intent, Turned
from journal.store import Store
from journal.tasklog import TaskLog
from xenopsd import hooks, microop, queues
from xenopsd.bridge import Bridge
from xenopsd.errands import Errands, start
from xenopsd.execution import BackendCall, Check, Execution, Job, Recover, Run
from xenopsd.incident import incident
from xenopsd.inventory import Entry, Inventory
from xenopsd.killpoints import KillPoints
from xenopsd.memory import Memory
from xenopsd.metrics import Ending, Metrics
from xenopsd.microop import DURABLE, JOBS, MicroOp
from xenopsd.perform import Performer
from xenopsd.plan.plan import Limits, Plan, rest, undo
from xenopsd.queues import Again, Lease, Outcome, Parked
from xenopsd.record import concluded
from xenopsd.tasks import Tasks
from xenopsd.updates import Updates
from xenopsd.workers import WorkerPool

log = structlog.get_logger(__name__)

#: How often a step that can only be finished is tried, and how long after the first failure.
ATTEMPTS = 5
BACKOFF = 0.05
#: How old an observation may be when a micro-op has ended before the VM is looked at again.
STALE = 1.0
HOST_MEMORY = "host/memory"

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds."""

    short: float = 10.0
    job: float = 1200.0
    hook: float = 60.0
    kill: float = 30.0
    grace: float = 2.0
    hurry: float = 1.0
    cancel: float = 20.0


@dataclass(slots=True)
class Context:
    """What the executor works with; `performer` is there once the backend is open."""

    inventory: Inventory
    store: Store
    tasklog: TaskLog
    tasks: Tasks
    updates: Updates
    bridge: Bridge
    killpoints: KillPoints
    metrics: Metrics
    memory: Memory
    always_fsync: bool = False
    deadlines: Deadlines = field(default_factory=Deadlines)
    limits: Limits = field(default_factory=Limits)
    job_limit: int = 8
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


class Executor:
    """The step function of the worker pool, and what other threads ask of it."""

    def __init__(
        self,
        context: Context,
        *,
        begin: Callable[[Execution, Entry | None], Plan | None],
        after: Callable[[Execution, str | None], None],
    ) -> None:
        self.context = context
        self.performer: Performer | None = None
        self.pool: WorkerPool[Execution] | None = None
        self._begin_request = begin
        self._after = after
        self._jobs = threading.BoundedSemaphore(context.job_limit)
        self._job_waiters: list[VmId] = []
        self._kill_lane = Errands("kill", 2)

    # The pool's callbacks

    def step(self, lease: Lease[Execution]) -> Outcome:
        """One micro-op, or the beginning or end of an operation."""
        execution = lease.item
        if self.performer is None:
            return Parked(None)  # until the backend has been observed
        if execution.abandoned and not self._returned(execution):
            return Parked(None)
        if execution.run is None:
            return self._begin(execution, lease)
        return self._carry(execution, execution.run, lease)

    def overdue(self, lease: Lease[Execution]) -> None:
        """On a kill thread: break the call that is past its deadline."""
        execution = lease.item
        call = execution.call
        if call is not None:
            call.give_up()
        self._break(execution)

    def written_off(self, lease: Lease[Execution]) -> None:
        """The call did not let go: answer for it, and let nothing else near its VM."""
        execution = lease.item
        execution.abandoned = True
        self._abandon(execution)

    def returned(self, lease: Lease[Execution]) -> None:
        """The call is back: what is owed can be carried on."""
        execution = lease.item
        execution.abandoned = False
        assert self.pool is not None
        self.pool.unblock(lease.key)

    def crashed(self, lease: Lease[Execution], error: BaseException) -> None:
        """A bug of ours: the task is failed, the VM needs a look."""
        execution = lease.item
        execution.error = incident(error)
        entry = self.context.inventory.get(execution.vm)
        if entry is not None:
            self.doubt(entry, f"{execution.request.method} broke off: {execution.error}")
        self._finish(execution, entry)

    # From other threads

    def enqueue(self, execution: Execution) -> None:
        """Put an accepted operation on its queue; a hard shutdown first clears its way."""
        assert self.pool is not None
        if execution.is_hard_shutdown:
            self._clear_way(execution)
        self.pool.push(
            execution.vm,
            execution,
            limited=False,
            urgent=execution.is_hard_shutdown,
            coalesce="check" if isinstance(execution.request, Check) else None,
        )
        entry = self.context.inventory.get(execution.vm)
        if execution.is_hard_shutdown and entry is not None and entry.stuck:
            self._behind_stuck(execution)

    def check(self, vm: VmId) -> None:
        """From the backend: a VM needs attention. Wakes what waits for it, queues a look."""
        if self.pool is None:
            return
        self.pool.wake(vm)
        if self.context.inventory.get(vm) is not None:
            self.enqueue(Execution(Check(vm), vm))

    def cancel(self, execution: Execution) -> None:
        """Give up a task: at once where it has not begun, else at its next cancel point.

        A repair begins all the same: its operation had begun.
        """
        if not isinstance(execution.request, Recover) and self.withdraw(execution):
            self._end_cancelled(execution)
            return
        assert self.pool is not None
        execution.cancel()
        run = execution.run
        if run is not None and run.cancellable:
            self.pool.wake(execution.vm)
            self._kill_lane.send(partial(self._interrupt, execution.vm))

    def later(self, call: Callable[[], None]) -> None:
        """Make a call that may block on a thread of the kill lane, not on the caller's."""
        self._kill_lane.send(call)

    def kill(self, vm: VmId) -> None:
        """Kill a VM's domain out of band, beside whatever is going on."""
        if self.performer is not None:
            self._kill_lane.send(partial(self.performer.backend.kill, vm))

    def withdraw(self, execution: Execution) -> bool:
        """Take back what has not begun."""
        assert self.pool is not None
        return bool(self.pool.withdraw(execution.vm, lambda item: item is execution))

    def expire(self, execution: Execution, error: XenopsError) -> None:
        """Fail an operation that could not begin in time."""
        if self.withdraw(execution):
            execution.error = error
            self._finish(execution, self.context.inventory.get(execution.vm))

    # Hard shutdown, stuck calls

    def _clear_way(self, execution: Execution) -> None:
        assert self.pool is not None
        vm = execution.vm
        for queued in self.pool.withdraw(vm, lambda item: item.is_operation):
            self._end_cancelled(queued)
        head = self.pool.head(vm)
        if head is None or isinstance(head.request, calls.Queued) or head.is_hard_shutdown:
            return
        head.cancel()
        head.hurried = True
        self.pool.wake(vm)
        self._hasten(head)

    def _hasten(self, execution: Execution) -> None:
        """Let the kill lane take over if the micro-op has not let go soon."""
        assert self.pool is not None
        lease = execution.lease
        if lease is not None and execution.call is not None:
            self.pool.hasten(lease, self.context.clock() + self.context.deadlines.hurry)

    def _break(self, execution: Execution) -> None:
        if execution.hurried:
            assert self.performer is not None
            self.performer.backend.kill(execution.vm)
        self._interrupt(execution.vm)

    def _interrupt(self, vm: VmId) -> None:
        if self.performer is not None:
            self.performer.backend.interrupt(vm)

    def _abandon(self, execution: Execution) -> None:
        """End the task of an operation whose call is still out; what it owes stays journalled."""
        entry = self.context.inventory.require(execution.vm)
        run = execution.run
        seconds = self.context.deadlines.short
        what = f"{execution.micro_op or execution.request.method} of VM {execution.vm}"
        error = DeadlineExceeded(what=what, seconds=seconds)
        entry.stuck = True
        self.doubt(entry, f"{what} does not return; shut the VM down hard")
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
            self.turn(execution, entry, owed, outlives=True)
        self.answer(execution)
        execution.task = None
        execution.future = None
        assert self.pool is not None
        for queued in self.pool.withdraw(entry.id, lambda i: not i.is_hard_shutdown):
            queued.error = DeadlineExceeded(what=what, seconds=seconds)
            self._finish(queued, entry)
        # One that is pushed after `stuck` was set looks for itself.
        for waiting in list(entry.operations):
            if waiting.is_hard_shutdown and waiting is not execution:
                self._behind_stuck(waiting)
        self._touch(entry)

    def _behind_stuck(self, execution: Execution) -> None:
        """A hard shutdown behind a call that does not return: kill, and wait only so long."""
        self.kill(execution.vm)
        seconds = self.context.deadlines.kill
        error = DeadlineExceeded(
            what=f"The hard shutdown of VM {execution.vm}, whose hypervisor call does not return,",
            seconds=seconds,
        )
        expire = partial(self.expire, execution, error)
        self.context.bridge.later(seconds, partial(self.later, expire))

    def _returned(self, execution: Execution) -> bool:
        """Whether an abandoned job is back at last."""
        job = execution.lost_job
        if job is not None and job.finished.is_set():
            execution.lost_job = None
            execution.abandoned = False
        return not execution.abandoned

    # Begin

    def _begin(self, execution: Execution, lease: Lease[Execution]) -> Outcome:
        entry = self.context.inventory.get(execution.vm)
        execution.begun_at = self.context.wall()
        execution.lease = lease
        if entry is not None:
            execution.state_before = _state(entry)
            if not execution.is_operation:
                execution.objects_before = entry.objects()
            self._show(entry, execution)
        failed = False
        try:
            if not isinstance(execution.request, Recover):
                execution.checkpoint()
            plan = self._begin_request(execution, entry)
            if execution.run is None and plan is not None and plan.steps():
                assert entry is not None
                self._journal_begun(execution, entry, plan)
                execution.run = Run(plan)
        except (XenopsError, JournalUnwritable, StoreUnwritable) as error:
            execution.error, failed = wire_error(error), True
        except Exception as error:  # noqa: BLE001  # a worker's top frame: the task must end
            execution.error, failed = incident(error), True
        if execution.run is None:
            if isinstance(execution.request, Recover) and failed and entry is not None:
                self.doubt(entry, f"its repair could not begin: {execution.error}")
            self._finish(execution, self.context.inventory.get(execution.vm))
            return queues.Ended()
        return self._carry(execution, execution.run, lease)

    def _journal_begun(self, execution: Execution, entry: Entry, plan: Plan) -> None:
        assert self.performer is not None
        entry.rebooting = _reboots(plan)
        incarnation = next((s.incarnation for s in plan.segments if s.incarnation), None)
        entry.journal.append(
            Begun(
                task=execution.task.id if execution.task else None,
                operation=execution.request.method,
                params=Raw(b"null"),
                boot=self.performer.boot,
                incarnation=incarnation,
                plan=Raw(_encode(plan)),
                at=execution.begun_at,
            ),
            durable=self.context.always_fsync,
        )

    # One micro-op

    def _carry(self, execution: Execution, run: Run, lease: Lease[Execution]) -> Outcome:
        entry = self.context.inventory.require(execution.vm)
        execution.lease = lease
        if run.over:
            return self._end(execution, entry)
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
            self.look(entry)
        elif execution.run is not None and execution.run.over:
            return self._end(execution, entry)
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
        assert self.pool is not None
        if not self.pool.deadline(lease, call.deadline):
            return None
        if execution.hurried:
            # Looked at after the call has been declared: who hurries later finds it there.
            self._hasten(execution)
        waiting: Waiting | None = None
        failure: Exception | None = None
        try:
            waiting = self._perform(entry, op, call)
        except Exception as error:  # noqa: BLE001  # raised again below
            failure = error
        execution.call = None
        if not self.pool.deadline(lease, None):
            # Written off: from then on the operation is another thread's.
            return None
        if failure is not None:
            raise failure
        return self._after_attempt(execution, run, entry, op, waiting)

    def _perform(self, entry: Entry, op: MicroOp, call: BackendCall) -> Waiting | None:
        assert self.performer is not None
        return self.performer.perform(entry, op, call)

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
        name = microop.name(op)
        durable = self.context.always_fsync or isinstance(op, DURABLE)
        self._write(
            execution, run, entry, Intent(step=run.done, name=name), durable=durable
        )
        run.begun_step = True
        subject = microop.subject(op, entry.id)
        if subject != entry.id:
            entry.active |= {subject}
        if execution.task is not None:
            subtasks = execution.task.subtasks
            subtasks.append(Subtask(name=name, object=subject, state="pending"))
        execution.step_began = self.context.clock()
        self._show(entry, execution)
        self._touch_task(execution)
        self.context.killpoints.passing(f"{name}:before")

    def _write(
        self, execution: Execution, run: Run, entry: Entry, record: Intent, *, durable: bool
    ) -> None:
        try:
            entry.journal.append(*run.owed, record, durable=durable)
            run.owed = []
        except JournalUnwritable:
            # Going forward nothing happens without its intent; but what was begun has to be
            # taken back or finished even when that cannot be written.
            if run.cancellable:
                raise
            log.exception("journal_unwritable", vm=entry.id, operation=execution.request.method)

    def _done(self, execution: Execution, run: Run, entry: Entry, op: MicroOp) -> Outcome:
        name = microop.name(op)
        self.context.killpoints.passing(f"{name}:after")
        gone = self.context.inventory.get(entry.id) is not entry
        # Written with the next intent: a crash before has this step repeated, and no more.
        run.owed.append(Done(step=run.done))
        seconds = self.context.clock() - execution.step_began
        self.context.metrics.micro_op_ended(name, seconds)
        self._close_subtask(execution, "completed", seconds)
        subject = microop.subject(op, entry.id)
        entry.active -= {subject}
        run.next()
        if run.direction == "forward" and not execution.error and not run.over:
            self._progress(execution, run, 0.0)
        self._touch_task(execution)
        if not gone and (self.context.wall() - (entry.observed_at or 0)) > STALE:
            self.look(entry)
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
            progress=lambda fraction: self._progress(execution, run, fraction),
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
        if not self._jobs.acquire(blocking=False):
            self._job_waiters.append(entry.id)
            return Parked(self.context.clock() + 1.0)
        call = self._call(execution, run, op)
        # A hook keeps its deadline by itself, and then takes its time to end what it has started.
        slack = hooks.GRACE if isinstance(op, microop.VmHook) else 0.0
        job = Job(call.deadline + slack)
        run.job, execution.call = job, call
        work = partial(self._perform, entry, op, call)
        try:
            start(f"job-{entry.id}", job.run, work, partial(self._job_over, entry.id))
        except RuntimeError:
            self._jobs.release()
            run.job = execution.call = None
            raise
        return Parked(job.deadline)

    def _job_over(self, vm: VmId) -> None:
        self._jobs.release()
        assert self.pool is not None
        waiting, self._job_waiters = self._job_waiters, []
        for id in (vm, *waiting):
            self.pool.wake(id)

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
            self._kill_lane.send(partial(self._break, execution))
            return Parked(job.deadline)
        execution.lost_job = job
        execution.abandoned = True
        self._abandon(execution)
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
            self._close_subtask(execution, "failed", self.context.clock() - execution.step_began)
        entry.active -= {microop.subject(op, entry.id)}
        if run.cancellable:
            self._blame(execution, error, name if started else None)
            back = undo(run.plan, run.done, intended=started)
            self.turn(execution, entry, back)
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
            self.turn(execution, entry, rest(run.plan, run.done), direction=run.direction)

    def _blame(self, execution: Execution, error: XenopsError, micro_op: str | None) -> None:
        """What an operation fails with is what went wrong first."""
        if execution.error is None:
            execution.error = error
            execution.failed_at = micro_op

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
            error=Raw(_encode(_cause(execution))),
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

    # End

    def _end(self, execution: Execution, entry: Entry) -> Outcome:
        """Every step is done: settle the record, then answer."""
        run = execution.run
        if self.context.inventory.get(entry.id) is entry and run is not None:
            if entry.attention is None or not isinstance(execution.request, calls.Queued):
                # Dropping a device's record says nothing about a VM that is in doubt.
                self.settle(entry, run.plan.reason)
            self._say_failure(execution, run, entry)
        self._finish(execution, entry)
        return queues.Ended()

    def _say_failure(self, execution: Execution, run: Run, entry: Entry) -> None:
        """Why the VM is where it is; attention, where it is not where it should be."""
        _name_end(execution, entry)
        words = f"{execution.name} failed: {execution.error}"
        explained = run.plan.reason and not run.skipped
        if execution.error and execution.state_before != _state(entry) and not explained:
            self._explain(entry, words)
        if not run.skipped or entry.domain is None:
            return
        if run.direction == "back" and entry.domain.stopped is not None:
            # Its guest has stopped beside it: what could not be undone in it does not matter.
            self.check(entry.id)
        else:
            self.doubt(entry, words)

    def settle(self, entry: Entry, reason: str | None) -> None:
        """Look at the VM, and record it as it is."""
        before = entry.recorded
        entry.rebooting = False
        entry.stuck = False
        entry.attention = None
        if not self.look(entry):
            return
        after = concluded(entry.extra, entry.domain, reason=reason, now=self.context.wall())
        entry.extra = after
        if before is None or after != replace(before, observed_at=after.observed_at):
            self.save(entry)

    def _explain(self, entry: Entry, reason: str) -> None:
        entry.extra = replace(entry.extra, reason=reason)
        self.save(entry)

    def save(self, entry: Entry) -> None:
        """Write the running record; that it cannot be written is reported, and no more: the
        journal and the world are what recovery believes."""
        entry.recorded = entry.extra
        entry.changed()
        try:
            self.context.store.write(
                entry.id, "extra", entry.extra, durable=entry.extra.image is not None
            )
        except StoreUnwritable:
            log.exception("running_record_unwritable", vm=entry.id)

    def look(self, entry: Entry) -> bool:
        """Observe the VM; False, and attention, when the backend cannot tell."""
        assert self.performer is not None
        try:
            domain = self.performer.backend.host.domain(entry.id)
        except XenopsError as error:
            if entry.attention is None:
                entry.unseen = True
                self.doubt(entry, f"it cannot be observed: {error}")
            return False
        self.observed(entry, domain)
        return True

    def observed(self, entry: Entry, domain: Domain | None) -> None:
        """Take an observation in, and announce what changed."""
        before, entry.domain = entry.domain, domain
        entry.observed_at = self.context.wall()
        if entry.unseen:
            entry.unseen, entry.attention = False, None
        entry.changed()
        if before == domain or (before and domain and _alike(before, domain)):
            return
        self.context.updates.touch("vm", entry.id)
        old = before or Domain(id="", name="")
        new = domain or Domain(id="", name="")
        for id in old.vbds.keys() ^ new.vbds.keys() | _differing(old.vbds, new.vbds):
            self.context.updates.touch("vbd", id)
        for id in old.vifs.keys() ^ new.vifs.keys() | _differing(old.vifs, new.vifs):
            self.context.updates.touch("vif", id)
        for id in set(old.pcis) ^ set(new.pcis):
            self.context.updates.touch("pci", id)

    def _finish(self, execution: Execution, entry: Entry | None) -> None:
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
            self._touch(entry)
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
        return _cause(execution)

    def _end_cancelled(self, execution: Execution) -> None:
        execution.error = Cancelled(task=execution.task_id)
        self._finish(execution, self.context.inventory.get(execution.vm))

    # What clients see meanwhile

    def _show(self, entry: Entry, execution: Execution) -> None:
        entry.running = RunningOperation(
            task=execution.task.id if execution.task else None,
            name=execution.request.method,
            micro_op=execution.micro_op,
            since=execution.begun_at,
        )
        entry.changed()
        if execution.micro_op is None:
            self.context.updates.touch("vm", entry.id)

    def _progress(self, execution: Execution, run: Run, fraction: float) -> None:
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
            self._touch_task(execution)

    def _close_subtask(self, execution: Execution, state: str, seconds: float) -> None:
        task = execution.task
        if task is not None and task.subtasks:
            last = task.subtasks[-1]
            task.subtasks[-1] = replace(last, state=state, duration=seconds)

    def _touch_task(self, execution: Execution) -> None:
        if execution.task is not None:
            run = execution.run
            execution.task.cancellable = run is None or run.over or run.cancellable
            self.context.updates.touch("task", execution.task.id)

    def _touch(self, entry: Entry) -> None:
        entry.changed()
        if self.context.inventory.get(entry.id) is entry:
            self.context.updates.touch("vm", entry.id)

    def balloon(self, execution: Execution, entry: Entry, target: int) -> None:
        """Bring one VM's balloon to a target, outside its queue. Raises XenopsError."""
        assert self.performer is not None
        was = entry.domain.memory_target if entry.domain else target
        op = microop.VmSetMemory(target=target, was=was)
        seconds = self.context.deadlines.short
        call = BackendCall(
            execution,
            microop.name(op),
            entry.extra.incarnation or "",
            self.context.clock() + seconds,
            seconds=seconds,
            progress=lambda _fraction: None,
            clock=self.context.clock,
        )
        self.performer.perform(entry, op, call)
        # What is observed is written by the holder of the VM's lease alone.
        self.check(entry.id)

    def doubt(self, entry: Entry, reason: str) -> None:
        """Say that a VM needs an administrator."""
        if entry.attention is None or entry.attention.reason != reason:
            entry.attention = Attention(reason=reason, since=self.context.wall())
            log.error("attention", vm=entry.id, reason=reason)
        entry.changed()
        self.context.updates.touch("vm", entry.id)


def _name_end(execution: Execution, entry: Entry | None) -> None:
    """An interrupted operation says where the VM was brought."""
    error = execution.error
    if isinstance(error, Interrupted) and error.begun and error.recovered_to is None:
        error.recovered_to = str(entry.power_state) if entry else "removed"


def _cause(execution: Execution) -> ErrorObject | None:
    """The error of an operation, with the micro-op at which it failed."""
    if execution.error is None:
        return None
    shown = execution.error.error_object()
    if execution.failed_at is None:
        return shown
    return replace(shown, data={**shown.data, "micro_op": execution.failed_at})


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


def _state(entry: Entry) -> tuple[str, str | None]:
    """What a client sees change: the power state and which domain it is."""
    return str(entry.power_state), entry.domain.incarnation if entry.domain else None


def _reboots(plan: Plan) -> bool:
    """Whether the VM goes down only to come up again."""
    names = [microop.name(step) for step, _ in plan.steps()]
    return "vm_destroy" in names and "vm_create" in names


def _alike(before: Domain, after: Domain) -> bool:
    """Whether nothing but the time has gone on."""
    return replace(before, vcpu_seconds=after.vcpu_seconds) == after


def _differing(old: dict[str, Any], new: dict[str, Any]) -> set[str]:
    return {id for id in old.keys() & new.keys() if old[id] != new[id]}


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
