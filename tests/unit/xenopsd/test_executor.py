"""Operations carried out by real threads on the real simulator, over disks that can fail."""

import dataclasses
import errno
import json
import threading
from pathlib import Path

import pytest
from msgspec.structs import replace
from rigs.core import Core
from rigs.values import ETH0, MIB, ROOT, VM
from structlog.testing import capture_logs

from backends.interface import Domain
from idl import calls
from idl.errors import Interrupted, StorageError
from idl.metadata import Metadata
from idl.task import Completed, Pending
from idl.vm import Action
from journal.errors import JournalUnwritable
from xenopsd import executor
from xenopsd.context import Deadlines
from xenopsd.execution import Check, Execution
from xenopsd.executor import wire_error

SMALL = Metadata(vm=VM, vbds=[ROOT], vifs=[ETH0])
START, HARD = calls.VmStart(id="vm1"), calls.VmShutdown(id="vm1")
QUICK = Deadlines(short=0.3, job=0.6, hook=0.3, kill=0.3, grace=0.2, hurry=0.1, cancel=0.2)


@pytest.fixture
def lives(tmp_path, monkeypatch):
    """Makes cores; closes them all."""
    made = []
    monkeypatch.setattr(executor, "BACKOFF", 0.002)

    def live(**options):
        made.append(Core(tmp_path, **options))
        return made[-1]

    # What it logs is not printed: a traceback in colours takes longer than the test.
    with capture_logs():
        yield live
        for core in made:
            if not core.loop.is_closed():
                core.close()


@pytest.fixture
def core(lives):
    core = lives()
    core.add(SMALL)
    return core


@pytest.fixture
def quick(lives):
    """The same, with short deadlines."""
    core = lives(deadlines=QUICK)
    core.add(SMALL)
    return core


def entry(core):
    return core.inventory.require("vm1")


def state(core):
    return str(entry(core).power_state)


def assert_tidy(core, power_state):
    """Sensible as an outsider sees it, and nothing is owed."""
    found = core.backend.host.domain("vm1")
    assert state(core) == power_state
    assert entry(core).attention is None
    assert core.leftovers("vm1") == []
    assert core.journal_of("vm1") == b""
    assert entry(core).operations == []
    assert entry(core).running is None
    assert not entry(core).active
    if power_state in ("halted", "suspended"):
        assert found is None
        assert core.memory.free == 2**40
    else:
        assert found.incarnation == entry(core).extra.incarnation
        assert core.memory.free == 2**40 - found.memory_target


# From begin to end


def test_an_ended_operation_is_in_no_cycle(core):
    ended = core.done(START)
    # A lease bears its execution: the collector alone would free both.
    assert ended.lease is None


def test_a_start_brings_a_domain_up_with_everything_plugged(core):
    task = core.completed(START)
    assert_tidy(core, "running")
    assert [s.name for s in task.subtasks] == [
        "vm_create", "vm_build", "vbd_plug", "vif_plug", "vm_create_device_model", "vm_unpause",
    ]
    assert {s.state for s in task.subtasks} == {"completed"}
    assert [s.object for s in task.subtasks][2:4] == [ROOT.id, ETH0.id]
    assert entry(core).extra.settled
    assert entry(core).extra.reason == "started"


def test_a_life_leaves_nothing_behind(core):
    for request in (START, calls.VmSuspend(id="vm1"), calls.VmResume(id="vm1"), HARD):
        core.completed(request)
    assert_tidy(core, "halted")
    assert not list((core.directory / "suspend").iterdir())


def test_what_has_nothing_to_do_completes_without_a_journal(core):
    points = []
    core.passing = points.append
    core.completed(START)
    points.clear()
    task = core.completed(calls.VmUnpause(id="vm1"))
    assert task.subtasks == []
    assert points == []


def test_what_is_refused_touches_nothing(core):
    error = core.failed(calls.VmPause(id="vm1"))
    assert error.data["error"] == "BadPowerState"
    assert error.data["actual"] == "halted"
    assert "micro_op" not in error.data
    assert_tidy(core, "halted")


