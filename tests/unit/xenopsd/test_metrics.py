import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from xenopsd.metrics import Metrics, Sources

LONG = 60.0


def sources(**changes):
    known = {
        "queue_depth": lambda: 3,
        "vms": lambda: {"running": 2, "halted": 1},
        "workers": lambda: {"busy": 1, "idle": 3, "parked": 5},
        "updates": lambda: 40,
        "update_waiters": lambda: 7,
        "open_intents": lambda: 4,
        "quarantined": lambda: 6,
        "connections": lambda: 8,
    }
    return Sources(**known | changes)


def samples(metrics):
    """{(name, the values of its labels): value}, as a scraper reads them."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, *s.labels.values()): s.value for f in families for s in f.samples}


@pytest.mark.parametrize(
    ("sample", "value"),
    [
        (("xenopsd_queue_depth",), 3),
        (("xenopsd_vms", "running"), 2),
        (("xenopsd_vms", "halted"), 1),
        (("xenopsd_workers", "parked"), 5),
        (("xenopsd_updates_total",), 40),
        (("xenopsd_update_waiters",), 7),
        (("xenopsd_journal_open_intents",), 4),
        (("xenopsd_quarantined_records",), 6),
        (("xenopsd_connections",), 8),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_others_know_is_asked_for(sample, value):
    assert samples(Metrics(sources()))[sample] == value


def test_a_source_is_asked_at_every_scrape():
    depth = iter([1, 2])
    metrics = Metrics(sources(queue_depth=lambda: next(depth)))
    assert [samples(metrics)["xenopsd_queue_depth",] for _ in range(2)] == [1, 2]


def test_what_happens_is_counted():
    metrics = Metrics(sources())
    for ending in ("completed", "failed", "completed"):
        metrics.task_ended(ending)
    metrics.request_came("default.sock")
    metrics.journal_appended()
    metrics.journal_appended(4)
    seen = samples(metrics)
    assert seen["xenopsd_tasks_total", "completed"] == 2
    assert seen["xenopsd_tasks_total", "failed"] == 1
    assert seen["xenopsd_tasks_total", "interrupted"] == 0
    assert seen["xenopsd_requests_total", "default.sock"] == 1
    assert seen["xenopsd_journal_appends_total",] == 5


def test_durations_fall_into_cumulative_buckets():
    metrics = Metrics(sources())
    for seconds in (0.0001, 0.00011, 3.0, 100.0):
        metrics.micro_op_ended("vbd_plug", seconds)
    metrics.micro_op_ended("vm_create", 0.0)
    seen = samples(metrics)
    name = "xenopsd_micro_op_seconds"
    bounds = ["0.0001", "0.00025", "2.5", "5.0", "10.0", "+Inf"]
    # The bound itself belongs to its bucket.
    assert [seen[f"{name}_bucket", at, "vbd_plug"] for at in bounds] == [1, 2, 2, 3, 3, 4]
    assert seen[f"{name}_count", "vbd_plug"] == 4
    assert seen[f"{name}_sum", "vbd_plug"] == pytest.approx(103.00021)
    assert seen[f"{name}_count", "vm_create"] == 1


def test_counts_by_several_threads_are_all_there():
    metrics = Metrics(sources())

    def count():
        for _ in range(2000):
            metrics.micro_op_ended("vif_plug", 0.001)
            metrics.task_ended("completed")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    seen = samples(metrics)
    assert seen["xenopsd_micro_op_seconds_count", "vif_plug"] == 8000
    assert seen["xenopsd_tasks_total", "completed"] == 8000


def test_the_process_is_measured_too():
    assert samples(Metrics(sources()))["process_open_fds",] > 0


def test_two_daemons_in_one_process_count_apart():
    one, other = Metrics(sources()), Metrics(sources())
    one.task_ended("failed")
    assert samples(other)["xenopsd_tasks_total", "failed"] == 0
