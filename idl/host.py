"""HOST: the daemon and the machine it runs on."""

from typing import Any

from idl.wire import Bytes, Count, Fact, Timestamp

#: What a backend may say it can do (`HOST.query.features`).
FEATURES = frozenset(
    {
        "guest:hvm",
        "guest:pv",
        "guest:pvh",
        "guest:container",
        "suspend",
        "migrate",
        "vbd_hotplug",
        "vbd_force_unplug",
        "vif_hotplug",
        "pci",
        "vcpu_hotplug",
        "balloon",
        "console",
        "vnc",
        "guest_agent",
    }
)


class HostQuery(Fact, frozen=True, kw_only=True):
    """Who answers. `epoch` is new at each start of the daemon."""

    #: xenopsd
    name: str
    #: its version
    version: str
    #: its instance
    instance: str
    #: the backend in use
    backend: str
    #: new at each start of the daemon
    epoch: str
    #: what the backend can do
    features: list[str]
    #: repairs after a start are not over
    recovering: bool


class Hypervisor(Fact, frozen=True, kw_only=True):
    """The hypervisor underneath."""

    #: its name
    name: str
    #: its version
    version: str
    #: what it says it can do
    capabilities: list[str] = []


class HostStat(Fact, frozen=True, kw_only=True):
    """The machine; `facts` are the backend's own."""

    #: CPUs
    cpu_count: Count
    #: all memory for VMs
    memory_total: Bytes
    #: what is not reserved
    memory_free: Bytes
    #: what runs the VMs
    hypervisor: Hypervisor
    #: the host's kernel
    kernel: str
    #: the host's name
    hostname: str
    #: the backend's own
    facts: dict[str, Any] = {}


class ForeignDomain(Fact, frozen=True, kw_only=True):
    """A domain that is not this instance's."""

    #: for VM.adopt
    id: str
    #: as the hypervisor has it
    name: str
    #: why it is not this instance's
    why: str


class WorkerPool(Fact, frozen=True, kw_only=True):
    """The pool; `parked` are queues that wait without a worker, `queued` all operations."""

    #: workers that there should be
    size: Count
    #: workers with a micro-op
    busy: Count
    #: workers without one
    idle: Count
    #: queues that wait without a worker
    parked: Count
    #: operations on all queues
    queued: Count


class RunningMicroOp(Fact, frozen=True, kw_only=True):
    """A micro-op under way: who holds it, for how long, until when it may."""

    #: the micro-op
    name: str
    #: the VM or device that it is about
    object: str
    #: the thread that carries it out
    holder: str
    #: seconds since it began
    age: float
    #: seconds that are left; null: none
    deadline: float | None
    #: it was given up and has not returned
    written_off: bool = False


class QueuedOperation(Fact, frozen=True, kw_only=True):
    """An operation on a VM's queue."""

    #: the call, or what the daemon does by itself
    name: str
    #: its task; null without one
    task: str | None
    #: queued or running
    state: str
    #: steps that are left
    micro_ops: list[str] = []


class QueueDiagnostics(Fact, frozen=True, kw_only=True):
    """One VM's queue."""

    #: whose queue
    vm: str
    #: what the queue does
    state: str
    #: in order
    operations: list[QueuedOperation]
    #: the micro-op under way
    running: RunningMicroOp | None
    #: seconds until what it waits for is looked at again or given up; null: none
    deadline: float | None


class Quarantined(Fact, frozen=True, kw_only=True):
    """A record that could not be read and was set aside."""

    #: whose; null where that cannot be told
    vm: str | None
    #: the damaged file
    path: str
    #: what is wrong with it
    reason: str


class OpenIntent(Fact, frozen=True, kw_only=True):
    """An operation that the journal says has begun and not ended."""

    #: whose journal
    vm: str
    #: its task; null without one
    task: str | None
    #: what has begun
    operation: str
    #: forward, or back where it is being undone
    direction: str
    #: steps that are done
    done: int
    #: the step about to be done; null: none
    intended: str | None
    #: when it began
    since: Timestamp | None = None


class Diagnostics(Fact, frozen=True, kw_only=True):
    """Everything that explains why something does not move."""

    #: those that are not empty
    queues: list[QueueDiagnostics]
    #: the pool and its threads
    workers: dict[str, Any]
    #: how many there are
    tasks: dict[str, Any]
    #: the update log and who waits for it
    updates: dict[str, Any]
    #: operations that have begun and not ended
    journal: list[OpenIntent]
    #: records that cannot be read
    quarantined: list[Quarantined]
    #: of the daemon and what it is made of
    versions: dict[str, str]
    #: its directories: `state_dir` and `run_dir`
    places: dict[str, str] = {}