# The order of the end


def test_the_end_is_logged_before_the_journal_is_crossed_out_and_told_after(core):
    seen = {}

    def passing(point):
        if point == "journal:end":
            seen["log"] = core.task_log()
            seen["journal"] = core.journal_of("vm1")
            seen["record"] = core.store.load()["vm1"].records["extra"]
            seen["head"] = core.pool.head("vm1")
            seen["number"] = core.updates.stats()["number"]
            seen["task"] = core.task("t")
            seen["operations"] = list(entry(core).operations)

    core.passing = passing
    execution = core.submit(START, "t")
    core.wait(execution)
    ended = [json.loads(line)["record"] for line in seen["log"].splitlines()][-1]
    assert ended["kind"] == "ended"
    assert ended["id"] == "t"
    assert ended["task"]["state"]["type"] == "completed"
    assert seen["journal"], "truncated only after the task log has it"
    assert seen["record"].power_state == "running", "the record before the answer"
    assert isinstance(seen["task"].state, Completed)
    assert seen["operations"] == [], "who reads after the answer does not find it still there"
    assert seen["head"] is execution, "the queue is released last"
    assert core.updates.stats()["number"] > seen["number"], "told after the journal"


def test_a_journal_whose_end_was_not_logged_is_kept(core):
    core.completed(START)

    def fail_at_the_end(point):
        if point == "journal:append" and b'"vm_destroy"' in core.journal_of("vm1"):
            core.disks["tasks"].faults = {"write": errno.ENOSPC}

    core.passing = fail_at_the_end
    task = core.run(HARD)
    assert isinstance(task.state, Completed), "it has ended all the same"
    assert core.journal_of("vm1"), "but after a crash somebody has to say so"
    assert state(core) == "halted"


# Records that cannot be written


def test_an_operation_that_cannot_be_journalled_does_not_begin(core):
    core.disks["journal"].faults = {"write": errno.ENOSPC}
    error = core.failed(START)
    assert error.data["error"] == "StorageError"
    assert "micro_op" not in error.data
    core.disks["journal"].faults = {}
    assert_tidy(core, "halted")
    core.completed(START)


@pytest.mark.parametrize("appends", [1, 2, 3, 4, 5, 6])
def test_an_operation_whose_intent_cannot_be_written_is_undone(lives, appends):
    core = lives()
    core.add(SMALL)
    left = [appends]

    def fill_up(point):
        if point == "journal:append":
            left[0] -= 1
            if left[0] == 0:
                core.disks["journal"].faults = {"write": errno.ENOSPC}

    core.passing = fill_up
    error = core.failed(START)
    assert error.data["error"] == "StorageError"
    core.disks["journal"].faults = {}
    core.passing = lambda _point: None
    assert_tidy(core, "halted")
    core.completed(START)
    assert_tidy(core, "running")


class Once(dict):
    """Faults of which the first that is met is the last."""

    def get(self, operation, default=None):
        return self.pop(operation, default)


@pytest.mark.parametrize("before", range(1, 6))
def test_what_can_only_be_finished_is_finished_though_its_journal_fails_once(core, before):
    """What was done and could not be recorded is recorded with the next intent."""
    core.completed(START)
    appends = []

    def fail_next(point):
        if point == "journal:append":
            appends.append(point)
            if len(appends) == before:
                core.disks["journal"].faults = Once(write=errno.EIO)

    core.passing = fail_next
    core.completed(HARD)
    assert len(appends) == 5, "begun, and all intents but the one"
    assert_tidy(core, "halted")


def test_a_running_record_that_cannot_be_written_costs_no_operation(core):
    core.disks["store"].faults = {"open": errno.EROFS, "write": errno.EROFS}
    core.completed(START)
    assert state(core) == "running"
    core.completed(HARD)
    core.disks["store"].faults = {}
    assert_tidy(core, "halted")


