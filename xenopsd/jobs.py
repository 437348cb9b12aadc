"""Jobs: micro-ops that may take minutes, each in a thread of its own, so many at a time."""

import threading
from collections.abc import Callable

from idl.ids import VmId
from xenopsd.context import Context
from xenopsd.errands import start
from xenopsd.execution import Job


class Jobs:
    """Starts jobs under the limit, and wakes the queues that wait for them."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._slots = threading.BoundedSemaphore(context.job_limit)
        #: Of those that wait for a job of another instance, which may wait for one of this.
        self._abroad = threading.BoundedSemaphore(context.job_limit)
        self._waiting: list[VmId] = []

    def start(
        self, vm: VmId, deadline: float, work: Callable[[], object], *, abroad: bool = False
    ) -> Job | None:
        """A job doing `work`, that wakes the VM's queue at its end; None, and a wake once there
        is room, where too many run; with `abroad` it waits for a job of another instance.
        RuntimeError at the system's limit of threads."""
        slots = self._abroad if abroad else self._slots
        if not slots.acquire(blocking=False):
            self._waiting.append(vm)
            return None
        job = Job(deadline)
        try:
            start(f"job-{vm}", job.run, work, lambda: self._over(vm, slots))
        except RuntimeError:
            slots.release()
            raise
        return job

    def _over(self, vm: VmId, slots: threading.BoundedSemaphore) -> None:
        slots.release()
        waiting, self._waiting = self._waiting, []
        for id in (vm, *waiting):
            self.context.pool.wake(id)
