"""Threads over `Queues`: workers, a kill lane, and a supervisor that gives up on stuck calls.

A worker leases a key, takes one step of its head without holding the lock, gives the key back and
takes the next in one locked section. Lane threads do the same for urgent keys alone, so that a
hard shutdown is served while every worker hangs. The supervisor sleeps until the nearest deadline:
it wakes parked keys, puts a new worker in the place of one whose call is overdue, has that call
broken from a kill thread, and after a grace writes its worker off: its key stays blocked until the
owner says otherwise. A worker that comes back before that makes one too many, and one leaves.

Nobody is woken twice for the same thing: after every change of the queues, `_rouse` tops up the
threads on their way to the number of keys that can be leased. It is the one place that wakes
workers, and every locked section that may make a key ready ends with it.

The pool knows nothing of VMs, tasks or backends, and under the lock calls out to `match` alone.
"""

import os
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import inf
from typing import Generic, TypeVar

import structlog

from xenopsd.crew import Crew, Holder
from xenopsd.errands import Errands, start, tell
from xenopsd.pulse import Pulse
from xenopsd.queues import Ended, Lease, Outcome, Parked, Queues, Snapshot

T = TypeVar("T")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Running(Generic[T]):
    """A step that is being taken, for diagnostics; times are the pool's clock's."""

    key: str
    item: T
    thread: str
    since: float
    deadline: float | None
    written_off: bool


