"""Limits: queues that are full, pools that are resized, tasks that age."""

import threading
from functools import partial

import pytest
from rigs.daemon import eventually
from rigs.lab import raises

from idl.errors import Cancelled, DoesNotExist, TooManyRequests
from idl.task import Completed


def test_a_queue_has_a_limit(lab):
    id, other = lab.vm(), lab.vm()
    tasks = []

    def fill():
        while True:
            tasks.append(lab.client.vm.delay(id, 3600))

    error = raises(TooManyRequests, fill)
    assert error.limit == 256
    assert error.queued == 256
    assert len(tasks) == 256
    assert lab.stat(id).state.queue_depth == 256
    raises(TooManyRequests, lambda: lab.client.vm.set(id, {"name": "x"}))
    lab.run(lab.client.vm.start(other))
    lab.client.task.cancel(tasks[-1])
    lab.failure(tasks[-1], Cancelled)
    lab.client.vm.delay(id, 3600)
    lab.run(lab.client.vm.shutdown(id))
    assert lab.stat(id).state.queue_depth == 0
    assert lab.sensible(id) == "halted"


def test_a_refused_call_makes_no_task(lab):
    id = lab.vm()
    for _ in range(256):
        lab.client.vm.delay(id, 3600)
    raises(TooManyRequests, lambda: lab.client.vm.start(id, task=f"{id}-task"))
    raises(DoesNotExist, lambda: lab.client.task.stat(f"{id}-task"))
    lab.run(lab.client.vm.shutdown(id))
    lab.run(lab.client.vm.start(id, task=f"{id}-task"))


def test_a_delay_holds_its_queue_and_no_worker(lab, pool_size):
    delayed = [lab.vm() for _ in range(pool_size + 2)]
    tasks = [lab.client.vm.delay(id, 3600) for id in delayed]
    behind = lab.client.vm.start(delayed[0])
    eventually(lambda: lab.client.host.get_worker_pool().parked >= len(delayed))
    assert lab.client.host.get_worker_pool().busy == 0
    other = lab.running()
    assert lab.sensible(other) == "running"
    assert not lab.client.task.stat(behind).ended
    for task in tasks:
        lab.client.task.cancel(task)
        lab.failure(task, Cancelled)
    lab.run(behind)


def test_growing_the_pool_helps_at_once(start):
    lab = start("workers = 1\n[deadlines]\nshort = 3000\n")
    stuck, other = lab.vm(), lab.vm()
    lab.trigger("hang", "vm_build", 1)
    hung = lab.client.vm.start(stuck)
    lab.began(hung, "vm_build")
    waiting = lab.client.vm.start(other)
    assert not lab.client.task.wait(waiting, timeout=0.2).ended
    lab.client.host.set_worker_pool_size(2)
    lab.run(waiting)
    lab.client.host.set_worker_pool_size(1)
    eventually(lambda: lab.client.host.get_worker_pool().size == 1)
    lab.client.task.cancel(hung)
    lab.failure(hung, Cancelled)
    eventually(lambda: lab.client.host.get_worker_pool().idle == 1)
    lab.run(lab.client.vm.shutdown(other))


@pytest.mark.parametrize("size", [1, 2, 64, 1024])
def test_the_pool_takes_its_size(start, size):
    lab = start("workers = 3\n")
    lab.client.host.set_worker_pool_size(size)

    def there():
        pool = lab.client.host.get_worker_pool()
        return pool.size == size and pool.idle == size and pool.busy == 0

    eventually(there)
    id = lab.running()
    assert lab.sensible(id) == "running"


def test_the_pool_is_resized_under_load(start):
    lab = start("workers = 4\n")
    ids = [lab.vm(disks=1, nics=1) for _ in range(30)]
    lab.trigger("set-latency", "*", 0.001)
    stop = threading.Event()

    def resize():
        sizes = [1, 16, 2, 8, 1, 4]
        with lab.daemon.client() as client:
            for n in range(10**6):
                if stop.is_set():
                    return
                client.host.set_worker_pool_size(sizes[n % len(sizes)])

    thread = threading.Thread(target=resize)
    thread.start()
    try:
        vm = lab.client.vm
        stop_cleanly = partial(vm.shutdown, timeout=60)
        operations = (vm.start, vm.reboot, vm.suspend, vm.resume, stop_cleanly, vm.start)
        tasks = [operation(id) for operation in operations for id in ids]
        for task in tasks:
            assert isinstance(lab.end(task).state, Completed)
    finally:
        stop.set()
        thread.join(30)
    for id in ids:
        assert lab.sensible(id) == "running"
    lab.client.host.set_worker_pool_size(3)

    def settled():
        pool = lab.client.host.get_worker_pool()
        return (pool.size, pool.idle, pool.busy) == (3, 3, 0)

    eventually(settled)


def test_the_newest_ended_tasks_are_kept(start):
    lab = start("[tasks]\nkeep = 5\n")
    id = lab.vm(disks=0, nics=0)
    tasks = [lab.run(lab.client.vm.delay(id, 0)).id for _ in range(12)]
    assert [t.id for t in lab.client.task.list()] == tasks[-5:]
    for old in tasks[:-5]:
        raises(DoesNotExist, lambda task=old: lab.client.task.stat(task))
    named = [u.id for u in lab.client.updates.get().updates if u.type == "task"]
    assert sorted(named) == sorted(tasks[-5:])
    lab.restart()
    assert [t.id for t in lab.client.task.list()] == tasks[-5:]


def test_many_vms_are_started_and_shut_down_over_one_socket(lab):
    ids = [lab.vm(disks=1, nics=1) for _ in range(100)]
    for operation, state in (("start", "running"), ("shutdown", "halted")):
        tasks = [getattr(lab.client.vm, operation)(id) for id in ids]
        for task in tasks:
            lab.run(task)
        for id in ids:
            assert lab.power_state(id) == state
    for id in ids[:5]:
        assert lab.sensible(id) == "halted"