def test_an_image_that_cannot_be_recorded_leaves_the_guest_running(core):
    core.completed(START)
    before = core.backend.host.domain("vm1").incarnation
    core.disks["store"].faults = {"rename": errno.EIO}
    error = core.failed(calls.VmSuspend(id="vm1"))
    core.disks["store"].faults = {}
    assert error.data["error"] == "StorageError"
    assert error.data["micro_op"] == "vm_commit_image"
    assert state(core) == "running"
    assert core.backend.host.domain("vm1").incarnation == before
    assert core.backend.host.domain("vm1").stopped is None


# Steps that fail


@pytest.mark.parametrize(
    "micro_op",
    ["vm_create", "vm_build", "vbd_plug", "vif_plug", "vm_create_device_model", "vm_unpause"],
)
def test_a_start_that_fails_at_any_step_leaves_nothing(core, micro_op):
    core.arm("fail", micro_op, "1")
    error = core.failed(START)
    assert error.data["error"] == "HypervisorError"
    assert error.data["micro_op"] == micro_op
    assert_tidy(core, "halted")


@pytest.mark.parametrize("micro_op", ["vm_check_image", "vm_create", "vm_restore", "vbd_plug"])
def test_a_resume_that_fails_before_its_image_is_spent_leaves_it_suspended(core, micro_op):
    core.completed(START)
    core.completed(calls.VmSuspend(id="vm1"))
    core.arm("fail", micro_op, "1")
    assert core.failed(calls.VmResume(id="vm1")).data["micro_op"] == micro_op
    assert_tidy(core, "suspended")
    core.completed(calls.VmResume(id="vm1"))
    assert_tidy(core, "running")


def test_a_resume_whose_image_cannot_be_spent_leaves_it_suspended(core):
    core.completed(START)
    core.completed(calls.VmSuspend(id="vm1"))
    core.disks["store"].faults = {"rename": errno.EIO}
    assert core.failed(calls.VmResume(id="vm1")).data["micro_op"] == "vm_spend_image"
    core.disks["store"].faults = {}
    assert state(core) == "suspended"
    core.completed(calls.VmResume(id="vm1"))
    assert_tidy(core, "running")


def test_a_suspend_that_fails_leaves_the_guest_running(core):
    core.completed(START)
    core.arm("fail", "vm_save", "1")
    assert core.failed(calls.VmSuspend(id="vm1")).data["micro_op"] == "vm_save"
    assert_tidy(core, "running")


def test_a_plug_that_fails_leaves_it_unplugged(core):
    core.completed(START)
    core.completed(calls.VbdUnplug(id=ROOT.id))
    core.arm("fail", "vbd_plug", "1")
    core.failed(calls.VbdPlug(id=ROOT.id))
    assert_tidy(core, "running")
    assert not core.backend.host.domain("vm1").vbds


@pytest.mark.parametrize(
    "micro_op", ["vm_pause", "vm_destroy_device_model", "vbd_unplug", "vif_unplug", "vm_destroy"]
)
def test_a_step_that_can_only_be_finished_is_tried_again(core, micro_op):
    """And what was overcome is no failure of the operation."""
    core.completed(START)
    core.arm("fail", micro_op, "1")
    task = core.completed(HARD)
    assert_tidy(core, "halted")
    tried = [s.state for s in task.subtasks if s.name == micro_op]
    assert tried == ["failed", "completed"]


def test_a_step_that_fails_for_ever_is_left_out_and_the_rest_is_done(core):
    core.completed(START)
    core.arm("fail", "vbd_unplug", "1000")
    error = core.failed(HARD)
    assert error.data["micro_op"] == "vbd_unplug"
    assert state(core) == "halted"
    assert core.journal_of("vm1") == b""
    assert entry(core).attention is None, "its domain is gone: nobody needs to look"
    core.arm("fail", "vbd_unplug", "0")


def test_a_domain_that_cannot_be_destroyed_needs_attention_and_is_let_be(core):
    core.completed(START)
    core.arm("fail", "vm_destroy", "1000")
    assert core.failed(HARD).data["micro_op"] == "vm_destroy"
    assert entry(core).attention is not None
    assert state(core) != "halted"
    refused = core.failed(calls.VmReboot(id="vm1"))
    assert refused.data["error"] == "HypervisorError"
    assert "attention" in refused.message
    core.arm("fail", "vm_destroy", "0")
    core.completed(HARD)
    assert_tidy(core, "halted")


