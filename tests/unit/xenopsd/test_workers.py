"""The pool with a clock that the tests move, and steps that the tests hold and let go."""

import os
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from xenopsd.queues import Again, Ended, Lease, Outcome, Parked, QueueFull, Queues, State
from xenopsd.workers import Running, WorkerPool

SOON = 10.0  # seconds after which a test that waits has failed
CALL = 5.0  # what the held steps declare as their call's deadline
GRACE = 2.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Rig:
    """A pool whose items say what their step does, and a record of what it told its owner.

    An item is a callable `(lease) -> Outcome`. `events` gets (what, key) from the callbacks.
    """

    def __init__(self, size: int, **options: Any) -> None:
        self.clock = Clock()
        self.events: SimpleQueue[tuple[str, str]] = SimpleQueue()
        self.gates: list[threading.Event] = []
        callbacks: dict[str, Any] = {
            "on_overdue": self.tell("overdue"),
            "on_written_off": self.tell("written_off"),
            "on_returned": self.tell("returned"),
            "on_crashed": lambda lease, exc: self.events.put((repr(exc), lease.key)),
        }
        self.pool: WorkerPool[Callable[[Lease[Any]], Outcome]] = WorkerPool(
            lambda lease: lease.item(lease),
            clock=self.clock,
            size=size,
            grace=GRACE,
            **(callbacks | options),
        )

    def tell(self, name: str) -> Callable[[Lease[Any]], None]:
        return lambda lease: self.events.put((name, lease.key))

    def event(self) -> tuple[str, str]:
        return self.events.get(timeout=SOON)

    def at(self, now: float) -> None:
        self.clock.now = now
        self.pool.recheck()

    def held(self, outcome: Outcome = Ended()) -> "Held":  # noqa: B008 -- a value
        held = Held(self, outcome)
        self.gates.append(held.gate)
        return held

    def hang(self, *keys: str) -> "list[Held]":
        """A step for each key that is now held, its call declared."""
        hung = [self.held() for _ in keys]
        for key, held in zip(keys, hung, strict=True):
            self.pool.push(key, held)
        for held in hung:
            held.wait()
        return hung

    def close(self) -> None:
        for gate in self.gates:
            gate.set()
        assert self.pool.stop(SOON)


class Held:
    """A step that makes a call and does not return from it before `gate` is set."""

    def __init__(self, rig: Rig, outcome: Outcome) -> None:
        self.rig = rig
        self.outcome = outcome
        self.gate = threading.Event()
        self.begun: SimpleQueue[threading.Thread] = SimpleQueue()
        self.thread = threading.current_thread()
        self.lease: Lease[Any] | None = None
        self.valid: bool | None = None
        self.valid_after: bool | None = None

    def __call__(self, lease: Lease[Any]) -> Outcome:
        self.lease = lease
        self.valid = self.rig.pool.deadline(lease, self.rig.clock() + CALL)
        self.begun.put(threading.current_thread())
        assert self.gate.wait(SOON)
        self.valid_after = self.rig.pool.deadline(lease, None)
        return self.outcome

    def wait(self) -> None:
        self.thread = self.begun.get(timeout=SOON)

    def gone(self) -> bool:
        self.thread.join(SOON)
        return not self.thread.is_alive()


