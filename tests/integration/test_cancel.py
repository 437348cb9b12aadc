"""Cancelling: what has not begun at once, what runs at its next cancel point, always sensibly."""

import time

import pytest
from rigs.daemon import eventually
from rigs.lab import raises
from rigs.scenarios import NAMES, SCENARIOS, SHELLS, ended_in, usable

from idl.errors import Cancelled, InvalidParameter
from idl.task import Completed


def cancelled(lab, task):
    """The task has ended, cancelled."""
    lab.client.task.cancel(task)
    error = lab.failure(task, Cancelled)
    assert error.task == task
    assert error.code == 1016


def test_a_queued_task_ends_at_once(lab):
    id = lab.vm()
    first = lab.client.vm.delay(id, 3600)
    lab.began(first)
    queued = [lab.client.vm.start(id), lab.client.vm.pause(id)]
    cancelled(lab, queued[0])
    assert lab.client.task.stat(queued[0]).subtasks == []
    state = lab.stat(id).state
    assert state.queue_depth == 2
    assert state.operation.task == first, "what runs is still shown"
    cancelled(lab, first)
    lab.end(queued[1])
    assert lab.sensible(id) == "halted"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=NAMES)
def test_a_task_is_cancelled_at_every_cancel_point(lab, scenario):
    id = scenario.vm(lab)
    task = lab.run(scenario.call(lab, id))
    points = task.cancel_points_seen
    assert points >= 1
    lab.remove(id)
    for n in range(1, points + 1):
        id = scenario.vm(lab)
        tag = f"{id}-{n}"
        lab.trigger("set-cancel-trigger", tag, n)
        task = scenario.call(lab, id, debug_info=tag)
        error = lab.failure(task, Cancelled)
        assert error.task == task
        found = ended_in(lab, scenario, id)
        # A guest that was asked to stop has perhaps done so.
        if scenario.ends[0] != scenario.before and not scenario.name.startswith("clean"):
            assert found != scenario.ends[0]
        if found not in SHELLS and n in (1, points):
            usable(lab, id)
        lab.remove(id)


def test_a_cancel_trigger_works_once_and_only_on_its_tag(lab):
    id = lab.vm()
    lab.trigger("set-cancel-trigger", f"{id}-tag", 1)
    lab.run(lab.client.vm.start(id, debug_info="another"))
    lab.failure(lab.client.vm.shutdown(id, debug_info=f"{id}-tag"), Cancelled)
    assert lab.sensible(id) == "running"
    lab.run(lab.client.vm.shutdown(id, debug_info=f"{id}-tag"))


@pytest.mark.parametrize("args", [[], ["a"], ["a", "0"], ["a", "x"], ["a", "1", "2"]])
def test_a_cancel_trigger_needs_a_tag_and_a_number(lab, args):
    raises(InvalidParameter, lambda: lab.client.debug.trigger("set-cancel-trigger", args))


# What waits


def test_a_delay_is_cancelled(lab):
    id = lab.vm()
    task = lab.client.vm.delay(id, 3600)
    lab.began(task)
    cancelled(lab, task)
    usable(lab, id)


@pytest.mark.parametrize("operation", ["shutdown", "reboot"])
def test_a_clean_shutdown_that_waits_for_its_guest_is_cancelled(lab, operation):
    id = lab.running()
    lab.trigger("ignore-shutdown", id, "true")
    incarnation = lab.stat(id).state.incarnation
    task = getattr(lab.client.vm, operation)(id, timeout=3600)
    lab.began(task)
    cancelled(lab, task)
    assert lab.sensible(id) == "running"
    assert lab.stat(id).state.incarnation == incarnation
    usable(lab, id)


def test_an_unplug_that_waits_for_its_guest_is_cancelled(lab):
    id = lab.running()
    lab.trigger("hold-devices", id, "true")
    task = lab.client.vbd.unplug(f"{id}/disk0")
    lab.began(task)
    cancelled(lab, task)
    assert lab.client.vbd.stat(f"{id}/disk0").state.plugged
    assert lab.sensible(id) == "running"


# What hangs

HANGS = [
    ("start", "vm_create"),
    ("start", "vm_build"),
    ("start", "vbd_plug"),
    ("start", "vif_plug"),
    ("start", "vm_create_device_model"),
    ("start", "vm_unpause"),
    ("pause", "vm_pause"),
    ("suspend", "vm_save"),
    ("resume", "vm_restore"),
    ("shutdown", "vm_request_shutdown"),
]


@pytest.mark.parametrize(("operation", "micro_op"), HANGS, ids=[m for _, m in HANGS])
def test_a_micro_op_that_hangs_is_cancelled_and_undone(lab, operation, micro_op):
    id = lab.vm()
    if operation != "start":
        lab.run(lab.client.vm.start(id))
    if operation == "resume":
        lab.run(lab.client.vm.suspend(id))
    before = lab.power_state(id)
    args = {"timeout": 60} if operation == "shutdown" else {}
    lab.trigger("hang", micro_op, 1)
    task = getattr(lab.client.vm, operation)(id, **args)
    lab.began(task, micro_op)
    begin = time.monotonic()
    cancelled(lab, task)
    assert time.monotonic() - begin < 30
    assert lab.sensible(id) == before
    usable(lab, id)


def test_a_slow_micro_op_is_cancelled_in_its_middle(lab):
    id = lab.vm()
    lab.trigger("set-latency", "vm_build", 9)
    task = lab.client.vm.start(id)
    lab.began(task, "vm_build")
    cancelled(lab, task)
    assert lab.sensible(id) == "halted"


def test_a_finishing_step_is_not_given_up_for_a_cancel(lab):
    id = lab.running()
    lab.trigger("set-latency", "vm_destroy", 0.3)
    task = lab.client.vm.shutdown(id)
    found = lab.began(task, "vm_destroy")
    assert not found.cancellable
    lab.client.task.cancel(task)
    assert isinstance(lab.end(task).state, Completed)
    assert lab.sensible(id) == "halted"


def test_a_cancel_is_heard_by_everything_that_moves(lab):
    """Cancels that come at any time, with nothing arranged."""
    id = lab.vm(disks=2, nics=2)
    lab.trigger("set-latency", "*", 0.002)
    vm = lab.client.vm
    for n in range(40):
        calls = [vm.start, vm.suspend, vm.resume, vm.reboot, vm.pause, vm.unpause, vm.shutdown]
        task = calls[n % len(calls)](id)
        eventually(lambda t=task, n=n: lab.client.task.stat(t).cancel_points_seen >= n % 5
                   or lab.client.task.stat(t).ended)  # fmt: skip
        lab.client.task.cancel(task)
        lab.end(task)
        lab.sensible(id)
    lab.disarm()
    usable(lab, id)