def test_an_undoing_that_does_not_matter_to_a_stopped_guest_leaves_it_to_its_policy(core):
    """Its guest powers off just before it is paused: no administrator is needed for that."""
    core.completed(START)

    def power_off(point):
        if point == "journal:append" and b'"vm_pause"' in core.journal_of("vm1"):
            core.passing = lambda _point: None
            core.arm("halt", "vm1")

    core.passing = power_off
    core.failed(calls.VmPause(id="vm1"))
    core.until(lambda: state(core) == "halted")
    core.quiet("vm1")
    assert_tidy(core, "halted")
    assert entry(core).extra.reason == "guest shut down"


def test_a_fault_of_ours_is_told_by_its_incident_and_undone(core):
    def explode(*_args):
        raise ZeroDivisionError("secret")

    core.backend.vbd.plug = explode
    error = core.failed(START)
    assert error.data["error"] == "InternalError"
    assert "secret" not in error.message
    assert_tidy(core, "halted")


# Memory


def test_memory_that_is_not_there_is_said_with_what_is(lives):
    core = lives(memory=300 * MIB)
    core.add(SMALL)
    core.completed(START)
    assert core.backend.host.domain("vm1").memory_target == 300 * MIB, "as much as there is"
    core.add(Metadata(vm=replace(VM, id="vm2", uuid="")))
    error = core.failed(calls.VmStart(id="vm2"))
    assert error.data["error"] == "NotEnoughMemory"
    assert error.data["needed"] == 256 * MIB
    assert error.data["free"] == 44 * MIB, "free memory and what others could give"
    assert core.backend.host.domain("vm2") is None


def test_a_start_squeezes_another_vm_and_gives_it_back_when_it_stops(lives):
    core = lives(memory=768 * MIB)
    core.add(SMALL)
    core.completed(START)
    core.add(Metadata(vm=replace(VM, id="vm2", uuid="", memory_dynamic_min=512 * MIB)))
    core.completed(calls.VmStart(id="vm2"))
    core.until(lambda: entry(core).domain.memory_target == 256 * MIB)
    assert core.memory.free == 0
    core.completed(calls.VmShutdown(id="vm2"))
    core.until(lambda: entry(core).domain.memory_target == 512 * MIB)
    assert core.memory.free == 256 * MIB


def test_a_balloon_is_no_writer_of_what_the_queue_writes(core):
    """Beside the VM's own queue: an old observation or record must not come over a newer one."""
    core.completed(START)
    before = entry(core).extra
    execution = Execution(Check("vm1"), "vm1")
    observed = entry(core).domain
    core.executor.context.performer.backend.host.domain, real = _never, core.backend.host.domain
    try:
        core.executor.context.workers = _NoPool()
        core.operations.ballooning._set_target(execution, entry(core), 300 * MIB)
    finally:
        core.executor.context.workers = core.pool
        core.backend.host.domain = real
    assert entry(core).extra is before
    assert entry(core).domain is observed
    assert core.backend.host.domain("vm1").memory_target == 300 * MIB


class _NoPool:
    def __getattr__(self, _name):
        return lambda *_args, **_options: None


def _never(_vm):
    raise AssertionError("observed beside the queue")


# Cancelling


def test_a_queued_operation_is_cancelled_at_once_and_shows_nothing(core):
    core.arm("set-latency", "vm_build", "30")
    running = core.submit(START, "first")
    core.under_way(running, "vm_build")
    queued = core.submit(calls.VmPause(id="vm1"), "second")
    shown = entry(core).running
    core.executor.kill_lane.cancel(queued)
    core.until(lambda: queued in core.over)
    assert core.task("second").state.error.data["error"] == "Cancelled"
    assert entry(core).running is shown, "what shows is the one that is running"
    assert entry(core).operations == [running]
    core.executor.kill_lane.cancel(running)
    core.wait(running)


