"""Calls that hang, and the hard shutdown that always wins."""

import threading
import time

import pytest
from rigs.daemon import eventually
from rigs.lab import raises
from rigs.scenarios import usable

from idl.errors import Cancelled, DeadlineExceeded
from idl.task import Completed, Failed

#: Deadlines so short that a test can wait for them.
HASTY = """
[deadlines]
short = 0.5
stuck_grace = 0.3
kill = 1.0
job = 1.0
"""

#: No deadline ends a hang here.
PATIENT = "[deadlines]\nshort = 3000\n"


def at_strength(lab):
    """All workers are there, and none is held."""
    pool = lab.client.host.get_worker_pool()
    return pool.idle == pool.size and pool.busy == 0


def hung(lab, *micro_op_and_more, id=None):
    """A VM whose start hangs in vm_build, and its task."""
    id = id or lab.vm()
    lab.trigger("hang", "vm_build", 1, *micro_op_and_more)
    task = lab.client.vm.start(id)
    lab.began(task, "vm_build")
    return id, task


# Past its deadline


@pytest.mark.parametrize("micro_op", ["vm_create", "vm_build", "vbd_plug", "vm_unpause"])
def test_a_call_past_its_deadline_is_broken_off_and_undone(shared, micro_op):
    lab = shared(HASTY)
    id = lab.vm()
    lab.trigger("hang", micro_op, 1)
    error = lab.failure(lab.client.vm.start(id), DeadlineExceeded)
    assert micro_op in error.what
    assert error.seconds == 0.5
    assert error.micro_op == micro_op
    assert lab.sensible(id) == "halted"
    eventually(lambda: at_strength(lab))
    usable(lab, id)


def test_a_job_past_its_deadline_is_broken_off_and_undone(shared):
    lab = shared(HASTY)
    id = lab.running()
    lab.trigger("hang", "vm_save", 1)
    error = lab.failure(lab.client.vm.suspend(id), DeadlineExceeded)
    assert error.seconds == 1.0
    assert lab.sensible(id) == "running"


# Past its deadline, and deaf


def test_a_deaf_call_is_given_up_and_its_vm_admits_a_hard_shutdown_alone(shared, pool_size):
    lab = shared(HASTY)
    id, task = hung(lab, "deaf")
    error = lab.failure(task, DeadlineExceeded)
    assert error.micro_op == "vm_build"
    # The pool is at strength again, and others move.
    eventually(lambda: at_strength(lab))
    assert lab.client.host.get_worker_pool().size == pool_size
    other = lab.running()
    assert lab.sensible(other) == "running"
    # It is shown who is stuck, and how long.
    found = lab.client.host.get_diagnostics()
    assert found.workers["written_off"] == 1
    queue = next(q for q in found.queues if q.vm == id)
    assert queue.running.written_off
    assert queue.running.name == "vm_build"
    assert queue.running.holder
    assert queue.running.age > 0.5
    # Reads are answered, nothing else is taken.
    state = lab.stat(id).state
    assert state.attention is not None
    assert "vm_build" in state.attention.reason
    assert lab.client.vbd.list(id)
    vm = lab.client.vm
    for call in (
        lambda: vm.start(id),
        lambda: vm.reboot(id),
        lambda: vm.destroy(id),
        lambda: vm.shutdown(id, timeout=5),
        lambda: vm.delay(id, 0),
        lambda: lab.client.vbd.plug(f"{id}/disk0"),
        lambda: vm.set(id, {"name": "x"}),
        lambda: vm.remove(id),
    ):
        raises(DeadlineExceeded, call)
    # A hard shutdown is taken, and its task ends though the call never returns.
    shutdown = vm.shutdown(id)
    lab.failure(shutdown, DeadlineExceeded)
    state = lab.stat(id).state
    assert state.attention is not None
    assert state.power_state != "halted" or lab.domain(id) is None
    # The late effect is cleaned up.
    lab.trigger("undeaf")
    eventually(lambda: lab.stat(id).state.attention is None)
    assert lab.sensible(id) == "halted"
    assert lab.client.host.get_diagnostics().workers["written_off"] == 0
    eventually(lambda: at_strength(lab))
    usable(lab, id)


def test_a_hard_shutdown_behind_a_deaf_call_ends_when_that_returns(start):
    lab = start(HASTY.replace("kill = 1.0", "kill = 60"))
    id, task = hung(lab, "deaf")
    lab.failure(task, DeadlineExceeded)
    shutdown = lab.client.vm.shutdown(id)
    assert not lab.client.task.wait(shutdown, timeout=0.2).ended
    lab.trigger("undeaf")
    lab.run(shutdown)
    assert lab.sensible(id) == "halted"
    usable(lab, id)