class WorkerPool(Generic[T]):
    """`size` workers and `lane` lane threads that take steps of the items on `queues`.

    `step(lease)` is one micro-op and runs on a worker's thread. The callbacks, none of which is
    called with the lock held, and each at most once for a call or a lease:

    - `on_overdue(lease)`, on a kill thread: the call that the step declared is past its deadline;
      break it. The step may return meanwhile, so break that call and not whatever runs.
    - `on_written_off(lease)`: the step did not return within `grace` of that. Its key is blocked.
    - `on_returned(lease)`, on the step's own thread, after on_written_off: the step has returned
      after all, and its outcome is dropped. The owner looks, and then calls `unblock`.
    - `on_crashed(lease, exc)`, on the step's thread: the step raised, which is a bug. Afterwards
      the item is released as Ended.
    """

    def __init__(
        self,
        step: Callable[[Lease[T]], Outcome],
        *,
        clock: Callable[[], float] = time.monotonic,
        size: int,
        lane: int = 1,
        on_overdue: Callable[[Lease[T]], None],
        on_written_off: Callable[[Lease[T]], None],
        on_returned: Callable[[Lease[T]], None],
        on_crashed: Callable[[Lease[T], BaseException], None],
        grace: float = 2.0,
        kills: int = 4,
        queues: Queues[T] | None = None,
    ) -> None:
        self._step = step
        self._clock = clock
        self._on_overdue = on_overdue
        self._on_written_off = on_written_off
        self._on_returned = on_returned
        self._on_crashed = on_crashed
        self._grace = grace
        self._queues: Queues[T] = Queues() if queues is None else queues
        self._lock = threading.Lock()
        self._due = threading.Condition(self._lock)  # an earlier deadline than `_alarm`
        self._quiet = threading.Condition(self._lock)  # nothing runs while stopping
        self._alarm = inf
        self.pulse = Pulse("supervisor")
        self._stopping = False
        self._closed = False
        self._running: dict[int, Holder[T]] = {}  # by generation
        self._workers = self._crew("worker", 0, urgent_only=False)
        self._lane = self._crew("lane", lane, urgent_only=True)
        self._kills = Errands("kill", kills)
        self._reports = Errands("report", 1)
        start("supervisor", self._supervise)
        self._hire(self._lane)
        self.set_size(size)

    # -- the queues, under the lock ----------------------------------------------------------

    def push(
        self,
        key: str,
        item: T,
        *,
        limited: bool = True,
        coalesce: Hashable | None = None,
        urgent: bool = False,
    ) -> bool:
        """As Queues.push; raises QueueFull."""
        with self._lock:
            taken = self._queues.push(key, item, limited=limited, coalesce=coalesce, urgent=urgent)
            self._rouse()
        return taken

    def wake(self, key: str) -> bool:
        """As Queues.wake."""
        with self._lock:
            woken = self._queues.wake(key)
            self._rouse()
        return woken

    def unblock(self, key: str) -> bool:
        """As Queues.unblock: the key of a written-off step may be leased again."""
        with self._lock:
            unblocked = self._queues.unblock(key)
            self._rouse()
        return unblocked

    def withdraw(self, key: str, match: Callable[[T], bool]) -> list[T]:
        """As Queues.withdraw. `match` runs under the lock: it may look at the item, no more."""
        with self._lock:
            return self._queues.withdraw(key, match)

    def head(self, key: str) -> T | None:
        """As Queues.head."""
        with self._lock:
            return self._queues.head(key)

    def depth(self, key: str) -> int:
        """As Queues.depth."""
        with self._lock:
            return self._queues.depth(key)

    def snapshot(self, key: str) -> Snapshot[T] | None:
        """As Queues.snapshot."""
        with self._lock:
            return self._queues.snapshot(key)

    def snapshots(self) -> list[Snapshot[T]]:
        """What every key that has items is doing."""
        with self._lock:
            return list(self._queues)

    # -- for steps ---------------------------------------------------------------------------

    def deadline(self, lease: Lease[T], until: float | None) -> bool:
        """Declare when the call that this step is about to make is overdue; None: no call.

        False if the lease is void because the step was written off: then make no call.
        """
        with self._lock:
            holder = self._running.get(lease.generation)
            if holder is None or holder.written_off:
                return False
            holder.deadline = until
            holder.overdue_since = None
            if until is not None:
                self._set_alarm(until)
        return True

    def hasten(self, lease: Lease[T], until: float) -> bool:
        """From any thread: let the call that the step has declared be overdue at `until` already.

        False if the step makes none now.
        """
        with self._lock:
            holder = self._running.get(lease.generation)
            if holder is None or holder.written_off or holder.deadline is None:
                return False
            if holder.overdue_since is None and until < holder.deadline:
                holder.deadline = until
                self._set_alarm(until)
        return True

    def recheck(self) -> None:
        """Have the supervisor look at the clock again, and show that it lives."""
        with self._lock:
            self._set_alarm(-inf)

    # -- the pool ----------------------------------------------------------------------------

    def set_size(self, size: int) -> None:
        """Change the number of workers; ValueError below 1.

        Growing helps at once. Of workers too many the idle ones leave at once and busy ones at
        the end of their step.
        """
        if size < 1:
            raise ValueError(f"a pool has at least one worker, not {size}")
        with self._lock:
            if not self._stopping:
                self._workers.size = size
            self._rouse()
        self._hire(self._workers)

    def stop(self, timeout: float) -> bool:
        """Lease nothing more and wait up to `timeout` seconds; True if no step runs any more.

        Stuck calls are still broken meanwhile. All threads are daemons: none outlives the process.
        """
        with self._lock:
            self._stopping = True
            self._workers.size = self._lane.size = 0
            self._rouse()
            quiet = self._quiet.wait_for(lambda: not self._running, timeout)
            self._closed = True
            self._set_alarm(-inf)
        self._kills.close()
        self._reports.close()
        return quiet

    @property
    def size(self) -> int:
        """Workers that there are to be."""
        return self._workers.size

    @property
    def busy(self) -> int:
        """Workers that are taking a step, those written off not counted."""
        with self._lock:
            ours = (h for h in self._running.values() if h.crew is self._workers)
            return sum(not holder.written_off for holder in ours)

    @property
    def idle(self) -> int:
        """Workers that have nothing to do."""
        with self._lock:
            return self._workers.idle

    @property
    def written_off(self) -> int:
        """Steps that were given up and have not returned."""
        with self._lock:
            return sum(holder.written_off for holder in self._running.values())

    @property
    def parked(self) -> int:
        """Keys that wait without a worker."""
        return self._queues.parked

    @property
    def queued(self) -> int:
        """Items that have not begun."""
        return self._queues.waiting

    def running(self) -> list[Running[T]]:
        """Every step in progress, the oldest first."""
        with self._lock:
            return [_running(holder) for holder in self._running.values()]

    def holder(self, key: str) -> Running[T] | None:
        """The step in progress for `key`, or one written off that has not returned."""
        ours = [running for running in self.running() if running.key == key]
        return min(ours, key=lambda running: running.written_off, default=None)

    # -- the threads of a crew ---------------------------------------------------------------

    def _crew(self, name: str, size: int, *, urgent_only: bool) -> Crew:
        return Crew(name, threading.Condition(self._lock), size, urgent_only)

    def _hire(self, crew: Crew) -> None:
        """Start what is missing of the crew."""
        while True:
            with self._lock:
                if crew.hired >= crew.size:
                    return
                crew.hired += 1
                name = f"{crew.name}-{next(crew.numbers)}"
            try:
                start(name, self._serve, crew, name)
            except RuntimeError:  # the limit of threads: go on with those that there are
                log.exception("thread_refused", thread=name)
                with self._lock:
                    crew.hired -= 1
                return

    def _serve(self, crew: Crew, name: str) -> None:
        with self._lock:
            holder = self._take(crew, name)
        while holder is not None:
            # Else, where CPUs are scarce, it takes the interpreter's lock back before any thread
            # that waits for it has a CPU: the event loop would wait 5 ms, and several times.
            os.sched_yield()
            holder = self._turn(holder, self._outcome(holder.lease))

    def _outcome(self, lease: Lease[T]) -> Outcome | BaseException:
        # BaseException: whatever a step throws, its queue must not be lost with the thread.
        try:
            return self._step(lease)
        except BaseException as exc:
            log.exception("step_crashed", key=lease.key)
            return exc

    def _turn(self, holder: Holder[T], outcome: Outcome | BaseException) -> Holder[T] | None:
        """Give back what was held and take the next, in one locked section."""
        lease = holder.lease
        if isinstance(outcome, BaseException):
            self._crashed(holder, outcome)
            outcome = Ended()
        with self._lock:
            del self._running[lease.generation]
            if self._stopping and not self._running:
                self._quiet.notify_all()
            if self._queues.release(lease, outcome, self._clock()):
                holder.back()
                if isinstance(outcome, Parked) and outcome.deadline is not None:
                    self._set_alarm(outcome.deadline)
                return self._take(holder.crew, holder.thread)
        self._returned(holder)
        return None

    def _crashed(self, holder: Holder[T], exc: BaseException) -> None:
        with self._lock:
            holder.deadline = None  # its call is over: the callback is not to be written off
            void = holder.written_off
        # Before the release: the task is failed before the next operation can begin.
        if not void:
            tell(self._on_crashed, holder.lease, exc)

    def _returned(self, holder: Holder[T]) -> None:
        if holder.reported is not None:
            holder.reported.wait()  # the owner hears of the loss before it hears of the return
        log.warning("written_off_step_returned", key=holder.lease.key, thread=holder.thread)
        tell(self._on_returned, holder.lease)

    def _take(self, crew: Crew, name: str) -> Holder[T] | None:
        """Wait for a lease (locked); None when this thread is to leave."""
        while crew.hired <= crew.size:
            lease = self._queues.lease(self._clock(), urgent_only=crew.urgent_only)
            self._rouse()
            if lease is not None:
                holder = Holder(lease, crew, name)
                self._running[lease.generation] = holder
                return holder
            crew.sleeping += 1
            crew.bell.wait()
            crew.waking -= 1
        crew.hired -= 1
        # What this thread gave back just now may be urgent, and the lane asleep.
        self._rouse()
        return None

    def _rouse(self) -> None:
        """Ring for as many sleepers as there are keys to lease and threads to leave (locked).

        Holds after each call, for each crew: all are awake, or as many are on their way as there
        is to do. A thread on its way that comes too late sleeps again, and one that leaves calls
        this; so no key stays ready beside a sleeper, and no key wakes two.
        """
        for crew in (self._workers, self._lane):
            if crew.sleeping:
                ready = self._queues.ready_urgent if crew.urgent_only else self._queues.ready
                wanted = ready + max(0, crew.hired - crew.size) - crew.waking
                if wanted > 0:
                    self._ring(crew, min(wanted, crew.sleeping))

    @staticmethod
    def _ring(crew: Crew, sleepers: int) -> None:
        crew.sleeping -= sleepers
        crew.waking += sleepers
        crew.bell.notify(sleepers)

    # -- the supervisor ----------------------------------------------------------------------

    def _set_alarm(self, until: float) -> None:
        """Wake the supervisor if it would sleep past `until` (locked)."""
        if until < self._alarm:
            self._alarm = until
            self._due.notify()

    def _supervise(self) -> None:
        while True:
            with self._lock:
                if self._closed:
                    return
                self.pulse.answer()
                now = self._clock()
                overdue, lost = self._survey(now)
                if not overdue and not lost:
                    self._sleep(now)
                    continue
            for holder in overdue:
                self._kills.send(partial(self._break_call, holder, now))
            for holder in lost:
                self._reports.send(partial(self._report_loss, holder))
            self._hire(self._workers)
            self._hire(self._lane)

    def _survey(self, now: float) -> tuple[list[Holder[T]], list[Holder[T]]]:
        """Wake what was parked until now; the calls newly overdue, and those given up (locked)."""
        if self._queues.expire(now):
            self._rouse()
        due = [h for h in self._running.values() if h.due(self._grace) <= now]
        overdue = [h for h in due if h.overdue_since is None]
        lost = [h for h in due if h.overdue_since is not None]
        for holder in overdue:
            holder.overdue_since = now
            holder.replace()
        for holder in lost:
            self._write_off(holder)
        return overdue, lost

    def _write_off(self, holder: Holder[T]) -> None:
        self._queues.revoke(holder.lease)
        holder.written_off = True
        holder.reported = threading.Event()

    def _sleep(self, now: float) -> None:
        running = (holder.due(self._grace) for holder in self._running.values())
        parked = self._queues.next_deadline()
        self._alarm = min(chain(running, (inf if parked is None else parked,)), default=inf)
        asleep = self._alarm - now
        self._due.wait(None if asleep == inf else min(asleep, threading.TIMEOUT_MAX))

    def _break_call(self, holder: Holder[T], overdue_since: float) -> None:
        with self._lock:
            # While this waited for a kill thread the step may have returned or gone on.
            over = holder.lease.generation not in self._running
            if over or holder.overdue_since != overdue_since:
                return
        log.warning("call_overdue", **_facts(holder))
        tell(self._on_overdue, holder.lease)

    def _report_loss(self, holder: Holder[T]) -> None:
        log.error("worker_written_off", **_facts(holder))
        tell(self._on_written_off, holder.lease)
        if holder.reported is not None:
            holder.reported.set()


def _running(holder: Holder[T]) -> Running[T]:
    lease = holder.lease
    return Running(
        key=lease.key,
        item=lease.item,
        thread=holder.thread,
        since=lease.since,
        deadline=holder.deadline,
        written_off=holder.written_off,
    )


def _facts(holder: Holder[T]) -> dict[str, object]:
    return {
        "key": holder.lease.key,
        "thread": holder.thread,
        "since": holder.lease.since,
        "deadline": holder.deadline,
    }