def test_a_reboot_still_counts_as_running_when_another_is_cancelled(core):
    core.completed(START)
    core.arm("set-latency", "vm_create", "30")
    running = core.submit(calls.VmReboot(id="vm1"), "first")
    core.under_way(running, "vm_create")
    queued = core.submit(calls.VmPause(id="vm1"), "second")
    core.executor.kill_lane.cancel(queued)
    core.until(lambda: queued in core.over)
    assert state(core) == "running"
    core.executor.kill_lane.cancel(running)
    core.wait(running)
    assert_tidy(core, "halted")


def test_a_running_start_that_is_cancelled_is_undone(core):
    core.arm("hang", "vbd_plug", "1")
    execution = core.submit(START, "t")
    core.under_way(execution, "vbd_plug")
    core.executor.kill_lane.cancel(execution)
    core.wait(execution)
    error = core.task("t").state.error
    assert error.data["error"] == "Cancelled"
    assert error.data["task"] == "t"
    assert_tidy(core, "halted")


def test_a_job_that_is_cancelled_is_undone(core):
    core.completed(START)
    core.arm("hang", "vm_save", "1")
    execution = core.submit(calls.VmSuspend(id="vm1"), "t")
    core.under_way(execution, "vm_save")
    core.executor.kill_lane.cancel(execution)
    core.wait(execution)
    assert core.task("t").state.error.data["error"] == "Cancelled"
    assert_tidy(core, "running")


def test_what_can_only_be_finished_is_not_cancelled(core):
    core.completed(START)
    core.arm("set-latency", "vm_destroy", "0.05")
    execution = core.submit(HARD, "t")
    core.under_way(execution, "vm_destroy")
    assert not core.task("t").cancellable
    core.executor.kill_lane.cancel(execution)
    core.wait(execution)
    assert isinstance(core.task("t").state, Completed)


def test_a_wait_is_cancelled_without_a_worker(core):
    execution = core.submit(calls.VmDelay(id="vm1", seconds=1000), "t")
    core.until(lambda: core.pool.parked == 1)
    assert core.pool.busy == 0
    core.executor.kill_lane.cancel(execution)
    core.wait(execution)
    assert core.task("t").state.error.data["error"] == "Cancelled"


# Deadlines, and calls that do not return


def test_a_call_past_its_deadline_fails_and_is_undone(quick):
    quick.arm("hang", "vm_build", "1")
    error = quick.failed(START)
    assert error.data["error"] == "DeadlineExceeded"
    assert error.data["seconds"] == QUICK.short
    assert error.data["micro_op"] == "vm_build"
    assert_tidy(quick, "halted")


def test_a_call_that_does_not_return_is_answered_for_and_what_it_owes_is_done_once_it_does(quick):
    quick.arm("hang", "vm_build", "1", "deaf")
    execution = quick.submit(START, "t")
    quick.until(lambda: quick.task("t").ended)
    assert quick.task("t").state.error.data["error"] == "DeadlineExceeded"
    found = entry(quick)
    assert found.stuck
    assert "does not return" in found.attention.reason
    assert b'"kind":"turned"' in quick.journal_of("vm1"), "the undoing is owed"
    assert b'"task":null' in quick.journal_of("vm1"), "and nobody waits for it"
    quick.arm("undeaf")
    quick.wait(execution)
    assert_tidy(quick, "halted")
    assert not entry(quick).stuck
    quick.completed(START)


def test_a_job_that_does_not_return_is_answered_for_as_well(quick):
    quick.completed(START)
    quick.arm("hang", "vm_save", "1", "deaf")
    execution = quick.submit(calls.VmSuspend(id="vm1"), "t")
    quick.until(lambda: quick.task("t").ended)
    assert quick.task("t").state.error.data["error"] == "DeadlineExceeded"
    assert entry(quick).stuck
    quick.arm("undeaf")
    quick.wait(execution)
    assert_tidy(quick, "running")