def test_a_hard_shutdown_ends_before_a_call_that_never_returns_is_even_overdue(start):
    lab = start(HASTY.replace("short = 0.5", "short = 3000"))
    id, task = hung(lab, "deaf")
    shutdown = lab.client.vm.shutdown(id)
    lab.end(task)
    found = lab.end(shutdown)
    assert isinstance(found.state, Failed)
    assert found.state.error.data["error"] == "DeadlineExceeded"
    assert lab.stat(id).state.attention is not None
    lab.trigger("undeaf")
    eventually(lambda: lab.stat(id).state.attention is None)
    assert lab.sensible(id) == "halted"
    usable(lab, id)


DEAF = [
    ("halted", "start", "vm_create", {"halted"}),
    ("halted", "start", "vbd_plug", {"halted"}),
    ("halted", "start", "vif_plug", {"halted"}),
    ("halted", "start", "vm_create_device_model", {"halted"}),
    ("halted", "start", "vm_unpause", {"halted"}),
    ("running", "shutdown", "vm_pause", {"halted"}),
    ("running", "shutdown", "vm_destroy", {"halted"}),
    ("running", "reboot", "vbd_unplug", {"halted", "running"}),
    ("running", "pause", "vm_pause", {"running", "paused"}),
    ("running", "suspend", "vm_save", {"running"}),
    ("running", "suspend", "vm_destroy", {"suspended"}),
    ("suspended", "resume", "vm_restore", {"suspended"}),
    ("suspended", "resume", "vm_unpause", {"running"}),
]


@pytest.mark.parametrize(
    ("before", "operation", "micro_op", "ends"), DEAF, ids=[f"{o} {m}" for _, o, m, _ in DEAF]
)
def test_a_late_effect_is_cleaned_up(shared, before, operation, micro_op, ends):
    lab = shared(HASTY)
    id = lab.vm(disks=2, nics=2)
    if before != "halted":
        lab.run(lab.client.vm.start(id))
    if before == "suspended":
        lab.run(lab.client.vm.suspend(id))
    lab.trigger("hang", micro_op, 1, "deaf")
    task = getattr(lab.client.vm, operation)(id)
    error = lab.failure(task, DeadlineExceeded)
    assert error.micro_op == micro_op
    assert lab.stat(id).state.attention is not None
    eventually(lambda: at_strength(lab))
    lab.trigger("undeaf")
    eventually(lambda: lab.stat(id).state.attention is None)
    assert lab.sensible(id) in ends
    usable(lab, id)


@pytest.mark.parametrize("shut", [False, True], ids=["alone", "with a hard shutdown behind it"])
def test_a_restart_of_the_daemon_settles_what_was_stuck(start, shut):
    lab = start(HASTY.replace("kill = 1.0", "kill = 60"))
    id, task = hung(lab, "deaf")
    lab.failure(task, DeadlineExceeded)
    if shut:
        lab.client.vm.shutdown(id)
    lab.restart()
    assert lab.sensible(id) == "halted"
    assert isinstance(lab.client.task.stat(task).state, Failed)
    usable(lab, id)


def test_a_job_that_is_deaf_is_shown_with_its_thread(shared):
    lab = shared(HASTY)
    id = lab.running()
    lab.trigger("hang", "vm_save", 1, "deaf")
    task = lab.client.vm.suspend(id)
    lab.began(task, "vm_save")

    def running():
        queues = lab.client.host.get_diagnostics().queues
        return next(q for q in queues if q.vm == id).running

    def in_its_thread():
        # Before that it is the worker's that starts it.
        found = running()
        return found if found is not None and found.deadline is not None else None

    found = eventually(in_its_thread)
    assert (found.name, found.object, found.written_off) == ("vm_save", id, False)
    assert found.holder
    assert 0 < found.deadline <= 1.0
    lab.failure(task, DeadlineExceeded)
    found = running()
    assert (found.name, found.object, found.written_off) == ("vm_save", id, True)
    assert found.age >= 1.0
    lab.trigger("undeaf")
    eventually(lambda: lab.stat(id).state.attention is None)
    assert lab.sensible(id) == "running"


# As many hung as there are workers