class Script:
    """A step that returns one outcome after the other, and tells of each."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = iter(outcomes)
        self.leases: SimpleQueue[Lease[Any]] = SimpleQueue()

    def __call__(self, lease: Lease[Any]) -> Outcome:
        self.leases.put(lease)
        return next(self.outcomes)

    def wait(self) -> Lease[Any]:
        return self.leases.get(timeout=SOON)


@pytest.fixture
def rig_of() -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(size: int, **options: Any) -> Rig:
        rigs.append(Rig(size, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


def eventually(fact: Callable[[], bool]) -> bool:
    """For what has no event of its own: a thread that goes to sleep."""
    tick = threading.Event()
    return any(fact() or tick.wait(0.001) for _ in range(int(SOON * 1000)))


@pytest.mark.parametrize("size", [1, 4])
def test_item_is_stepped_until_it_ends(rig_of, size):
    rig = rig_of(size)
    script = Script(Again(), Again(), Ended())
    rig.pool.push("vm1", script)
    assert [script.wait().generation for _ in range(3)] == [1, 2, 3]
    assert eventually(lambda: rig.pool.depth("vm1") == 0)


def test_cpu_is_given_up_before_each_step(rig_of, monkeypatch):
    seen: SimpleQueue[str] = SimpleQueue()
    monkeypatch.setattr(os, "sched_yield", lambda: seen.put("way"))
    outcomes = iter((Again(), Again(), Ended()))

    def step(_lease: Lease[Any]) -> Outcome:
        seen.put("step")
        return next(outcomes)

    rig_of(1).pool.push("vm1", step)
    assert [seen.get(timeout=SOON) for _ in range(6)] == ["way", "step"] * 3


def test_pool_of_one_serves_everybody(rig_of):
    rig = rig_of(1)
    scripts = [Script(Again(), Ended()) for _ in range(20)]
    for number, script in enumerate(scripts):
        rig.pool.push(f"vm{number}", script)
    for script in scripts:
        assert script.wait().generation < script.wait().generation


def test_no_step_of_a_key_begins_while_another_runs(rig_of):
    rig = rig_of(2)
    (held,) = rig.hang("vm1")
    after = Script(Ended())
    other = Script(Ended())
    rig.pool.push("vm1", after)
    rig.pool.push("vm2", other)
    other.wait()
    assert after.leases.empty()
    held.gate.set()
    after.wait()


def test_threads_have_telling_names(rig_of):
    rig = rig_of(1)
    worker, lane = rig.held(), rig.held()
    rig.pool.push("vm1", worker)
    worker.wait()
    rig.pool.push("vm2", lane, urgent=True)
    lane.wait()
    assert (worker.thread.name, lane.thread.name) == ("worker-1", "lane-1")
    assert {"supervisor", "kill-1", "report-1"} <= {t.name for t in threading.enumerate()}
    assert worker.thread.daemon and lane.thread.daemon


def test_key_woken_from_outside_goes_on(rig_of):
    rig = rig_of(1)
    script = Script(Parked(), Ended())
    rig.pool.push("vm1", script)
    script.wait()
    assert eventually(lambda: rig.pool.parked == 1)
    assert rig.pool.wake("vm1")
    script.wait()


def test_wake_during_the_step_that_parks_is_not_lost(rig_of):
    rig = rig_of(1)
    woken = threading.Event()

    def step(lease: Lease[Any]) -> Outcome:
        if woken.is_set():
            rig.events.put(("went on", lease.key))
            return Ended()
        woken.set()
        assert not rig.pool.wake(lease.key)
        return Parked()

    rig.pool.push("vm1", step)
    assert rig.event() == ("went on", "vm1")


def test_parked_key_goes_on_at_its_deadline(rig_of):
    rig = rig_of(1)
    script = Script(Parked(60.0), Ended())
    rig.pool.push("vm1", script)
    script.wait()
    assert eventually(lambda: rig.pool.parked == 1)
    rig.at(59.0)
    assert rig.pool.parked == 1
    rig.at(60.0)
    assert script.wait().since == 60.0


def test_nearer_deadline_parked_later_is_not_slept_past(rig_of):
    rig = rig_of(1)
    far, near = Script(Parked(1e6)), Script(Parked(0.001), Ended())
    rig.pool.push("vm1", far)
    far.wait()
    rig.pool.push("vm2", near)
    near.wait()
    rig.clock.now = 0.002  # and no recheck: the supervisor has set its own alarm
    near.wait()


def test_overdue_call_is_reported_once_and_may_still_return(rig_of):
    rig = rig_of(1)
    (held,) = rig.hang("vm1")
    rig.at(CALL - 0.5)
    for now in (CALL, CALL + 0.5, CALL + 1.0):
        rig.at(now)
    assert rig.event() == ("overdue", "vm1")
    held.gate.set()
    after = Script(Ended())
    rig.pool.push("vm1", after)
    after.wait()
    assert (held.valid, held.valid_after) == (True, True)
    assert rig.pool.written_off == 0
    assert rig.events.empty()


def test_step_without_a_declared_call_is_left_alone(rig_of):
    rig = rig_of(2)
    (held,) = rig.hang("vm1")
    rig.pool.deadline(held.lease, None)
    rig.at(1e6)
    (other,) = rig.hang("vm2")
    rig.at(1e6 + CALL)
    assert rig.event() == ("overdue", "vm2")
    assert rig.events.empty()
    other.gate.set()


def test_others_are_served_as_soon_as_a_call_is_overdue(rig_of):
    rig = rig_of(1)
    rig.hang("vm1")
    rig.at(CALL)
    (other,) = rig.hang("vm2")
    assert other.thread.name == "worker-2"
    assert rig.pool.written_off == 0
    assert rig.event() == ("overdue", "vm1")


def test_worker_that_comes_back_in_time_is_not_one_more(rig_of):
    rig = rig_of(1)
    (held,) = rig.hang("vm1")
    rig.at(CALL)
    (other,) = rig.hang("vm2")
    held.gate.set()
    assert held.gone()
    assert (rig.pool.busy, rig.pool.idle) == (1, 0)
    after = Script(Ended())
    rig.pool.push("vm1", after)
    other.gate.set()
    after.wait()
    assert eventually(lambda: (rig.pool.busy, rig.pool.idle) == (0, 1))


def test_stuck_worker_is_written_off_and_replaced(rig_of):
    rig = rig_of(1)
    (held,) = rig.hang("vm1")
    rig.at(CALL)
    assert rig.event() == ("overdue", "vm1")
    rig.at(CALL + GRACE)
    assert rig.event() == ("written_off", "vm1")
    other = rig.held()
    rig.pool.push("vm2", other)
    other.wait()
    assert other.thread.name == "worker-2"
    assert (rig.pool.size, rig.pool.busy, rig.pool.idle, rig.pool.written_off) == (1, 1, 0, 1)
    assert rig.pool.holder("vm1") == Running("vm1", held, "worker-1", 0.0, CALL, True)


def test_key_of_a_stuck_step_is_blocked_until_the_owner_has_looked(rig_of):
    rig = rig_of(1)
    (held,) = rig.hang("vm1")
    rig.at(CALL)
    rig.event()
    rig.at(CALL + GRACE)
    rig.event()
    after = Script(Ended())
    rig.pool.push("vm1", after)
    assert rig.pool.snapshot("vm1").state is State.BLOCKED
    held.gate.set()
    assert rig.event() == ("returned", "vm1")
    assert held.gone()
    assert held.valid_after is False
    assert rig.pool.snapshot("vm1").items == (held, after)
    assert rig.pool.unblock("vm1")
    held.wait()
    after.wait()
    assert rig.pool.written_off == 0


def test_outcome_of_a_written_off_step_is_ignored(rig_of):
    rig = rig_of(1)
    held = rig.held(Parked(1.0))
    rig.pool.push("vm1", held)
    held.wait()
    rig.at(CALL)
    rig.event()
    rig.at(CALL + GRACE)
    rig.event()
    held.gate.set()
    assert rig.event() == ("returned", "vm1")
    assert rig.pool.snapshot("vm1").state is State.BLOCKED
    assert rig.pool.parked == 0


def test_owner_hears_of_the_loss_before_the_return(rig_of):
    told = threading.Event()
    heard: SimpleQueue[str] = SimpleQueue()

    def written_off(lease: Lease[Any]) -> None:
        assert told.wait(SOON)
        heard.put("written off")

    rig = rig_of(1, on_written_off=written_off, on_returned=lambda lease: heard.put("returned"))
    (held,) = rig.hang("vm1")
    rig.at(CALL)
    rig.event()
    rig.at(CALL + GRACE)
    assert eventually(lambda: rig.pool.written_off == 1)
    held.gate.set()
    assert eventually(lambda: rig.pool.written_off == 0)
    told.set()
    assert [heard.get(timeout=SOON), heard.get(timeout=SOON)] == ["written off", "returned"]


@pytest.mark.parametrize("size", [1, 3])
def test_hung_steps_as_many_as_workers_stop_neither_urgent_nor_other_keys(rig_of, size):
    rig = rig_of(size)
    keys = [f"vm{number}" for number in range(size)]
    rig.hang(*keys)
    urgent, other = Script(Ended()), Script(Ended())
    rig.pool.push("halted", urgent, urgent=True)
    rig.pool.push("other", other)
    urgent.wait()
    assert other.leases.empty()
    rig.at(CALL)
    assert sorted(rig.event() for _ in keys) == [("overdue", key) for key in keys]
    rig.at(CALL + GRACE)
    assert sorted(rig.event() for _ in keys) == [("written_off", key) for key in keys]
    other.wait()
    assert eventually(lambda: rig.pool.idle == size)


def test_stuck_lane_is_replaced_too(rig_of):
    rig = rig_of(1)
    (worker,) = rig.hang("vm1")
    lane = rig.held()
    rig.pool.push("vm2", lane, urgent=True)
    lane.wait()
    rig.at(CALL)
    assert sorted([rig.event(), rig.event()]) == [("overdue", "vm1"), ("overdue", "vm2")]
    worker.gate.set()
    assert eventually(lambda: rig.pool.busy == 0)
    rig.at(CALL + GRACE)
    assert rig.event() == ("written_off", "vm2")
    rig.hang("vm3")
    urgent = rig.held()
    rig.pool.push("vm4", urgent, urgent=True)
    urgent.wait()
    assert urgent.thread.name == "lane-2"


def test_kill_that_hangs_holds_up_neither_write_off_nor_refill(rig_of):
    stuck = threading.Event()
    killing: SimpleQueue[str] = SimpleQueue()

    def kill(lease: Lease[Any]) -> None:
        killing.put(lease.key)
        assert stuck.wait(SOON)

    rig = rig_of(2, on_overdue=kill, kills=1)
    rig.hang("vm1", "vm2")
    rig.at(CALL)
    first = killing.get(timeout=SOON)
    rig.at(CALL + GRACE)
    assert sorted([rig.event(), rig.event()]) == [("written_off", "vm1"), ("written_off", "vm2")]
    other = Script(Ended())
    rig.pool.push("vm3", other)
    other.wait()
    stuck.set()
    assert {first, killing.get(timeout=SOON)} == {"vm1", "vm2"}


def test_kill_that_comes_too_late_is_not_made(rig_of):
    stuck = threading.Event()
    killing: SimpleQueue[str] = SimpleQueue()

    def kill(lease: Lease[Any]) -> None:
        killing.put(lease.key)
        assert stuck.wait(SOON)

    rig = rig_of(3, on_overdue=kill, kills=1)
    held = dict(zip(("vm1", "vm2"), rig.hang("vm1", "vm2"), strict=True))
    rig.at(CALL)
    first = killing.get(timeout=SOON)
    second = held[{"vm1": "vm2", "vm2": "vm1"}[first]]
    second.gate.set()
    assert eventually(lambda: rig.pool.busy == 1)
    rig.hang("vm3")
    rig.at(2 * CALL)
    stuck.set()
    assert killing.get(timeout=SOON) == "vm3"


def test_callback_that_throws_costs_no_thread(rig_of):
    told: SimpleQueue[str] = SimpleQueue()

    def bug(lease: Lease[Any]) -> None:
        told.put(lease.key)
        raise RuntimeError(lease.key)

    rig = rig_of(2, on_overdue=bug, on_written_off=bug, kills=1)
    hung = rig.hang("vm1", "vm2")
    for now in (CALL, CALL + GRACE):
        rig.at(now)
        assert {told.get(timeout=SOON), told.get(timeout=SOON)} == {"vm1", "vm2"}
    for held in hung:
        held.gate.set()
    assert sorted([rig.event(), rig.event()]) == [("returned", "vm1"), ("returned", "vm2")]


@pytest.mark.parametrize("thrown", [ValueError("bug"), SystemExit(3)], ids=repr)
def test_step_that_throws_is_told_and_ends_its_item(rig_of, thrown):
    rig = rig_of(1)

    def bug(lease: Lease[Any]) -> Outcome:
        raise thrown

    after = Script(Ended())
    rig.pool.push("vm1", bug)
    rig.pool.push("vm1", after)
    assert rig.event() == (repr(thrown), "vm1")
    after.wait()


def test_crash_is_told_before_the_next_item_begins(rig_of):
    order: SimpleQueue[str] = SimpleQueue()
    rig = rig_of(2, on_crashed=lambda lease, exc: order.put("failed"))

    def bug(lease: Lease[Any]) -> Outcome:
        raise ValueError("bug")

    def after(lease: Lease[Any]) -> Outcome:
        order.put("next")
        return Ended()

    rig.pool.push("vm1", bug)
    rig.pool.push("vm1", after)
    assert [order.get(timeout=SOON), order.get(timeout=SOON)] == ["failed", "next"]


def test_step_that_throws_after_it_was_written_off_has_only_returned(rig_of):
    rig = rig_of(1)
    begun, gate = threading.Event(), threading.Event()
    rig.gates.append(gate)

    def bug(lease: Lease[Any]) -> Outcome:
        rig.pool.deadline(lease, CALL)
        begun.set()
        assert gate.wait(SOON)
        raise ValueError("late")

    rig.pool.push("vm1", bug)
    assert begun.wait(SOON)
    rig.at(CALL)
    rig.event()
    rig.at(CALL + GRACE)
    rig.event()
    gate.set()
    assert rig.event() == ("returned", "vm1")
    assert rig.pool.depth("vm1") == 1


def test_growing_helps_at_once(rig_of):
    rig = rig_of(1)
    rig.hang("vm1")
    others = [rig.held(), rig.held()]
    for key, held in zip(("vm2", "vm3"), others, strict=True):
        rig.pool.push(key, held)
    rig.pool.set_size(3)
    for held in others:
        held.wait()
    assert (rig.pool.size, rig.pool.busy, rig.pool.idle) == (3, 3, 0)


def test_idle_workers_too_many_leave_at_once(rig_of):
    rig = rig_of(3)
    hung = rig.hang("vm1", "vm2", "vm3")
    for held in hung[1:]:
        held.gate.set()
    assert eventually(lambda: rig.pool.idle == 2)
    rig.pool.set_size(1)
    assert all(held.gone() for held in hung[1:])
    assert hung[0].thread.is_alive()
    assert (rig.pool.size, rig.pool.busy, rig.pool.idle) == (1, 1, 0)


def test_busy_workers_too_many_leave_after_their_step(rig_of):
    rig = rig_of(2)
    script = Script(Again(), Ended())
    first, second = rig.hang("vm1", "vm2")
    rig.pool.push("vm3", script)
    rig.pool.set_size(1)
    first.gate.set()
    assert first.gone()
    assert script.leases.empty()
    assert (rig.pool.busy, rig.pool.idle) == (1, 0)
    second.gate.set()
    script.wait()


def test_shrinking_to_as_many_as_are_idle_leaves_a_pool_that_works(rig_of):
    rig = rig_of(4)
    for size in (1, 3, 2, 4, 1):
        rig.pool.set_size(size)
        scripts = [Script(Again(), Ended()) for _ in range(8)]
        for number, script in enumerate(scripts):
            rig.pool.push(f"vm{number}", script)
        for script in scripts:
            script.wait(), script.wait()
    assert eventually(lambda: (rig.pool.busy, rig.pool.idle) == (0, 1))


def test_worker_that_goes_on_hands_its_urgent_key_to_the_lane(rig_of):
    rig = rig_of(1)
    held, other = rig.held(Again()), rig.held()
    rig.pool.push("vm1", held)
    held.wait()
    rig.pool.push("vm2", other)
    rig.pool.push("vm1", Script(Ended()), urgent=True)
    held.gate.set()
    other.wait()
    held.wait()
    assert (other.thread.name, held.thread.name) == ("worker-1", "lane-1")
    held.outcome = Ended()


def test_worker_that_leaves_hands_its_urgent_key_to_the_lane(rig_of):
    rig = rig_of(2)
    rig.hang("vm1")
    held = rig.held(Again())
    rig.pool.push("vm2", held)
    held.wait()
    rig.pool.push("vm2", Script(Ended()), urgent=True)
    rig.pool.set_size(1)
    held.gate.set()
    held.wait()
    assert held.thread.name == "lane-1"
    held.outcome = Ended()


def test_pool_without_workers_is_refused(rig_of):
    rig = rig_of(2)
    with pytest.raises(ValueError, match="at least one worker, not 0"):
        rig.pool.set_size(0)
    assert rig.pool.size == 2


def test_written_off_worker_is_not_replaced_above_the_size(rig_of):
    rig = rig_of(2)
    rig.hang("vm1", "vm2")
    rig.pool.set_size(1)
    rig.at(CALL)
    rig.event(), rig.event()
    rig.at(CALL + GRACE)
    rig.event(), rig.event()
    assert eventually(lambda: (rig.pool.busy, rig.pool.idle) == (0, 1))


def test_stop_waits_for_steps_and_begins_no_more(rig_of):
    rig = rig_of(1)
    (held,) = rig.hang("vm1")
    after = Script(Ended())
    rig.pool.push("vm1", after)
    assert not rig.pool.stop(0.0)
    held.gate.set()
    assert rig.pool.stop(SOON)
    assert held.gone()
    rig.pool.push("vm2", after)
    rig.pool.set_size(4)
    assert after.leases.empty()
    assert rig.pool.queued == 2


def test_stop_ends_every_thread():
    before = set(threading.enumerate())
    rig = Rig(3, lane=2)
    ours = set(threading.enumerate()) - before
    assert len(ours) == 3 + 2 + 1 + 4 + 1
    assert rig.pool.stop(SOON)
    for thread in ours:
        thread.join(SOON)
    assert not any(thread.is_alive() for thread in ours)


def test_call_that_hangs_while_stopping_is_still_broken(rig_of):
    rig = rig_of(1)
    (held,) = rig.hang("vm1")
    stopped: SimpleQueue[bool] = SimpleQueue()
    stopper = threading.Thread(target=lambda: stopped.put(rig.pool.stop(SOON)))
    stopper.start()
    rig.at(CALL)
    assert rig.event() == ("overdue", "vm1")
    held.gate.set()
    assert stopped.get(timeout=SOON)
    stopper.join(SOON)


def test_diagnostics_name_who_holds_what_since_when(rig_of):
    rig = rig_of(2)
    rig.clock.now = 7.0
    (held,) = rig.hang("vm1")
    rig.pool.push("vm1", Script(Ended()))
    assert rig.pool.running() == [Running("vm1", held, "worker-1", 7.0, 7.0 + CALL, False)] or (
        rig.pool.running() == [Running("vm1", held, "worker-2", 7.0, 7.0 + CALL, False)]
    )
    assert rig.pool.holder("vm1") == rig.pool.running()[0]
    assert rig.pool.holder("vm2") is None
    assert [s.key for s in rig.pool.snapshots()] == ["vm1"]
    assert (rig.pool.head("vm1"), rig.pool.depth("vm1"), rig.pool.queued) == (held, 2, 1)


def test_no_key_wakes_two_workers(rig_of):
    rig = rig_of(4)
    assert eventually(lambda: rig.pool._workers.sleeping == 4)
    with rig.pool._lock:
        rig.pool._queues.push("vm1", Script(Ended()))
        rig.pool._queues.push("vm2", Script(Ended()))
        rig.pool._rouse()
        rig.pool._rouse()
        assert (rig.pool._workers.waking, rig.pool._workers.sleeping) == (2, 2)


def test_withdrawn_items_are_never_stepped(rig_of):
    rig = rig_of(1)
    (held,) = rig.hang("vm1")
    gone, kept = Script(), Script(Ended())
    rig.pool.push("vm1", gone)
    rig.pool.push("vm1", kept)
    assert rig.pool.withdraw("vm1", lambda item: item in {held, gone}) == [gone]
    held.gate.set()
    kept.wait()


def test_push_says_what_queues_say(rig_of):
    rig = rig_of(1, queues=Queues(per_key=1))
    rig.hang("vm1")
    assert rig.pool.push("vm1", Script(Ended()), coalesce="check")
    assert not rig.pool.push("vm1", Script(Ended()), coalesce="check")
    with pytest.raises(QueueFull):
        rig.pool.push("vm1", Script(Ended()))
    assert rig.pool.push("vm1", Script(Ended()), limited=False)


def test_deadline_of_a_lease_that_is_over_is_refused(rig_of):
    rig = rig_of(1)
    script = Script(Ended())
    rig.pool.push("vm1", script)
    lease = script.wait()
    assert eventually(lambda: rig.pool.depth("vm1") == 0)
    assert not rig.pool.deadline(lease, 1.0)


def test_the_supervisor_shows_that_it_lives_until_the_pool_is_stopped():
    rig = Rig(1)
    rig.pool.pulse.ask()
    rig.pool.recheck()
    assert eventually(lambda: rig.pool.pulse.answered)
    assert rig.pool.stop(SOON)
    rig.pool.pulse.ask()
    rig.pool.recheck()
    assert not rig.pool.pulse.answered
