"""Tasks: what becomes of an operation, told while it runs and after; failures half-way."""

import json
import socket
import threading
import time

import pytest
from rigs.daemon import eventually
from rigs.lab import Lab, plain, raises
from rigs.scenarios import NAMES, SCENARIOS, ended_in, usable

from backends.simulator.debug import MICRO_OPS
from idl.errors import (
    BadPowerState,
    Cancelled,
    DoesNotExist,
    HypervisorError,
    InvalidParameter,
    TaskIsRunning,
)
from idl.task import Completed, Failed, Pending


def held(lab, id):
    """A task that runs until it is cancelled."""
    task = lab.client.vm.delay(id, 3600)
    lab.began(task)
    return task


def let_go(lab, task):
    lab.client.task.cancel(task)
    lab.failure(task, Cancelled)


# What a task shows


def test_a_task_shows_what_it_is(lab):
    id = lab.vm(disks=0, nics=0)
    before = time.time()
    task = lab.client.vm.start(id, debug_info="a tag")
    lab.run(task)
    found = lab.client.call("TASK.stat", id=task)
    assert set(found) == {
        "id", "vm", "operation", "debug_info", "created", "object", "state", "subtasks",
        "cancellable", "cancel_points_seen", "interrupted",
    }  # fmt: skip
    assert (found["id"], found["vm"], found["object"]) == (task, id, id)
    assert (found["operation"], found["debug_info"]) == ("VM.start", "a tag")
    assert before - 1 <= found["created"] <= time.time() + 1
    assert found["interrupted"] is False
    assert found["cancellable"] is False
    assert found["cancel_points_seen"] > 0
    assert found["state"]["type"] == "completed"
    assert found["state"]["result"] is None
    assert 0 <= found["state"]["duration"] < 60


def test_subtasks_are_in_order_with_objects_and_durations(lab):
    id = lab.vm(disks=1, nics=1)
    task = lab.run(lab.client.vm.start(id))
    assert [(s.name, s.object) for s in task.subtasks] == [
        ("vm_create", id),
        ("vm_build", id),
        ("vbd_plug", f"{id}/disk0"),
        ("vif_plug", f"{id}/nic0"),
        ("vm_create_device_model", id),
        ("vm_unpause", id),
    ]
    assert all(s.state == "completed" for s in task.subtasks)
    assert all(s.duration >= 0 for s in task.subtasks)
    assert sum(s.duration for s in task.subtasks) <= task.state.duration


def test_progress_is_monotone_and_below_one_until_success(lab):
    id = lab.vm(disks=4, nics=4)
    lab.trigger("set-latency", "*", 0.02)
    task = lab.client.vm.start(id)
    seen = [0.0]
    while not (found := lab.client.task.stat(task)).ended:
        seen.append(found.state.progress)
    assert isinstance(found.state, Completed)
    assert seen == sorted(seen)
    assert seen[-1] < 1
    assert len(set(seen)) > 5, "it moved step by step"


def test_a_task_that_is_queued_says_so(lab):
    id = lab.vm()
    first = held(lab, id)
    task = lab.client.vm.start(id)
    found = lab.client.task.stat(task)
    assert found.state == Pending(progress=0.0)
    assert found.subtasks == []
    assert found.cancellable
    let_go(lab, first)
    lab.run(task)


def test_tasks_are_listed(lab):
    id = lab.vm()
    running = held(lab, id)
    ended = lab.client.vm.pause(lab.vm())
    lab.failure(ended, BadPowerState)
    listed = {t.id: t for t in lab.client.task.list()}
    assert isinstance(listed[running].state, Pending)
    assert listed[ended] == lab.client.task.stat(ended)
    let_go(lab, running)


def test_task_ids_are_unique(lab):
    id = lab.vm(disks=0, nics=0)
    ids = [lab.client.vm.delay(id, 0) for _ in range(200)]
    assert len(set(ids)) == 200
    lab.run(ids[-1])
    assert all(lab.client.task.stat(t).ended for t in ids), "in the order of acceptance"


# Waiting


def test_wait_answers_at_once_for_a_task_that_has_ended(lab):
    task = lab.run(lab.client.vm.start(lab.vm())).id
    found = lab.client.task.wait(task, timeout=3600)
    assert found.ended


def test_wait_answers_when_its_time_is_over(lab):
    task = held(lab, lab.vm())
    for timeout in (0, 0.05):
        assert isinstance(lab.client.task.wait(task, timeout=timeout).state, Pending)
    let_go(lab, task)