def test_reads_and_hard_shutdowns_need_no_worker(start, pool_size):
    lab = start(PATIENT)
    healthy, halted = lab.running(), lab.vm()
    lab.trigger("hang", "vm_build", pool_size)
    stuck = [(id := lab.vm(), lab.client.vm.start(id)) for _ in range(pool_size)]
    for _, task in stuck:
        lab.began(task, "vm_build")
    assert lab.client.host.get_worker_pool().busy == pool_size
    waiting = lab.client.vm.start(halted)
    begin = time.monotonic()
    for id, _ in stuck:
        assert lab.stat(id).state.operation.micro_op == "vm_build"
    assert len(lab.client.vm.list()) == pool_size + 2
    lab.run(lab.client.vm.shutdown(healthy))
    assert time.monotonic() - begin < 10
    assert not lab.client.task.stat(waiting).ended, "there is no worker for it"
    assert lab.sensible(healthy) == "halted"
    for id, task in stuck:
        shutdown = lab.client.vm.shutdown(id)
        lab.failure(task, Cancelled)
        lab.run(shutdown)
        assert lab.sensible(id) == "halted"
    lab.run(waiting)
    assert time.monotonic() - begin < 60


# A hard shutdown always wins


def long_ones(lab, id):
    """Operations that take long, by what they wait for."""

    def ignored():
        lab.trigger("ignore-shutdown", id, "true")
        return lab.client.vm.shutdown(id, timeout=3600)

    def held():
        lab.trigger("hold-devices", id, "true")
        return lab.client.vbd.unplug(f"{id}/disk0")

    def hanging(micro_op, call):
        def begun():
            lab.trigger("hang", micro_op, 1)
            return call()

        return begun

    return {
        "a delay": lambda: lab.client.vm.delay(id, 3600),
        "a clean shutdown": ignored,
        "an unplug": held,
        "a hung pause": hanging("vm_pause", lambda: lab.client.vm.pause(id)),
        "a hung suspend": hanging("vm_save", lambda: lab.client.vm.suspend(id)),
        "a hung reboot": hanging("vm_create", lambda: lab.client.vm.reboot(id)),
    }


@pytest.mark.parametrize(
    "what",
    [
        "a delay", "a clean shutdown", "an unplug", "a hung pause", "a hung suspend",
        "a hung reboot",
    ],
)  # fmt: skip
def test_a_hard_shutdown_cancels_what_runs_and_what_is_queued(lab, what):
    id = lab.running(name="old", on_shutdown=["start"], on_crash=["start"])
    running = long_ones(lab, id)[what]()
    lab.began(running)
    queued = [lab.client.vm.start(id), lab.client.vm.reboot(id)]
    answers = []

    def set_name():
        answers.append(lab.client.vm.set(id, {"name": "new"}).name)

    waiting = threading.Thread(target=set_name)
    waiting.start()
    eventually(lambda: lab.stat(id).state.queue_depth == 4)
    queued.append(lab.client.vm.pause(id))
    begin = time.monotonic()
    shutdown = lab.client.vm.shutdown(id)
    after = lab.client.vm.start(id)
    for task in queued:
        assert lab.failure(task, Cancelled).task == task
    lab.failure(running, Cancelled)
    lab.run(shutdown)
    assert time.monotonic() - begin < 30
    waiting.join(30)
    assert answers == ["new"], "a queued call keeps its place"
    lab.run(after)
    assert lab.sensible(id) == "running", "what came after it is carried out"


def test_a_hard_shutdown_triggers_no_policy(lab):
    id = lab.running(on_shutdown=["start"], on_crash=["start"], on_reboot=["start"])
    lab.run(lab.client.vm.shutdown(id))
    assert lab.sensible(id) == "halted"
    assert lab.stat(id).state.reason == "shut down"


def test_a_second_hard_shutdown_does_not_cancel_the_first_and_succeeds(lab):
    id = lab.running()
    lab.trigger("set-latency", "vm_destroy", 0.3)
    first = lab.client.vm.shutdown(id)
    lab.began(first, "vm_destroy")
    second = lab.client.vm.shutdown(id)
    lab.run(second)
    assert isinstance(lab.client.task.stat(first).state, Completed | Failed)
    assert lab.sensible(id) == "halted"


def test_a_hard_shutdown_of_a_queue_at_its_limit_is_taken(lab):
    id = lab.running()
    tasks = [lab.client.vm.delay(id, 3600) for _ in range(256)]
    lab.run(lab.client.vm.shutdown(id))
    for task in tasks:
        lab.failure(task, Cancelled)
    assert lab.sensible(id) == "halted"


def test_a_hard_shutdown_is_not_cancelled_once_it_has_begun(lab):
    id = lab.running()
    lab.trigger("set-latency", "vm_destroy", 0.3)
    task = lab.client.vm.shutdown(id)
    lab.began(task, "vm_destroy")
    lab.client.task.cancel(task)
    lab.run(task)
    assert lab.sensible(id) == "halted"