def test_what_was_queued_behind_a_call_that_does_not_return_fails(quick):
    quick.arm("hang", "vm_build", "1", "deaf")
    first = quick.submit(START, "first")
    quick.under_way(first, "vm_build")
    quick.submit(calls.VmPause(id="vm1"), "second")
    quick.until(lambda: quick.task("second").ended)
    assert quick.task("second").state.error.data["error"] == "DeadlineExceeded"
    quick.arm("undeaf")
    quick.wait(first)


def test_a_late_failure_of_a_call_that_was_written_off_changes_nothing(quick):
    """It returns with an error, long after its task was answered for."""
    quick.arm("hang", "vm_build", "1", "deaf")
    quick.arm("fail", "vm_build", "1")
    execution = quick.submit(START, "t")
    quick.until(lambda: quick.task("t").ended)
    quick.arm("undeaf")
    quick.wait(execution)
    assert quick.task("t").state.error.data["error"] == "DeadlineExceeded"
    assert_tidy(quick, "halted")


def test_other_vms_go_on_beside_one_that_hangs(lives):
    core = lives(workers=1, deadlines=QUICK)
    core.add(SMALL)
    core.add(Metadata(vm=replace(VM, id="vm2", uuid="")))
    core.arm("hang", "vm_create", "1", "deaf")
    hung = core.submit(START, "t")
    core.under_way(hung, "vm_create")
    core.completed(calls.VmStart(id="vm2"))
    core.arm("undeaf")
    core.wait(hung)


# A hard shutdown wins


def test_a_hard_shutdown_cancels_what_was_accepted_before_it(core):
    core.arm("hang", "vbd_plug", "1")
    running = core.submit(START, "running")
    core.under_way(running, "vbd_plug")
    core.submit(calls.VmPause(id="vm1"), "queued")
    hard = core.submit(HARD, "hard")
    core.wait(hard)
    assert core.task("running").state.error.data["error"] == "Cancelled"
    assert core.task("queued").state.error.data["error"] == "Cancelled"
    assert isinstance(core.task("hard").state, Completed)
    assert_tidy(core, "halted")


def test_a_hard_shutdown_cuts_short_what_hangs_while_it_is_finished(quick):
    quick.completed(START)
    quick.arm("hang", "vm_destroy_device_model", "3")
    clean = quick.submit(calls.VmShutdown(id="vm1", timeout=30), "clean")
    quick.under_way(clean, "vm_destroy_device_model")
    hard = quick.submit(HARD, "hard")
    quick.wait(hard)
    assert state(quick) == "halted"


def test_a_hard_shutdown_cuts_short_a_guests_own_reboot(core):
    """A check is no operation that was accepted; but it must not stand in the way either."""
    found = entry(core)
    found.meta = replace(SMALL, vm=replace(VM, on_reboot=[Action.START]))
    core.completed(START)
    core.arm("hang", "vm_create", "1")
    core.arm("reboot", "vm1")
    core.until(lambda: (head := core.pool.head("vm1")) is not None and head.micro_op == "vm_create")
    hard = core.submit(HARD, "hard")
    core.wait(hard)
    assert isinstance(core.task("hard").state, Completed)
    assert_tidy(core, "halted")


def test_a_hard_shutdown_cuts_short_an_operation_that_recovery_carries_on(core, lives):
    """It was accepted before, though by another life of the daemon."""
    core.completed(START)
    core.arm("ignore-shutdown", "vm1", "true")
    waiting = core.submit(calls.VmShutdown(id="vm1", timeout=1000), "t")
    core.until(lambda: core.pool.parked == 1)
    second = core.after_kill()
    try:
        second.repair("vm1", waiting.task)
        second.until(lambda: second.pool.parked == 1)
        hard = second.submit(HARD, "hard")
        second.wait(hard)
        assert second.task("t").state.error.data["error"] == "Cancelled"
        assert second.task("t").interrupted
        assert isinstance(second.task("hard").state, Completed)
    finally:
        second.close()
        core.executor.kill_lane.cancel(waiting)


