"""The pool with real threads, resized all the time: the record shows at most one lease a key.

Each step notes its beginning before anything else and its end last of all, both inside the lease;
appending to a list is atomic, so the list is an order in which it all happened. Were two steps of
a key ever to overlap, two beginnings of it would follow each other.
"""

import random
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import chain, pairwise
from queue import SimpleQueue

import pytest

from xenopsd.queues import Again, Ended, Lease, Outcome, Parked
from xenopsd.workers import WorkerPool

SOON = 20.0  # seconds after which a test that waits has failed


@dataclass(eq=False)
class Work:
    """One item: what its steps do, one letter each.

    a: again · p: park for a moment · w: park until woken from outside · h: hang until broken by
    on_overdue · s: hang, stuck, until written off · e: end
    """

    key: str
    number: int
    script: str
    urgent: bool = False
    steps: int = 0


@dataclass(eq=False)
class Call:
    """A call that hangs until it is let go."""

    stuck: bool
    let_go: threading.Event = field(default_factory=threading.Event)


class Stress:
    """A pool, a thread that wakes, and the record of what was leased when."""

    def __init__(self, rng: random.Random, size: int) -> None:
        self.rng = rng
        self.record: list[tuple[str, bool, Work]] = []  # key, True at the beginning, item
        self.to_wake: SimpleQueue[str | None] = SimpleQueue()
        self.crashes: list[BaseException] = []
        self.calls: dict[int, Call] = {}  # by the generation of the lease
        self.told: list[str] = []
        self.left = 0
        self.counting = threading.Condition()
        self.pool: WorkerPool[Work] = WorkerPool(
            self.step,
            size=size,
            lane=2,
            grace=0.002,
            on_overdue=self.overdue,
            on_written_off=self.written_off,
            on_returned=self.returned,
            on_crashed=lambda lease, exc: self.crashes.append(exc),
        )
        self.waker = threading.Thread(target=self.wake_all, daemon=True)
        self.waker.start()

    def push(self, works: list[Work]) -> None:
        with self.counting:
            self.left += len(works)
        for work in works:
            self.pool.push(work.key, work, limited=False, urgent=work.urgent)

    def step(self, lease: Lease[Work]) -> Outcome:
        work = lease.item
        self.record.append((lease.key, True, work))
        outcome = self.act(lease, work.script[work.steps])
        work.steps += 1
        if isinstance(outcome, Ended):
            self.end(work)
        self.record.append((lease.key, False, work))
        return outcome

    def act(self, lease: Lease[Work], letter: str) -> Outcome:
        match letter:
            case "p":
                return Parked(time.monotonic() + 0.0005)
            case "w":
                # Before the parking: the wake comes during the lease or after it, who knows.
                self.to_wake.put(lease.key)
                return Parked()
            case "h" | "s":
                call = self.calls[lease.generation] = Call(stuck=letter == "s")
                self.pool.deadline(lease, time.monotonic() + 0.001)
                assert call.let_go.wait(SOON)
                return Parked(time.monotonic() + 0.0005)
            case "e":
                return Ended()
        return Again()

    def overdue(self, lease: Lease[Work]) -> None:
        self.told.append("overdue")
        call = self.calls[lease.generation]
        if not call.stuck:
            call.let_go.set()

    def written_off(self, lease: Lease[Work]) -> None:
        self.told.append("written off")
        self.calls[lease.generation].let_go.set()

    def returned(self, lease: Lease[Work]) -> None:
        self.told.append("returned")
        assert self.pool.unblock(lease.key)

    def wake_all(self) -> None:
        while (key := self.to_wake.get()) is not None:
            self.pool.wake(key)

    def end(self, work: Work) -> None:
        with self.counting:
            self.left -= 1
            if not self.left:
                self.counting.notify_all()

    def all_ended(self, timeout: float) -> bool:
        with self.counting:
            return self.counting.wait_for(lambda: not self.left, timeout)

    def resize(self, most: int) -> None:
        """Then leave it alone: a resize would make up for a thread that was not woken."""
        for _ in range(50):
            self.pool.set_size(self.rng.randint(1, most))
            if self.all_ended(self.rng.random() * 0.005):
                break
        assert self.all_ended(SOON), self.stuck()

    def stuck(self) -> str:
        states = Counter(snapshot.state for snapshot in self.pool.snapshots())
        return f"{self.left} left; {states}; busy {self.pool.busy}, idle {self.pool.idle}"

    def close(self) -> None:
        self.to_wake.put(None)
        self.waker.join(SOON)
        assert self.pool.stop(SOON)


@pytest.fixture(params=[1, 2, 3], ids="seed {}".format)
def rng(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(request.param)


@pytest.fixture
def stress(rng):
    stress = Stress(rng, size=rng.randint(1, 8))
    yield stress
    stress.close()


def scripts(rng: random.Random, letters: str) -> str:
    return "".join(rng.choices(letters, k=rng.randint(0, 4))) + "e"


def overlapping(record: list[tuple[str, bool, Work]]) -> list[str]:
    """The keys that had a step begin before the last one ended."""
    by_key: defaultdict[str, list[bool]] = defaultdict(list)
    for key, begins, _ in record:
        by_key[key].append(begins)
    return [key for key, marks in by_key.items() if any(a == b for a, b in pairwise(marks))]


def order_begun(record: list[tuple[str, bool, Work]]) -> dict[str, list[int]]:
    """By key, its items in the order of their steps, repetitions in a row left out."""
    order: defaultdict[str, list[int]] = defaultdict(list)
    for key, _, work in record:
        if order[key][-1:] != [work.number]:
            order[key].append(work.number)
    return dict(order)


def check(stress: Stress, works: dict[str, list[Work]]) -> None:
    assert stress.crashes == []
    assert overlapping(stress.record) == []
    assert order_begun(stress.record) == {
        key: [w.number for w in mine] for key, mine in works.items()
    }
    everything = list(chain.from_iterable(works.values()))
    assert [w.steps for w in everything] == [len(w.script) for w in everything]


def test_every_key_has_one_lease_at_a_time_while_the_pool_is_resized(stress, rng):
    works = {
        key: [Work(key, n, scripts(rng, "aapw"), rng.random() < 0.05) for n in range(3)]
        for key in (f"vm{number}" for number in range(2000))
    }
    pushed = threading.Thread(
        target=lambda: [stress.push([mine[n]]) for n in (1, 2) for mine in works.values()]
    )
    stress.push([mine[0] for mine in works.values()])
    pushed.start()
    stress.resize(64)
    pushed.join(SOON)
    stress.resize(64)
    check(stress, works)


def test_stuck_calls_break_nothing_either(stress, rng):
    works = {
        key: [Work(key, n, scripts(rng, "aapwwhs"), rng.random() < 0.1) for n in range(3)]
        for key in (f"vm{number}" for number in range(100))
    }
    stress.push(list(chain.from_iterable(works.values())))
    stress.resize(16)
    check(stress, works)
    stuck = sum(w.script.count("s") for mine in works.values() for w in mine)
    told = Counter(stress.told)
    assert told["written off"] == told["returned"] >= stuck > 0
    assert told["overdue"] >= stuck


def test_one_item_at_a_time_always_finds_a_worker(stress, rng):
    """Nothing but the push wakes anyone, and who was woken may have to leave."""
    for number in range(3000):
        stress.push([Work("vm", number, rng.choice(["e", "ae", "we"]), urgent=number % 7 == 0)])
        if number % 3:
            stress.pool.set_size(rng.randint(1, 4))
        assert stress.all_ended(SOON), stress.stuck()
    assert overlapping(stress.record) == []
