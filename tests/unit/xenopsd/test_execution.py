"""An operation on its way: position, cancel points, and what wakes a call that blocks."""

import select
import threading
import time
from pathlib import Path

import pytest
from rigs.values import FRESH, OLD

from idl import calls
from idl.errors import Cancelled, DeadlineExceeded
from xenopsd import microop as m
from xenopsd.execution import BackendCall, Check, Execution, Job, Recover, Run
from xenopsd.plan.plan import Plan, Segment
from xenopsd.tasks import TaskEntry

LIMIT = 10.0
FDS = Path("/proc/self/fd")
PLAN = Plan(
    segments=[
        Segment(incarnation=OLD, steps=[m.VmPause(), m.VmSave(image="/i")]),
        Segment(incarnation=FRESH, steps=[m.VmDestroy()], finish=True),
    ]
)


def task(id="t"):
    return TaskEntry(
        id=id, vm="vm1", operation="VM.start", object="vm1", debug_info="", created=1.0, call=b"null"
    )


def running(done=0, direction="forward", held=None):
    execution = Execution(calls.VmStart(id="vm1"), "vm1", task=held or task())
    execution.run = Run(PLAN, direction=direction, done=done)
    return execution


def call(execution, *, deadline=LIMIT, told=None):
    return BackendCall(
        execution,
        "vm_pause",
        OLD,
        time.monotonic() + deadline,
        seconds=deadline,
        progress=(told if told is not None else []).append,
    )


# A plan being carried out


def test_a_run_goes_step_by_step_through_all_segments():
    run = Run(PLAN)
    seen = []
    while not run.over:
        seen.append((run.step[0], run.cancellable))
        run.attempts, run.begun_step, run.waiting_since, run.job = 3, True, 1.0, Job(0.0)
        run.next()
        assert (run.attempts, run.begun_step, run.waiting_since, run.job) == (0, False, None, None)
    assert seen == [(m.VmPause(), True), (m.VmSave(image="/i"), True), (m.VmDestroy(), False)]
    assert not run.cancellable


def test_what_is_undone_is_not_cancelled():
    assert not Run(PLAN, direction="back").cancellable


def test_a_save_weighs_more():
    assert Run(PLAN).weights == [1, 10, 1]


# What an operation is called, and what it is


@pytest.mark.parametrize(
    ("request_", "hard", "operation"),
    [
        (calls.VmShutdown(id="vm1"), True, True),
        (calls.VmShutdown(id="vm1", timeout=0), False, True),
        (calls.VmShutdown(id="vm1", timeout=5, force=True), False, True),
        (calls.VmStart(id="vm1"), False, True),
        (calls.VmSet(id="vm1", changes={}), False, False),
        (Check("vm1"), False, False),
        (Recover("vm1"), False, False),
    ],
    ids=["hard", "clean at once", "clean with force", "start", "set", "check", "repair"],
)
def test_only_a_shutdown_without_a_timeout_is_hard(request_, hard, operation):
    execution = Execution(request_, "vm1")
    assert (execution.is_hard_shutdown, execution.is_operation) == (hard, operation)


def test_a_repair_goes_by_the_name_of_what_was_cut():
    assert Execution(Recover("vm1"), "vm1", task=task()).name == "VM.start"
    assert Execution(Recover("vm1"), "vm1").name == "recover"


def test_the_present_micro_op():
    execution = running()
    assert execution.micro_op == "vm_pause"
    execution.run = Run(PLAN, done=3)
    assert execution.micro_op is None
    execution.run = None
    assert execution.micro_op is None


# Cancel points


def test_a_cancel_is_seen_at_the_next_point_where_it_may_be():
    held = task()
    execution = running(held=held)
    execution.checkpoint()
    execution.cancel()
    with pytest.raises(Cancelled) as raised:
        execution.checkpoint()
    assert raised.value.task == "t"
    assert held.cancel_points_seen == 2


@pytest.mark.parametrize(("done", "direction"), [(2, "forward"), (0, "back"), (3, "forward")])
def test_where_it_may_not_be_it_is_neither_seen_nor_counted(done, direction):
    held = task()
    execution = running(done, direction, held)
    execution.cancel()
    execution.checkpoint()
    assert held.cancel_points_seen == 0


