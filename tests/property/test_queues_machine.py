"""Queues against a model that keeps the same promises in the plainest way.

The model is a list of items a key and one list of ready keys. Besides agreeing with it the machine
checks the promises themselves from what was handed out:

- one lease: a key is leased only when no lease of it is out and none was written off;
- FIFO: what ends is the oldest item of its key that was neither ended nor withdrawn;
- fairness: while a key stays ready, no other key gets two of the leases for everybody
  (urgent_only leases pass by, and are not counted);
- nothing lost, nothing twice: pushed = waiting + ended + withdrawn;
- no lost wake: after a wake during a lease the same head is not parked by a release.
"""

from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from xenopsd.queues import (
    Again,
    Ended,
    Lease,
    Outcome,
    Parked,
    QueueFull,
    Queues,
    Snapshot,
    State,
)

PER_KEY = 3
TOTAL = 7
KEYS = st.sampled_from("abc")
AHEAD = st.sampled_from([None, -1.0, 0.0, 1.0, 2.0, 5.0])


@dataclass
class Item:
    number: int
    limited: bool
    coalesce: str | None
    urgent: bool


@dataclass
class Line:
    items: list[Item] = field(default_factory=list)
    state: State = State.READY
    begun: bool = False
    woken: bool = False
    generation: int | None = None
    since: float | None = None
    deadline: float | None = None

    @property
    def waiting(self) -> list[Item]:
        return self.items[1:] if self.begun else self.items

    @property
    def urgent(self) -> bool:
        return any(item.urgent for item in self.items)


class QueuesMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.queues: Queues[Item] = Queues(per_key=PER_KEY, total=TOTAL)
        self.now = 0.0
        self.lines: dict[str, Line] = {}
        self.ready: list[str] = []
        self.urgent: list[str] = []
        self.out: dict[int, Lease[Item]] = {}
        self.void: list[Lease[Item]] = []
        self.numbers = 0
        self.pushed: dict[str, list[int]] = {}
        self.passed: dict[str, set[str]] = {}  # ready key -> keys leased since it became ready

    # -- the model ---------------------------------------------------------------------------

    def make_ready(self, key: str) -> None:
        line = self.lines[key]
        line.state = State.READY
        line.deadline = None
        self.ready.append(key)
        self.passed[key] = set()
        if line.urgent:
            self.urgent.append(key)

    def unready(self, key: str) -> None:
        self.passed.pop(key, None)
        for ready in (self.ready, self.urgent):
            if key in ready:
                ready.remove(key)

    def refused(self, key: str) -> tuple[int, int] | None:
        mine = sum(i.limited for i in self.lines.get(key, Line()).waiting)
        everyones = sum(i.limited for line in self.lines.values() for i in line.waiting)
        if mine >= PER_KEY:
            return PER_KEY, mine
        return (TOTAL, everyones) if everyones >= TOTAL else None

    def some_key(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.lines)))

    # -- the rules ---------------------------------------------------------------------------

    @rule(
        key=KEYS,
        limited=st.booleans(),
        coalesce=st.sampled_from([None, None, "check", "look"]),
        urgent=st.sampled_from([False, False, True]),
    )
    def push(self, key: str, limited: bool, coalesce: str | None, urgent: bool) -> None:
        self.numbers += 1
        item = Item(self.numbers, limited, coalesce, urgent)
        line = self.lines.get(key, Line())
        dropped = coalesce is not None and coalesce in {i.coalesce for i in line.waiting}
        refused = self.refused(key) if limited and not dropped else None
        push = partial(self.queues.push, key, item, limited=limited)
        if refused is not None:
            with pytest.raises(QueueFull) as full:
                push(coalesce=coalesce, urgent=urgent)
            assert (full.value.limit, full.value.queued) == refused
            return
        assert push(coalesce=coalesce, urgent=urgent) is not dropped
        if not dropped:
            self.appended(key, item)

    def appended(self, key: str, item: Item) -> None:
        self.pushed.setdefault(key, []).append(item.number)
        new = key not in self.lines
        line = self.lines.setdefault(key, Line())
        line.items.append(item)
        if new:
            self.make_ready(key)
        elif line.state is State.READY and item.urgent and key not in self.urgent:
            self.urgent.append(key)

    @rule(urgent_only=st.booleans())
    def lease(self, urgent_only: bool) -> None:
        ready = self.urgent if urgent_only else self.ready
        lease = self.queues.lease(self.now, urgent_only=urgent_only)
        if lease is None:
            assert not ready
            return
        assert lease.key == ready[0]
        if not urgent_only:
            self.check_fairness(lease.key)
        self.check_one_lease(lease)
        self.unready(lease.key)
        line = self.lines[lease.key]
        assert lease.item is line.items[0]
        assert lease.since == self.now
        line.state, line.begun = State.LEASED, True
        line.generation, line.since = lease.generation, self.now
        self.out[lease.generation] = lease

    def check_fairness(self, key: str) -> None:
        for other, passed in self.passed.items():
            if other != key:
                assert key not in passed, f"{key} was leased twice while {other} was ready"
                passed.add(key)

    def check_one_lease(self, lease: Lease[Item]) -> None:
        assert lease.key not in {other.key for other in self.out.values()}
        assert self.lines[lease.key].state is not State.BLOCKED
        former = [other.generation for other in (*self.out.values(), *self.void)]
        assert all(lease.generation > generation for generation in former)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), ahead=AHEAD)
    def release(self, data: st.DataObject, ahead: float | None) -> None:
        generation = data.draw(st.sampled_from(sorted(self.out)))
        deadline = None if ahead is None else self.now + ahead
        outcomes: list[Outcome] = [Again(), Parked(deadline), Parked(deadline), Ended()]
        outcome = data.draw(st.sampled_from(outcomes))
        lease = self.out.pop(generation)
        assert self.queues.release(lease, outcome, self.now)
        self.void.append(lease)
        self.released(lease.key, outcome)

    @rule(data=st.data(), ahead=AHEAD)
    def turn(self, data: st.DataObject, ahead: float | None) -> None:
        """A lease and a release in one, so that long lives of a key come up often."""
        self.lease(urgent_only=False)
        if self.out:
            self.release(data, ahead)

    def released(self, key: str, outcome: Outcome) -> None:
        line = self.lines[key]
        line.since = self.now
        match outcome:
            case Again():
                self.make_ready(key)
            case Parked() if line.woken:
                line.woken = False
                self.make_ready(key)
                snapshot = self.queues.snapshot(key)
                assert snapshot is not None
                assert snapshot.state is State.READY, "the wake was lost"
            case Parked(deadline):
                line.state, line.deadline = State.PARKED, deadline
            case Ended():
                self.ended(key, line)

    def ended(self, key: str, line: Line) -> None:
        assert line.items.pop(0).number == self.pushed[key].pop(0)
        if line.items:
            self.lines[key] = Line(line.items)
            self.make_ready(key)
        else:
            del self.lines[key]

    @precondition(lambda self: self.void)
    @rule(data=st.data(), outcome=st.sampled_from([Again(), Parked(), Parked(1.0), Ended()]))
    def release_late(self, data: st.DataObject, outcome: Outcome) -> None:
        assert not self.queues.release(data.draw(st.sampled_from(self.void)), outcome, self.now)

    @precondition(lambda self: self.lines)
    @rule(data=st.data())
    def wake(self, data: st.DataObject) -> None:
        key = self.some_key(data)
        line = self.lines[key]
        parked = line.state is State.PARKED
        assert self.queues.wake(key) is parked
        if line.state is State.LEASED:
            line.woken = True
        if parked:
            self.make_ready(key)

    @rule(passed=st.sampled_from([0.0, 1.0, 3.0]))
    def expire(self, passed: float) -> None:
        self.now += passed
        due = {
            key: line.deadline
            for key, line in self.lines.items()
            if line.deadline is not None and line.deadline <= self.now
        }
        expired = self.queues.expire(self.now)
        assert sorted(expired) == sorted(due)
        assert [due[key] for key in expired] == sorted(due.values())
        for key in expired:
            self.make_ready(key)

    @precondition(lambda self: self.lines)
    @rule(data=st.data(), numbers=st.sets(st.integers(0, 3)))
    def withdraw(self, data: st.DataObject, numbers: set[int]) -> None:
        key = self.some_key(data)
        line = self.lines[key]
        gone = [item for item in line.waiting if item.number % 4 in numbers]
        assert self.queues.withdraw(key, lambda item: item.number % 4 in numbers) == gone
        for item in gone:
            line.items.remove(item)
            self.pushed[key].remove(item.number)
        if key in self.urgent and not line.urgent:
            self.urgent.remove(key)
        if gone and not line.items:
            self.unready(key)
            del self.lines[key]

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        lease = self.out.pop(data.draw(st.sampled_from(sorted(self.out))))
        assert self.queues.revoke(lease)
        self.void.append(lease)
        self.lines[lease.key].state = State.BLOCKED

    @precondition(lambda self: self.void)
    @rule(data=st.data())
    def revoke_late(self, data: st.DataObject) -> None:
        assert not self.queues.revoke(data.draw(st.sampled_from(self.void)))

    @precondition(lambda self: self.lines)
    @rule(data=st.data())
    def unblock(self, data: st.DataObject) -> None:
        key = self.some_key(data)
        blocked = self.lines[key].state is State.BLOCKED
        assert self.queues.unblock(key) is blocked
        if blocked:
            self.make_ready(key)

    # -- what always holds -------------------------------------------------------------------

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert {snapshot.key: snapshot for snapshot in self.queues} == {
            key: Snapshot(
                key=key,
                state=line.state,
                begun=line.begun,
                generation=line.generation,
                since=line.since,
                deadline=line.deadline,
                items=tuple(line.items),
            )
            for key, line in self.lines.items()
        }

    @invariant()
    def counts_what_is_there(self) -> None:
        lines = self.lines.values()
        assert self.queues.total == sum(len(line.items) for line in lines)
        assert self.queues.waiting == sum(len(line.waiting) for line in lines)
        assert self.queues.leased == len(self.out)
        assert self.queues.parked == sum(line.state is State.PARKED for line in lines)
        assert self.queues.ready == len(self.ready)
        assert self.queues.ready_urgent == len(self.urgent)

    @invariant()
    def loses_nothing(self) -> None:
        there = {s.key: [item.number for item in s.items] for s in self.queues}
        assert there == {key: numbers for key, numbers in self.pushed.items() if numbers}

    @rule()
    def knows_the_nearest_deadline(self) -> None:
        # No invariant: it sweeps void deadlines out, which would hide that they are still there.
        deadlines = [line.deadline for line in self.lines.values() if line.deadline is not None]
        assert self.queues.next_deadline() == min(deadlines, default=None)


QueuesMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestQueues = QueuesMachine.TestCase
