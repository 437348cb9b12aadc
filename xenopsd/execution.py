"""One operation on its way: what the lease holder carries from micro-op to micro-op.

An `Execution` stands on its VM's queue from acceptance to end. Only the holder of the VM's
lease writes it; `cancel`, `hurry` and the abandoning of a stuck call come from other threads
and touch nothing but what is marked here as theirs.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from idl import calls
from idl.calls import Call as WireCall
from idl.errors import Cancelled, DeadlineExceeded, XenopsError
from idl.ids import VmId
from idl.update import ObjectType
from journal.records import Done, Turned
from xenopsd.microop import WEIGHTS, MicroOp, name
from xenopsd.plan.plan import Plan, Segment
from xenopsd.queues import Lease
from xenopsd.tasks import TaskEntry


@dataclass(frozen=True, slots=True)
class Check:
    """Look at a VM again; what its guest did decides what follows."""

    id: VmId
    method: str = "check"


@dataclass(frozen=True, slots=True)
class Recover:
    """Bring a VM into a sensible state after a start of the daemon."""

    id: VmId
    method: str = "recover"


@dataclass(frozen=True, slots=True)
class Balance:
    """Bring balloons to new targets, in bytes by VM."""

    targets: dict[VmId, int]
    method: str = "balance"


Request = WireCall[Any] | Check | Recover | Balance


class Job:
    """A micro-op in a thread of its own."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.broken = False
        self.pressed = False
        self.finished = threading.Event()
        self.result: object = None
        self.error: BaseException | None = None

    def press(self, deadline: float) -> None:
        """Somebody waits for it to let go: an earlier deadline, given once."""
        if not self.pressed:
            self.pressed = True
            self.deadline = min(self.deadline, deadline)

    def run(self, work: Callable[[], object], done: Callable[[], None]) -> None:
        """In the job's thread: keep what comes of it, then wake who waits."""
        try:
            self.result = work()
        except BaseException as error:  # noqa: BLE001  # handed to the holder of the lease
            self.error = error
        self.finished.set()
        done()


@dataclass(slots=True)
class Run:
    """A plan being carried out: position, direction, and what its present step waits for."""

    plan: Plan
    direction: Literal["forward", "back"] = "forward"
    done: int = 0
    attempts: int = 0
    begun_step: bool = False
    waiting_since: float | None = None
    asked_at: float | None = None
    job: Job | None = None
    skipped: bool = False
    #: What has happened and is not yet recorded: it is written before the next record.
    owed: list[Done | Turned] = field(default_factory=list)
    steps: list[tuple[MicroOp, Segment]] = field(init=False)
    weights: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.steps = self.plan.steps()
        self.weights = [WEIGHTS.get(type(op), 1) for op, _ in self.steps]

    @property
    def over(self) -> bool:
        """Every step is done."""
        return self.done >= len(self.steps)

    @property
    def turned_untold(self) -> bool:
        """Whether its journal does not say that it was taken back: it would be done after all."""
        return any(isinstance(record, Turned) for record in self.owed)

    @property
    def step(self) -> tuple[MicroOp, Segment]:
        """The present step and its segment."""
        return self.steps[self.done]

    @property
    def cancellable(self) -> bool:
        """Whether the present step may be given up."""
        return not self.over and not self.step[1].finish and self.direction == "forward"

    def next(self) -> None:
        """The present step is done."""
        self.done += 1
        self.attempts = 0
        self.begun_step = False
        self.waiting_since = None
        self.job = None