def test_the_cancel_of_a_task_whose_repair_waits_leaves_the_repair(core):
    core.completed(START)
    core.arm("hang", "vbd_unplug", "1", "deaf")
    cut = core.submit(HARD, "t")
    core.under_way(cut, "vbd_unplug")
    second = core.after_kill(performing=False, workers=1)
    try:
        repair = second.repair("vm1", cut.task)
        second.executor.kill_lane.cancel(repair)
        assert second.pool.head("vm1") is repair
        second.perform()
        second.pool.wake("vm1")
        second.wait(repair)
        assert_tidy(second, "halted")
    finally:
        second.close()
        core.arm("undeaf")
        core.wait(cut)


def test_a_call_that_begins_as_a_hard_shutdown_comes_is_hurried(quick):
    """Between the choice of its deadline and its beginning nobody is overlooked."""
    quick.completed(START)
    execution = Execution(calls.VmPause(id="vm1"), "vm1")
    held = threading.Event()
    real = quick.executor._call

    def late(*args):
        call = real(*args)
        execution.hurried = True
        held.set()
        return call

    quick.executor._call = late
    quick.executor.context.deadlines = Deadlines(short=60.0, hurry=0.05, grace=0.2)
    quick.arm("hang", "vm_pause", "1")
    quick.executor.enqueue(execution)
    quick.until(lambda: held.is_set() and execution in quick.over)
    assert execution.error is not None


# Attention


def test_dropping_a_devices_record_says_nothing_about_a_vm_in_doubt(core):
    core.completed(START)
    core.completed(calls.VbdUnplug(id=ROOT.id))
    core.executor.observation.doubt(entry(core), "somebody should look")
    core.done(calls.VbdRemove(id=ROOT.id))
    assert entry(core).attention.reason == "somebody should look"
    assert entry(core).meta.vbds == []


def test_a_vm_that_can_be_observed_again_needs_nobody(core):
    core.completed(START)
    real = core.backend.host.domain
    core.backend.host.domain = _unreachable
    core.executor.observation.look(entry(core))
    assert "cannot be observed" in entry(core).attention.reason
    core.backend.host.domain = real
    core.executor.check("vm1")
    core.until(lambda: entry(core).attention is None)
    core.completed(calls.VmPause(id="vm1"))


def test_an_older_doubt_outlives_a_vm_that_cannot_be_observed(core):
    core.executor.observation.doubt(entry(core), "somebody should look")
    real = core.backend.host.domain
    core.backend.host.domain = _unreachable
    core.executor.observation.look(entry(core))
    core.backend.host.domain = real
    core.executor.observation.look(entry(core))
    assert entry(core).attention.reason == "somebody should look"


def _unreachable(_vm):
    raise wire_error(OSError(errno.ECONNREFUSED, "Connection refused", "hypervisor"))


# Progress, subtasks, what is told


def test_progress_only_grows_and_reaches_one_only_at_success(core):
    core.arm("set-latency", "vm_unpause", "0.02")
    said = []
    execution = core.submit(START, "t")
    core.until(lambda: said.append(core.task("t")) or core.task("t").ended)
    core.wait(execution)
    fractions = [task.state.progress for task in said if isinstance(task.state, Pending)]
    assert fractions == sorted(fractions)
    assert all(fraction < 1 for fraction in fractions)


def test_what_is_being_plugged_shows_as_active(core):
    core.completed(START)
    core.completed(calls.VbdUnplug(id=ROOT.id))
    core.arm("set-latency", "vbd_plug", "0.05")
    execution = core.submit(calls.VbdPlug(id=ROOT.id))
    core.under_way(execution, "vbd_plug")
    shown = entry(core).vbd(ROOT).state
    assert shown.active
    assert not shown.plugged
    core.wait(execution)
    assert entry(core).vbd(ROOT).state.plugged


