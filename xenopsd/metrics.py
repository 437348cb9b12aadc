"""What the daemon counts, as Prometheus reads it.

What another part knows anyway is asked for when somebody reads the metrics (`Sources`); what
only happens is counted here. Counting is a few plain additions under one lock, since a micro-op
has 200 microseconds in all and prometheus_client's own observe takes several of them.

No metric is labelled by VM: their number is bounded whatever the host runs.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from threading import Lock
from typing import Literal, TypeAlias

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Ending: TypeAlias = Literal["completed", "failed", "cancelled", "interrupted"]
ENDINGS: tuple[Ending, ...] = ("completed", "failed", "cancelled", "interrupted")

#: Seconds, from an overhead alone to the deadline of a short micro-op.
BOUNDS = tuple(
    ms / 1000
    for ms in (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000)
)
LABELS = [*map(floatToGoString, BOUNDS), "+Inf"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What is read at each scrape: on the event loop, so none of them may wait."""

    queue_depth: Callable[[], int]
    vms: Callable[[], Mapping[str, int]]  # by power state
    workers: Callable[[], Mapping[str, int]]  # by state: busy, idle, parked, ...
    updates: Callable[[], int]  # announced so far
    update_waiters: Callable[[], int]
    open_intents: Callable[[], int]
    quarantined: Callable[[], int]
    connections: Callable[[], int]


@dataclass(slots=True)
class _Durations:
    """The durations of one micro-op: how many in each bucket, and their sum."""

    total: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * len(LABELS))

    def cumulative(self) -> list[tuple[str, float]]:
        return list(zip(LABELS, map(float, accumulate(self.buckets)), strict=True))


class Metrics(Collector):
    """The metrics of one daemon. Counting is safe from any thread."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._lock = Lock()
        self._micro_ops: dict[str, _Durations] = {}
        # Those that are known beforehand show from the start, so that a rate has a beginning.
        self._tasks: Counter[str] = Counter(dict.fromkeys(ENDINGS, 0))
        self._requests: Counter[str] = Counter()
        self._appends = 0
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def micro_op_ended(self, name: str, seconds: float) -> None:
        """A micro-op took that long, whatever came of it."""
        bucket = bisect_left(BOUNDS, seconds)
        with self._lock:
            durations = self._micro_ops.get(name)
            if durations is None:
                durations = self._micro_ops[name] = _Durations()
            durations.buckets[bucket] += 1
            durations.total += seconds

    def task_ended(self, ending: Ending) -> None:
        """A task has ended; `interrupted` is one that a restart cut."""
        with self._lock:
            self._tasks[ending] += 1

    def request_came(self, socket: str) -> None:
        """A request came in on a socket."""
        with self._lock:
            self._requests[socket] += 1

    def journal_appended(self, count: int = 1) -> None:
        """Lines were appended to a journal."""
        with self._lock:
            self._appends += count

    def render(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """For prometheus_client alone."""
        yield from self._gauges()
        yield from self._counters()
        yield self._histogram()

    def _gauges(self) -> Iterator[Metric]:
        ask = self._sources
        yield _by("xenopsd_vms", "VMs by power state.", "power_state", ask.vms())
        yield _by("xenopsd_workers", "Workers by what they do.", "state", ask.workers())
        for name, help, value in (
            ("queue_depth", "Operations on all queues.", ask.queue_depth()),
            ("update_waiters", "Long polls and subscriptions that wait.", ask.update_waiters()),
            ("journal_open_intents", "Intents without an outcome.", ask.open_intents()),
            ("quarantined_records", "Records that could not be read.", ask.quarantined()),
            ("connections", "Open connections of clients.", ask.connections()),
        ):
            yield GaugeMetricFamily(f"xenopsd_{name}", help, value=value)

    def _counters(self) -> Iterator[Metric]:
        with self._lock:
            tasks, requests, appends = dict(self._tasks), dict(self._requests), self._appends
        yield _count("xenopsd_tasks", "Tasks that ended, by how.", "outcome", tasks)
        yield _count("xenopsd_requests", "Requests by socket.", "socket", requests)
        help = "Lines appended to journals."
        yield CounterMetricFamily("xenopsd_journal_appends", help, value=appends)
        help = "Changes and barriers announced."
        yield CounterMetricFamily("xenopsd_updates", help, value=self._sources.updates())

    def _histogram(self) -> Metric:
        help = "Duration of micro-ops."
        family = HistogramMetricFamily("xenopsd_micro_op_seconds", help, labels=["micro_op"])
        with self._lock:
            for name, durations in self._micro_ops.items():
                family.add_metric([name], durations.cumulative(), durations.total)
        return family


def _by(name: str, help: str, label: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, help, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def _count(name: str, help: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, help, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family