class Execution:
    """An operation from acceptance to end."""

    def __init__(
        self,
        request: Request,
        vm: VmId,
        *,
        task: TaskEntry | None = None,
        future: "asyncio.Future[Any] | None" = None,
    ) -> None:
        self.request = request
        self.vm = vm
        self.task = task
        self.future = future
        #: What every event logged for it bears.
        self.facts = {"vm": vm, "operation": request.method}
        if task is not None:
            self.facts |= {"task": task.id, "debug_info": task.debug_info}
        self.run: Run | None = None
        self.error: XenopsError | None = None
        self.failed_at: str | None = None
        self.result: object = None
        self.begun_at = 0.0
        self.state_before: tuple[str, str | None] = ("", None)
        #: The VM and its devices then, where the operation may remove some.
        self.objects_before: list[tuple[ObjectType, str]] = []
        self.interrupted = False
        #: Started because the host was: see `auto_start`.
        self.with_host = False
        #: A written-off call of this operation is still out; what follows waits for it.
        self.abandoned = False
        #: What that call was carrying out: its micro-op, and the object of it.
        self.stuck_in = ("", "")
        #: Guards `eventfd`.
        self.lock = threading.Lock()
        self.lease: Lease[Execution] | None = None
        self.call: BackendCall | None = None
        self.lost_job: Job | None = None
        self.step_began = 0.0
        # Written by other threads:
        self.wake = threading.Event()
        self.eventfd: int | None = None
        self.cancelled = False
        #: A hard shutdown waits behind it.
        self.hurried = False
        self.cancel_at: int | None = None

    @property
    def is_hard_shutdown(self) -> bool:
        """Whether nothing may stand before it."""
        return isinstance(self.request, calls.VmShutdown) and self.request.timeout is None

    @property
    def is_operation(self) -> bool:
        """Whether it is a T call (which a hard shutdown cancels)."""
        return isinstance(self.request, calls.Operation)

    @property
    def name(self) -> str:
        """The operation: of a recovered one, the one that was cut."""
        return self.task.operation if self.task else self.request.method

    @property
    def task_id(self) -> str:
        """For messages."""
        return self.task.id if self.task else self.request.method

    @property
    def micro_op(self) -> str | None:
        """The present micro-op's name."""
        run = self.run
        return None if run is None or run.over else name(run.step[0])

    def cancel(self) -> None:
        """From any thread: give up at the next cancel point."""
        self.cancelled = True
        self.wake.set()
        run = self.run
        if run is not None and run.cancellable:
            self.rouse()

    def rouse(self) -> None:
        """From any thread: wake whatever blocks for this operation."""
        self.wake.set()
        with self.lock:
            if self.eventfd is not None:
                os.eventfd_write(self.eventfd, 1)

    def checkpoint(self) -> None:
        """A cancel point. Raises Cancelled."""
        run = self.run
        if run is not None and not run.cancellable:
            return
        if self.task is not None:
            self.task.cancel_points_seen += 1
            if self.cancel_at is not None and self.task.cancel_points_seen >= self.cancel_at:
                self.cancelled = True
        if self.cancelled:
            raise Cancelled(task=self.task_id)


class BackendCall:
    """`backends.interface.Call` for one attempt at a micro-op."""

    def __init__(
        self,
        execution: Execution,
        micro_op: str,
        incarnation: str,
        deadline: float,
        *,
        seconds: float,
        progress: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._execution = execution
        self._clock = clock
        self._seconds = seconds
        self._progress = progress
        self.micro_op = micro_op
        self.incarnation = incarnation
        self.deadline = deadline
        #: Set from the kill lane: the call is past its deadline, or a hard shutdown waits.
        self.overdue = False

    def checkpoint(self) -> None:
        """Raises Cancelled, DeadlineExceeded."""
        self._execution.checkpoint()
        if self.overdue or self._clock() >= self.deadline:
            raise DeadlineExceeded(
                what=f"{self.micro_op} of VM {self._execution.vm}", seconds=self._seconds
            )

    def pause(self, seconds: float | None) -> None:
        """Block; woken by a cancel or the kill lane."""
        until = self.deadline if seconds is None else self._clock() + seconds
        wake = self._execution.wake
        while True:
            self.checkpoint()
            left = min(until, self.deadline) - self._clock()
            if left <= 0:
                if until <= self._clock() and seconds is not None:
                    return
                continue
            if wake.wait(left):
                self.checkpoint()
                # Woken, and yet to go on: a finishing step is not given up for a cancel.
                wake.clear()

    def progress(self, fraction: float) -> None:
        """How far the micro-op is."""
        self._progress(min(max(fraction, 0.0), 1.0))

    def give_up(self) -> None:
        """From the kill lane."""
        self.overdue = True
        self._execution.rouse()

    @contextmanager
    def interruption(self) -> Iterator[int]:
        """A descriptor that becomes readable when the micro-op has to stop."""
        execution = self._execution
        eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        with execution.lock:
            execution.eventfd = eventfd
        try:
            self.checkpoint()
            yield eventfd
        finally:
            with execution.lock:
                execution.eventfd = None
                os.close(eventfd)