def test_before_it_has_begun_it_may_be():
    execution = Execution(calls.VmStart(id="vm1"), "vm1", task=task())
    execution.cancel()
    with pytest.raises(Cancelled):
        execution.checkpoint()


def test_a_trigger_cancels_at_the_point_of_its_number():
    execution = running()
    execution.cancel_at = 3
    execution.checkpoint()
    execution.checkpoint()
    with pytest.raises(Cancelled):
        execution.checkpoint()


# A call that blocks


def blocked(made, seconds=None):
    """A thread in `pause`; what it ended with."""
    ended = []

    def block():
        try:
            made.pause(seconds)
        except (Cancelled, DeadlineExceeded) as error:
            ended.append(error)
        else:
            ended.append(None)

    thread = threading.Thread(target=block)
    thread.start()
    return thread, ended


def test_a_pause_ends_with_its_time():
    call(running()).pause(0.001)


def test_a_pause_is_ended_by_a_cancel():
    execution = running()
    thread, ended = blocked(call(execution))
    execution.cancel()
    thread.join(LIMIT)
    assert isinstance(ended[0], Cancelled)


def test_a_pause_is_ended_by_the_deadline():
    execution = running()
    thread, ended = blocked(call(execution, deadline=0.01))
    thread.join(LIMIT)
    assert isinstance(ended[0], DeadlineExceeded)
    assert ended[0].facts() == {"what": "vm_pause of VM vm1", "seconds": 0.01}


def test_a_step_that_can_only_be_finished_is_paused_through_a_cancel_and_broken_by_the_kill_lane():
    execution = running(done=2)
    made = call(execution)
    thread, ended = blocked(made)
    for _ in range(5):
        execution.cancel()
    assert thread.is_alive()
    made.give_up()
    thread.join(LIMIT)
    assert isinstance(ended[0], DeadlineExceeded)


def test_no_waking_is_lost_however_it_falls():
    for _ in range(300):
        execution = running(done=2)
        made = call(execution)
        thread, ended = blocked(made)
        execution.cancel()
        made.give_up()
        thread.join(LIMIT)
        assert isinstance(ended[0], DeadlineExceeded)


def test_progress_stays_between_nothing_and_all():
    told = []
    made = call(running(), told=told)
    for fraction in (-1, 0.5, 2):
        made.progress(fraction)
    assert told == [0.0, 0.5, 1.0]


# A descriptor to be watched


def is_readable(descriptor, seconds=0.0):
    return bool(select.select([descriptor], [], [], seconds)[0])


@pytest.mark.parametrize("how", ["cancel", "give up"])
def test_an_interruption_can_be_watched_for(how):
    execution = running()
    made = call(execution)
    with made.interruption() as descriptor:
        assert not is_readable(descriptor)
        execution.cancel() if how == "cancel" else made.give_up()
        assert is_readable(descriptor, LIMIT)


def test_what_came_before_is_raised_at_once():
    execution = running()
    execution.cancel()
    with pytest.raises(Cancelled), call(execution).interruption():
        pass
    assert execution.eventfd is None


def test_what_can_only_be_finished_is_not_interrupted_by_a_cancel():
    execution = running(done=2)
    with call(execution).interruption() as descriptor:
        execution.cancel()
        assert not is_readable(descriptor)


def test_no_descriptor_is_left_open_and_none_is_rung_after():
    before = len(list(FDS.iterdir()))
    execution = running()
    for _ in range(50):
        with call(execution).interruption():
            pass
        execution.rouse()
    assert len(list(FDS.iterdir())) == before


# Jobs


def test_a_job_keeps_what_came_of_it_and_then_wakes():
    job, woken = Job(10.0), []
    job.run(lambda: 42, lambda: woken.append(job.finished.is_set()))
    assert (job.result, job.error, woken) == (42, None, [True])


def test_a_job_that_fails_still_wakes():
    job, woken = Job(10.0), []
    failure = KeyboardInterrupt()

    def work():
        raise failure

    job.run(work, lambda: woken.append(1))
    assert (job.error, woken) == (failure, [1])


def test_a_job_is_pressed_once_and_never_given_longer():
    job = Job(10.0)
    job.press(20.0)
    assert job.deadline == 10.0
    job = Job(10.0)
    job.press(5.0)
    job.press(2.0)
    assert job.deadline == 5.0, "who keeps asking does not keep moving it"
