"""What every part of the executor works with."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from journal.store import Store
from journal.tasklog import TaskLog
from xenopsd.bridge import Bridge
from xenopsd.execution import Execution
from xenopsd.inventory import Inventory
from xenopsd.killpoints import KillPoints
from xenopsd.memory import Memory
from xenopsd.metrics import Metrics
from xenopsd.perform import Performer
from xenopsd.plan.plan import Limits
from xenopsd.tasks import Tasks
from xenopsd.updates import Updates
from xenopsd.workers import WorkerPool


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds."""

    short: float = 10.0
    job: float = 1200.0
    hook: float = 60.0
    hotplug: float = 30.0
    kill: float = 30.0
    grace: float = 2.0
    hurry: float = 1.0
    cancel: float = 20.0


@dataclass(slots=True)
class Context:
    """Shared by the parts of the executor. `opened` is there once the backend is open, `workers`
    once the pool is built; nothing is carried out before."""

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
    opened: Performer | None = None
    workers: WorkerPool[Execution] | None = None

    @property
    def performer(self) -> Performer:
        """Carries micro-ops out; asked for only once the backend is open."""
        assert self.opened is not None
        return self.opened

    @property
    def pool(self) -> WorkerPool[Execution]:
        """The workers; asked for only once they are there."""
        assert self.workers is not None
        return self.workers