def test_an_observation_tells_of_what_changed_and_of_nothing_else(core):
    before = Domain(id="1", name="vm1", vcpu_seconds=1.0, pcis=["vm1/card0"])
    core.executor.observation.observed(entry(core), before)
    told = core.updates.stats()["number"]
    core.executor.observation.observed(entry(core), replace(before, vcpu_seconds=2.0))
    assert core.updates.stats()["number"] == told, "that time goes by is no news"
    core.executor.observation.observed(entry(core), replace(before, pcis=[]))
    assert core.updates.stats()["number"] == told + 2, "the VM and its card"


@pytest.mark.parametrize(
    ("error", "plugin", "words"),
    [
        (JournalUnwritable(Path("/state/journal"), "full"), "state directory", "full"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "host", "/x No space left"),
    ],
    ids=["a journal that cannot be written", "an error of the system"],
)
def test_errors_of_files_are_told_as_storage_errors(error, plugin, words):
    told = wire_error(error)
    assert isinstance(told, StorageError)
    assert told.plugin == plugin
    assert words in told.reason


# Recovery


def test_a_vm_that_another_instance_claims_is_not_touched(core):
    core.completed(START)
    entry(core).contested = "the instance other of this host claims it too"
    core.arm("lose", "vm1")
    core.recover("vm1")
    assert entry(core).attention.reason == "the instance other of this host claims it too"


def test_a_repair_that_cannot_begin_asks_for_attention(core):
    core.completed(START)
    core.backend.host.leftovers = _unreachable
    core.recover("vm1")
    assert "its repair could not begin" in entry(core).attention.reason


def test_a_cut_operation_whose_domain_is_lost_says_where_its_vm_is_now(core):
    """In its error, and in the VM's reason."""
    core.completed(START)
    core.arm("hang", "vm_pause", "1")
    cut = core.submit(calls.VmPause(id="vm1"), "t")
    core.under_way(cut, "vm_pause")
    core.arm("lose", "vm1")
    second = core.after_kill()
    try:
        assert second.leftovers("vm1")
        execution = second.recover("vm1", cut.task)
        assert isinstance(execution.error, Interrupted)
        assert second.task("t").state.error.data["recovered_to"] == "halted"
        assert second.inventory.require("vm1").extra.reason == "lost"
        assert_tidy(second, "halted")
    finally:
        second.close()
        core.executor.kill_lane.cancel(cut)
        core.wait(cut)


def test_the_step_at_which_a_cut_operation_had_failed_is_still_told(core):
    core.arm("fail", "vm_unpause", "1")
    core.arm("hang", "vbd_unplug", "1", "deaf")
    cut = core.submit(START, "t")
    core.under_way(cut, "vbd_unplug")
    second = core.after_kill()
    try:
        second.recover("vm1", cut.task)
        error = second.task("t").state.error
        assert (error.data["error"], error.data["micro_op"]) == ("HypervisorError", "vm_unpause")
        assert_tidy(second, "halted")
    finally:
        second.close()
        core.arm("undeaf")
        core.wait(cut)


# Hooks


@pytest.fixture
def hooked(lives, tmp_path):
    """A core with a place for hooks, and how a script gets there."""
    core = lives(deadlines=QUICK)
    core.add(SMALL)
    core.operations.places = dataclasses.replace(
        core.operations.places, hooks=tmp_path / "hooks"
    )

    def script(hook, *lines):
        path = tmp_path / "hooks" / hook / "10-script"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
        path.chmod(0o755)

    return core, script


def test_a_hook_that_fails_fails_a_start(hooked):
    core, script = hooked
    script("vm-pre-start", "echo no room", "exit 3")
    error = core.failed(START)
    assert (error.data["error"], error.data["status"]) == ("HookFailed", 3)
    assert error.data["micro_op"] == "vm_hook"
    assert_tidy(core, "halted")


def test_a_hook_that_will_not_end_stands_in_the_way_of_no_hard_shutdown(hooked):
    """It is killed at its deadline, though it minds no signal but SIGKILL; nobody is in doubt."""
    core, script = hooked
    core.completed(START)
    script("vm-post-shutdown", "trap '' TERM", "sleep 60 & wait; sleep 60")
    core.completed(HARD)
    assert_tidy(core, "halted")