def test_wait_answers_when_the_task_ends_to_all_who_wait(lab):
    task = held(lab, lab.vm())
    answers = []

    def wait():
        answers.append(lab.client.task.wait(task, timeout=60))

    threads = [threading.Thread(target=wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    let_go(lab, task)
    for thread in threads:
        thread.join(30)
    assert [a.ended for a in answers] == [True] * 5


# Unknown, destroyed, cancelled


@pytest.mark.parametrize("method", ["stat", "wait", "cancel", "destroy"])
@pytest.mark.parametrize("id", ["no-such-task", "", "a b\n", "x" * 100])
def test_an_unknown_task_does_not_exist(lab, method, id):
    error = raises(DoesNotExist, lambda: getattr(lab.client.task, method)(id))
    assert (error.kind, error.id) == ("task", id)


def test_an_ended_task_is_destroyed_and_gone(lab):
    task = lab.run(lab.client.vm.start(lab.vm())).id
    lab.client.task.destroy(task)
    raises(DoesNotExist, lambda: lab.client.task.stat(task))
    assert task not in [t.id for t in lab.client.task.list()]


@pytest.mark.parametrize("state", ["running", "queued"])
def test_a_task_that_has_not_ended_is_not_destroyed(lab, state):
    id = lab.vm()
    first = held(lab, id)
    task = first if state == "running" else lab.client.vm.start(id)
    error = raises(TaskIsRunning, lambda: lab.client.task.destroy(task))
    assert error.task == task
    assert not lab.client.task.stat(task).ended
    for each in dict.fromkeys((task, first)):
        let_go(lab, each)


def test_cancel_of_an_ended_task_changes_nothing(lab):
    id = lab.vm()
    task = lab.run(lab.client.vm.start(id))
    lab.client.task.cancel(task.id)
    assert lab.client.task.stat(task.id) == task
    assert lab.sensible(id) == "running"


# Ids chosen by the client


def test_the_same_call_again_answers_the_same_task_and_queues_nothing(lab):
    id = lab.vm()
    task = lab.new_id("task")
    for _ in range(3):
        assert lab.client.vm.start(id, task=task) == task
    found = lab.run(task)
    for _ in range(3):
        assert lab.client.vm.start(id, task=task) == task
    assert lab.client.task.stat(task) == found
    lab.run(lab.client.vm.shutdown(id))
    assert lab.client.vm.start(id, task=task) == task
    assert lab.sensible(id) == "halted"


def test_another_call_with_the_id_of_a_task_is_refused(lab):
    id, other = lab.vm(), lab.vm()
    task = lab.new_id("task")
    lab.run(lab.client.vm.start(id, task=task))
    vm = lab.client.vm
    for call in (
        lambda: vm.start(other, task=task),
        lambda: vm.start(id, paused=True, task=task),
        lambda: vm.shutdown(id, task=task),
    ):
        error = raises(InvalidParameter, call)
        assert error.name == "task"
        assert task in error.reason
    assert lab.sensible(id) == "running"
    assert lab.sensible(other) == "halted"


def test_the_id_of_a_destroyed_task_is_free_again(lab):
    id = lab.vm()
    task = lab.new_id("task")
    lab.run(lab.client.vm.start(id, task=task))
    lab.client.task.destroy(task)
    assert lab.client.vm.shutdown(id, task=task) == task
    lab.run(task)
    assert lab.sensible(id) == "halted"


def test_the_daemon_gives_no_id_that_a_client_has_taken(lab):
    id = lab.vm(disks=0, nics=0)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(lab.daemon.socket))
        stream = sock.makefile("rwb")

        def ask(method, **params):
            request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            stream.write(json.dumps(request).encode() + b"\n")
            stream.flush()
            return json.loads(stream.readline())["result"]

        # The client library chooses an id for every call; here the daemon does.
        epoch, number = ask("VM.delay", id=id, seconds=0).rsplit("-", 1)
        taken = [f"{epoch}-{int(number) + ahead}" for ahead in range(1, 20)]
        for task in taken:
            assert ask("VM.delay", id=id, seconds=0, task=task) == task
        given = [ask("VM.pause", id=id) for _ in taken]
        stream.close()
    assert not set(given) & set(taken)
    assert {lab.client.task.stat(t).operation for t in taken} == {"VM.delay"}


def test_a_call_that_is_refused_makes_no_task(lab):
    task = lab.new_id("task")
    raises(DoesNotExist, lambda: lab.client.vm.start("no-such-vm", task=task))
    raises(DoesNotExist, lambda: lab.client.task.stat(task))


def test_a_client_that_races_itself_gets_one_task(lab):
    id = lab.vm()
    task = lab.new_id("task")
    answers = []
    gate = threading.Barrier(8)

    def ask():
        gate.wait(30)
        answers.append(lab.client.vm.start(id, task=task))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [task] * 8
    lab.run(task)
    assert lab.sensible(id) == "running"


# Order


def test_operations_on_one_vm_are_carried_out_in_the_order_accepted(lab):
    id = lab.vm(disks=0, nics=0)
    vm = lab.client.vm
    tasks = []
    for _ in range(10):
        tasks += [vm.start(id), vm.pause(id), vm.unpause(id), vm.suspend(id), vm.resume(id)]
        tasks += [vm.reboot(id), vm.shutdown(id, timeout=30)]
    for task in tasks:
        lab.run(task)
    assert lab.sensible(id) == "halted"


def test_operations_on_many_vms_do_not_wait_for_each_other(lab):
    slow, quick = lab.vm(), lab.vm()
    task = held(lab, slow)
    lab.run(lab.client.vm.start(quick))
    let_go(lab, task)


# Failures half-way


def test_a_failure_is_undone_in_reverse(lab):
    id = lab.vm(disks=2, nics=1)
    lab.trigger("fail", "vm_create_device_model", 1)
    task = lab.end(lab.client.vm.start(id))
    assert isinstance(task.state, Failed)
    error = task.state.error
    assert error.code == 1021
    assert error.data["error"] == "HypervisorError"
    assert error.data["micro_op"] == "vm_create_device_model"
    assert {"call", "reason"} <= set(error.data)
    assert error.message.endswith(".")
    assert [(s.name, s.object, s.state) for s in task.subtasks] == [
        ("vm_create", id, "completed"),
        ("vm_build", id, "completed"),
        ("vbd_plug", f"{id}/disk0", "completed"),
        ("vbd_plug", f"{id}/disk1", "completed"),
        ("vif_plug", f"{id}/nic0", "completed"),
        ("vm_create_device_model", id, "failed"),
        ("vm_destroy_device_model", id, "completed"),
        ("vif_unplug", f"{id}/nic0", "completed"),
        ("vbd_unplug", f"{id}/disk1", "completed"),
        ("vbd_unplug", f"{id}/disk0", "completed"),
        ("vm_destroy", id, "completed"),
    ]
    assert lab.sensible(id) == "halted"


def learned(lab: Lab, scenario) -> list[str]:
    """The micro-ops of an operation that reach the backend."""
    id = scenario.vm(lab)
    task = lab.run(scenario.call(lab, id))
    assert ended_in(lab, scenario, id) == scenario.ends[0]
    lab.remove(id)
    return [name for name in dict.fromkeys(s.name for s in task.subtasks) if name in MICRO_OPS]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=NAMES)
