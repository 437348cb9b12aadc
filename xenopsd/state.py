"""The daemon's state beside its VMs: who it is, and what it counts."""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from idl.host import ForeignDomain, HostStat, Quarantined
from idl.vm import VmMetrics
from xenopsd.execution import Execution
from xenopsd.executor import Executor
from xenopsd.intake import Intake
from xenopsd.memory import Memory
from xenopsd.metrics import Metrics
from xenopsd.workers import WorkerPool


class State:
    """Written by the event loop alone, where not said otherwise."""

    def __init__(  # everything that is known at the start
        self,
        *,
        instance: str,
        epoch: str,
        version: str,
        versions: dict[str, str],
        places: dict[str, str],
        backend_name: str,
        features: frozenset[str],
        host: HostStat,
        executor: Executor,
        pool: WorkerPool[Execution],
        intake: Intake,
        memory: Memory,
        metrics: Metrics,
        resize: Callable[[int], Any],
        debug: Callable[[str, Sequence[str]], Any],
    ) -> None:
        self.instance = instance
        self.epoch = epoch
        self.version = version
        self.versions = versions
        self.places = places
        self.backend_name = backend_name
        self.features = features
        self.host = host
        self.executor = executor
        self.pool = pool
        self.intake = intake
        self.memory = memory
        self.metrics = metrics
        self.resize = resize
        self.debug = debug
        self.console_data: str | None = None
        self.foreign: list[ForeignDomain] = []
        self.quarantined: list[Quarantined] = []
        self.vm_metrics: dict[str, VmMetrics] = {}
        #: VMs whose repair has not ended; a worker writes it under `ended`.
        self.recovering = 0
        #: Operations accepted and not ended.
        self.executions: set[Execution] = set()
        self._tasks: dict[str, Execution] = {}
        self._numbers = count(1)
        self._triggers: dict[str, int] = {}

    @property
    def accepted(self) -> int:
        """Operations accepted and not ended."""
        return len(self.executions)

    def next_task(self) -> int:
        """A number for a task of this epoch."""
        return next(self._numbers)

    def accept(self, execution: Execution) -> None:
        """An operation is accepted."""
        self.executions.add(execution)
        if execution.task is not None:
            self._tasks[execution.task.id] = execution

    def ended(self, execution: Execution, task: str | None) -> None:
        """An operation has ended; from any thread."""
        self.executions.discard(execution)
        if task is not None:
            self._tasks.pop(task, None)

    def execution_of(self, task: str) -> Execution | None:
        """The operation of a task that has not ended."""
        return self._tasks.get(task)

    def set_cancel_trigger(self, debug_info: str, n: int) -> None:
        """The next task with that debug_info is cancelled at its n-th cancel point."""
        self._triggers[debug_info] = n

    def cancel_trigger(self, debug_info: str) -> int | None:
        """The trigger that a new task sets off, once."""
        return self._triggers.pop(debug_info, None)
