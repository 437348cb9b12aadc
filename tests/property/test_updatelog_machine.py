"""Clients that follow their tokens, however slow or forgetful, end up with the truth."""

from dataclasses import dataclass, field

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from xenopsd.updatelog import UpdateLog

TOMBSTONES = 2
VMS = ["a", "b"]
OBJECTS = [
    *(("vm", vm) for vm in VMS),
    *((kind, f"{vm}/{name}") for vm in VMS for kind, name in (("vbd", "d"), ("vif", "n"))),
    ("task", "a"),
    ("host", "host"),
]
BAD = ["", "e", "e.", "garbage", "old.1", "e.-1", "e.00", "e.99999"]

objects = st.sampled_from(OBJECTS)
vms = st.sampled_from(VMS)
barriers = st.integers(0, 2)


class Truth:
    """What follows from a history, found by reading all of it."""

    def __init__(self, history):
        self.number = 0
        self.changed = {}  # key: its number; of the living
        self.removed = {}  # key: its number; of the remembered
        self.forgotten = 0
        self.barriers = {}  # id: (its number, {member: its number then})
        for what, *of in history:
            getattr(self, what)(*of)

    def touch(self, key):
        self.number += 1
        self.removed.pop(key, None)
        self.changed[key] = self.number

    def remove(self, key):
        self.number += 1
        self.changed.pop(key, None)
        self.removed[key] = self.number
        while len(self.removed) > TOMBSTONES:
            oldest = min(self.removed, key=self.removed.get)
            self.forgotten = self.removed.pop(oldest)

    def forget(self, key):
        self.changed.pop(key, None)

    def inject(self, id, vm):
        self.number += 1
        known = self.changed | self.removed
        self.barriers[id] = (self.number, {k: n for k, n in known.items() if belongs(k, vm)})

    def withdraw(self, id):
        del self.barriers[id]

    def answer(self, token):
        """(updates, barriers, resync) for a token, as tuples; None where there is nothing."""
        number = {f"e.{n}": n for n in range(self.number + 1)}.get(token)
        resync = token is not None and (number is None or number < self.forgotten)
        if number is None or resync:
            told, heard = {n: (*k, False) for k, n in self.changed.items()}, 0
        else:
            everything = {n: (*k, False) for k, n in self.changed.items()}
            everything |= {n: (*k, True) for k, n in self.removed.items()}
            told, heard = {n: u for n, u in everything.items() if n > number}, number
        updates = [told[n] for n in sorted(told)]
        marks = [
            (each, [(*k, k not in self.changed) for n, k in flip(members) if n > heard])
            for each, (at, members) in sorted(self.barriers.items(), key=lambda item: item[1][0])
            if at > heard
        ]
        return (updates, marks, resync) if updates or marks or resync else None


def flip(members):
    return sorted((n, key) for key, n in members.items())


def belongs(key, vm):
    return key[0] in ("vm", "vbd", "vif") and key[1].split("/")[0] == vm


def plain(batch):
    def tuples(updates):
        return [(u.type, u.id, u.removed) for u in updates]

    if batch is None:
        return None
    marks = [(b.id, tuples(b.updates)) for b in batch.barriers]
    return tuples(batch.updates), marks, batch.resync


@dataclass
class Follower:
    """Looks at what it is told to look at, and remembers the number that it had then."""

    token: str | None = None
    view: dict = field(default_factory=dict)
    barriers: list = field(default_factory=list)  # numbers of those it was told

    def hear(self, batch, truth):
        if batch.resync:
            named = {(u.type, u.id) for u in batch.updates}
            self.view = {key: n for key, n in self.view.items() if key in named}
            self.barriers = []  # all that hold are told again
        # Barriers first, as a client does that acts on them when it has read their updates.
        told = [u for barrier in batch.barriers for u in barrier.updates] + batch.updates
        for update in told:
            key = (update.type, update.id)
            if update.removed:
                self.view.pop(key, None)
            else:
                self.view[key] = truth.changed[key]
        self.barriers += [truth.barriers[b.id][0] for b in batch.barriers]
        self.token = batch.next


class FollowedLog(RuleBasedStateMachine):
    """Objects change; clients poll now and then, or begin anew."""

    @initialize(count=st.integers(1, 3))
    def begin(self, count):
        self.log = UpdateLog("e", tombstones=TOMBSTONES)
        self.history = []
        self.followers = [Follower() for _ in range(count)]

    @property
    def truth(self):
        return Truth(self.history)

    @rule(key=objects)
    def touch(self, key):
        self.log.touch(*key)
        self.history.append(("touch", key))

    @rule(key=objects)
    def remove(self, key):
        self.log.remove(*key)
        self.history.append(("remove", key))

    @rule()
    def forget(self):
        self.log.forget("task", "a")
        self.history.append(("forget", ("task", "a")))

    @rule(vm=vms)
    def refresh(self, vm):
        members = sorted((n, k) for k, n in self.truth.changed.items() if belongs(k, vm))
        self.log.refresh(vm)
        self.history += [("touch", key) for _, key in members]

    @rule(id=barriers, vm=vms)
    def inject(self, id, vm):
        self.log.inject_barrier(id, vm)
        self.history.append(("inject", id, vm))

    @precondition(lambda self: self.truth.barriers)
    @rule(data=st.data())
    def withdraw(self, data):
        known = data.draw(st.sampled_from(sorted(self.truth.barriers)))
        self.log.remove_barrier(known)
        self.history.append(("withdraw", known))

    @rule(data=st.data())
    def poll(self, data):
        follower = data.draw(st.sampled_from(self.followers))
        batch = self.log.get(follower.token)
        if batch is not None:
            follower.hear(batch, self.truth)

    @rule(data=st.data(), token=st.sampled_from(BAD))
    def come_back_from_another_life(self, data, token):
        follower = data.draw(st.sampled_from(self.followers))
        follower.token, follower.barriers = token, []
        follower.view["vm", "believed in"] = 1

    @rule(data=st.data())
    def restart(self, data):
        follower = data.draw(st.sampled_from(self.followers))
        follower.token, follower.barriers, follower.view = None, [], {}

    @invariant()
    def every_token_is_answered_as_the_history_says(self):
        if not hasattr(self, "log"):
            return
        truth = self.truth
        assert self.log.last == f"e.{truth.number}"
        for token in (None, *BAD, *(f"e.{n}" for n in range(truth.number + 1))):
            assert plain(self.log.get(token)) == truth.answer(token)

    @rule()
    def everybody_catches_up(self):
        truth = self.truth
        for follower in self.followers:
            batch = self.log.get(follower.token)
            if batch is not None:
                follower.hear(batch, truth)
            assert self.log.get(follower.token) is None
            # What aged out unannounced may still be believed in, and nothing else.
            if ("task", "a") not in truth.changed:
                follower.view.pop(("task", "a"), None)
            assert follower.view == truth.changed
            # Each barrier once, in order, and none of those that hold was left out.
            assert follower.barriers == sorted(set(follower.barriers))
            assert {at for at, _ in truth.barriers.values()} <= set(follower.barriers)


FollowedLog.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestFollowedLog = FollowedLog.TestCase