def test_a_failure_at_any_micro_op_leaves_the_vm_sensible(lab, scenario):
    for name in learned(lab, scenario):
        id = scenario.vm(lab)
        lab.trigger("fail", name, 1)
        task = lab.end(scenario.call(lab, id))
        lab.disarm()
        if isinstance(task.state, Completed):
            # A domain that has stopped is not paused; what can only be finished is tried again.
            tried = [s.state for s in task.subtasks if s.name == name]
            assert name == "vm_pause" or tried[:2] == ["failed", "completed"], f"{name}: {task}"
            assert ended_in(lab, scenario, id) == scenario.ends[0]
            continue
        assert task.state.error.data["error"] == "HypervisorError"
        assert task.state.error.data["micro_op"] == name
        found = ended_in(lab, scenario, id)
        if found in ("running", "paused", "halted", "suspended"):
            usable(lab, id)
        lab.remove(id)


@pytest.mark.parametrize(
    "undone", ["vif_unplug", "vbd_unplug", "vm_destroy_device_model", "vm_pause"]
)
def test_what_cannot_be_undone_is_not_left_behind(lab, undone):
    id = lab.vm(disks=2, nics=2)
    lab.trigger("fail", "vm_unpause", 1)
    lab.trigger("fail", undone, 1000)
    error = lab.failure(lab.client.vm.start(id), HypervisorError)
    assert error.micro_op == "vm_unpause"
    assert lab.sensible(id) == "halted"


@pytest.mark.parametrize(
    "name", ["vm_pause", "vm_destroy_device_model", "vif_unplug", "vbd_unplug", "vm_destroy"]
)
def test_what_can_only_be_finished_is_left_out_in_the_end_and_told(lab, name):
    id = lab.running(disks=1, nics=1)
    lab.trigger("fail", name, 1000)
    error = lab.failure(lab.client.vm.shutdown(id), HypervisorError)
    assert error.micro_op == name
    if name == "vm_destroy":
        # What cannot be torn down needs attention until it is.
        state = lab.stat(id).state
        assert state.attention.reason
        assert state.attention.since <= time.time()
        assert state.power_state != "halted"
        lab.failure(lab.client.vm.start(id), HypervisorError)
        lab.disarm()
        lab.run(lab.client.vm.shutdown(id))
    lab.disarm()
    assert lab.sensible(id) == "halted"
    usable(lab, id)


def test_a_failed_removal_of_a_layer_is_told_and_can_be_repeated(lab):
    id = lab.vm()
    lab.trigger("fail", "vm_remove_layers", 1000)
    raises(HypervisorError, lambda: lab.client.vbd.remove(f"{id}/disk0"))
    lab.disarm()
    for left in lab.client.vbd.list(id):
        lab.client.vbd.remove(left.id)
    assert lab.client.vbd.list(id) == []
    assert lab.sensible(id) == "halted"


def test_a_task_that_failed_tells_why_for_ever_the_same(lab):
    id = lab.vm()
    task = lab.client.vm.pause(id)
    lab.failure(task, BadPowerState)
    first = plain(lab.client.task.stat(task))
    lab.run(lab.client.vm.start(id))
    assert plain(lab.client.task.stat(task)) == first
    assert plain(lab.client.task.wait(task)) == first
    eventually(lambda: task in [t.id for t in lab.client.task.list()])
