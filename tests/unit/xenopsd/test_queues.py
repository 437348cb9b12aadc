from collections.abc import Iterable

import pytest

from xenopsd.queues import (
    STALE_ALLOWED,
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


def filled(*pushes: tuple[str, str]) -> Queues[str]:
    queues: Queues[str] = Queues()
    for key, item in pushes:
        assert queues.push(key, item)
    return queues


def leased(queues: Queues[str], now: float = 0.0, *, urgent_only: bool = False) -> Lease[str]:
    lease = queues.lease(now, urgent_only=urgent_only)
    assert lease is not None
    return lease


def drained(queues: Queues[str], *, urgent_only: bool = False) -> list[str]:
    """What is leased, in order, when every lease ends its item at once."""
    items = []
    while (lease := queues.lease(0.0, urgent_only=urgent_only)) is not None:
        items.append(lease.item)
        queues.release(lease, Ended(), 0.0)
    return items


def states(queues: Iterable[Snapshot[str]]) -> dict[str, State]:
    return {snapshot.key: snapshot.state for snapshot in queues}


def test_lease_tells_who_may_do_what_since_when():
    queues = filled(("vm1", "start"))
    assert queues.lease(5.0) == Lease("vm1", "start", 1, 5.0)


def test_nothing_ready_is_no_lease():
    assert Queues().lease(0.0) is None
    assert Queues().lease(0.0, urgent_only=True) is None


def test_key_is_leased_once_however_much_waits_on_it():
    queues = filled(("vm1", "start"), ("vm1", "pause"))
    leased(queues)
    assert queues.lease(1.0) is None
    assert queues.leased == 1


def test_items_of_a_key_come_in_the_order_pushed():
    assert drained(filled(("vm1", "a"), ("vm1", "b"), ("vm1", "c"))) == ["a", "b", "c"]


def test_keys_take_turns():
    queues = filled(("vm1", "a1"), ("vm1", "a2"), ("vm2", "b1"), ("vm2", "b2"), ("vm3", "c1"))
    assert drained(queues) == ["a1", "b1", "c1", "a2", "b2"]


def test_busy_key_goes_behind_those_that_wait():
    queues = filled(("vm1", "a"), ("vm2", "b"))
    first = leased(queues)
    queues.release(first, Again(), 1.0)
    assert [leased(queues).key, leased(queues).key] == ["vm2", "vm1"]


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        pytest.param(
            Again(), Snapshot("vm1", State.READY, True, 1, 2.0, None, ("a", "b")), id="again"
        ),
        pytest.param(
            Parked(9.0), Snapshot("vm1", State.PARKED, True, 1, 2.0, 9.0, ("a", "b")), id="parked"
        ),
        pytest.param(
            Parked(),
            Snapshot("vm1", State.PARKED, True, 1, 2.0, None, ("a", "b")),
            id="parked for ever",
        ),
        pytest.param(
            Ended(), Snapshot("vm1", State.READY, False, None, None, None, ("b",)), id="ended"
        ),
    ],
)
def test_release_leaves_the_key(outcome: Outcome, expected: Snapshot[str]):
    queues = filled(("vm1", "a"), ("vm1", "b"))
    assert queues.release(leased(queues, 1.0), outcome, 2.0)
    assert queues.snapshot("vm1") == expected
    assert queues.leased == 0


def test_generations_increase_over_all_keys():
    queues = filled(("vm1", "a"), ("vm2", "b"))
    first = leased(queues)
    queues.release(first, Again(), 0.0)
    assert [first.generation, leased(queues).generation, leased(queues).generation] == [1, 2, 3]


@pytest.mark.parametrize("outcome", [Again(), Parked(1.0), Parked(), Ended()], ids=repr)
def test_void_lease_changes_nothing(outcome: Outcome):
    queues = filled(("vm1", "a"), ("vm1", "b"))
    stale = leased(queues)
    queues.revoke(stale)
    before = list(queues)
    assert not queues.release(stale, outcome, 1.0)
    assert list(queues) == before
    assert queues.leased == 0


def test_second_release_of_a_lease_is_ignored():
    queues = filled(("vm1", "a"), ("vm1", "b"))
    lease = leased(queues)
    assert queues.release(lease, Again(), 0.0)
    assert not queues.release(lease, Ended(), 0.0)
    assert queues.depth("vm1") == 2


def test_late_release_does_not_touch_the_next_lease_of_its_key():
    queues = filled(("vm1", "a"))
    late = leased(queues)
    queues.revoke(late)
    queues.unblock("vm1")
    repair = leased(queues)
    assert not queues.release(late, Ended(), 0.0)
    assert queues.release(repair, Ended(), 0.0)
    assert queues.total == 0


def test_release_for_a_key_that_is_gone_is_ignored():
    queues = filled(("vm1", "a"))
    lease = leased(queues)
    queues.release(lease, Ended(), 0.0)
    assert not queues.release(lease, Ended(), 0.0)


def test_revoked_key_is_blocked_until_unblocked():
    queues = filled(("vm1", "a"), ("vm1", "b"))
    lease = leased(queues)
    assert queues.revoke(lease)
    assert not queues.revoke(lease)
    assert not queues.wake("vm1")
    assert queues.lease(1.0) is None
    assert states(queues) == {"vm1": State.BLOCKED}
    assert queues.unblock("vm1")
    assert leased(queues).item == "a"


@pytest.mark.parametrize("state", ["absent", "ready", "leased", "parked"])
def test_only_a_blocked_key_is_unblocked(state: str):
    queues = filled(*([] if state == "absent" else [("vm1", "a")]))
    if state in {"leased", "parked"}:
        lease = leased(queues)
        if state == "parked":
            queues.release(lease, Parked(), 0.0)
    before = list(queues)
    assert not queues.unblock("vm1")
    assert list(queues) == before


def test_wake_makes_a_parked_key_ready_once():
    queues = filled(("vm1", "a"))
    queues.release(leased(queues), Parked(), 0.0)
    assert queues.parked == 1
    assert queues.wake("vm1")
    assert not queues.wake("vm1")
    assert queues.parked == 0
    assert leased(queues).item == "a"


def test_wake_of_a_leased_key_undoes_its_parking():
    queues = filled(("vm1", "a"))
    lease = leased(queues)
    assert not queues.wake("vm1")
    queues.release(lease, Parked(99.0), 0.0)
    assert states(queues) == {"vm1": State.READY}
    assert queues.next_deadline() is None
    queues.release(leased(queues), Parked(), 0.0)
    assert states(queues) == {"vm1": State.PARKED}


def test_wake_of_a_leased_key_is_kept_over_another_step():
    queues = filled(("vm1", "a"))
    lease = leased(queues)
    queues.wake("vm1")
    queues.release(lease, Again(), 0.0)
    queues.release(leased(queues), Parked(), 0.0)
    assert states(queues) == {"vm1": State.READY}


def test_wake_of_a_leased_key_is_forgotten_when_its_head_ends():
    queues = filled(("vm1", "a"), ("vm1", "b"))
    lease = leased(queues)
    queues.wake("vm1")
    queues.release(lease, Ended(), 0.0)
    queues.release(leased(queues), Parked(), 0.0)
    assert states(queues) == {"vm1": State.PARKED}


def test_wake_of_an_unknown_or_ready_key_is_nothing():
    queues = filled(("vm1", "a"))
    assert not queues.wake("vm1")
    assert not queues.wake("vm2")
    queues.release(leased(queues), Parked(), 0.0)
    assert states(queues) == {"vm1": State.PARKED}


def test_parked_keys_expire_in_the_order_of_their_deadlines():
    queues = filled(*((key, key) for key in "abcd"))
    for deadline in (3.0, 1.0, 2.0, None):
        queues.release(leased(queues), Parked(deadline), 0.0)
    assert queues.next_deadline() == 1.0
    assert queues.expire(0.9) == []
    assert queues.expire(2.0) == ["b", "c"]
    assert queues.next_deadline() == 3.0
    assert drained(queues) == ["b", "c"]


def test_deadline_of_a_former_parking_is_void():
    queues = filled(("vm1", "a"))
    queues.release(leased(queues), Parked(1.0), 0.0)
    queues.wake("vm1")
    queues.release(leased(queues), Parked(5.0), 0.0)
    assert queues.expire(1.0) == []
    assert queues.next_deadline() == 5.0


def test_deadline_of_a_key_that_is_gone_is_void():
    queues = filled(("vm1", "a"))
    queues.release(leased(queues), Parked(1.0), 0.0)
    queues.wake("vm1")
    queues.release(leased(queues), Ended(), 0.0)
    queues.push("vm1", "b")
    assert queues.next_deadline() is None
    assert queues.expire(1.0) == []


def test_wakes_long_before_the_deadline_do_not_pile_up():
    queues = filled(("vm1", "a"))
    for _ in range(10 * STALE_ALLOWED):
        queues.release(leased(queues), Parked(1e9), 0.0)
        queues.wake("vm1")
    assert len(queues._deadlines) <= STALE_ALLOWED + 4


@pytest.mark.parametrize(
    ("begun", "matching", "gone", "left"),
    [
        pytest.param(False, "abc", ["a", "b", "c"], [], id="everything"),
        pytest.param(False, "ac", ["a", "c"], ["b"], id="head and tail"),
        pytest.param(True, "abc", ["b", "c"], ["a"], id="never a begun head"),
        pytest.param(False, "", [], ["a", "b", "c"], id="nothing matches"),
    ],
)
def test_withdraw_takes_what_has_not_begun(begun, matching, gone, left):
    queues = filled(("vm1", "a"), ("vm1", "b"), ("vm1", "c"))
    if begun:
        queues.release(leased(queues), Again(), 0.0)
    assert queues.withdraw("vm1", lambda item: item in matching) == gone
    assert drained(queues) == left
    assert (queues.total, queues.waiting) == (0, 0)


def test_withdraw_of_equal_items_takes_each_once():
    queues = filled(("vm1", "same"), ("vm1", "same"))
    lease = leased(queues)
    assert queues.withdraw("vm1", lambda _: True) == ["same"]
    queues.release(lease, Ended(), 0.0)
    assert len(queues) == 0


def test_withdraw_from_an_unknown_key_is_nothing():
    assert Queues[str]().withdraw("vm1", lambda _: True) == []


def test_withdraw_keeps_the_place_in_the_ready_list():
    queues = filled(("vm1", "a1"), ("vm1", "a2"), ("vm2", "b"))
    queues.withdraw("vm1", lambda item: item == "a1")
    assert drained(queues) == ["a2", "b"]


def test_withdraw_keeps_a_parked_key_parked():
    queues = filled(("vm1", "a"), ("vm1", "b"))
    queues.release(leased(queues), Parked(), 0.0)
    queues.withdraw("vm1", lambda _: True)
    assert states(queues) == {"vm1": State.PARKED}


def test_key_takes_so_many_and_no_more():
    queues: Queues[str] = Queues(per_key=2)
    queues.push("vm1", "a")
    queues.push("vm1", "b")
    with pytest.raises(QueueFull) as full:
        queues.push("vm1", "c")
    assert (full.value.limit, full.value.queued) == (2, 2)
    assert queues.push("vm2", "d")
    assert queues.depth("vm1") == 2


def test_queues_together_take_so_many_and_no_more():
    queues: Queues[str] = Queues(total=2)
    queues.push("vm1", "a")
    queues.push("vm2", "b")
    with pytest.raises(QueueFull) as full:
        queues.push("vm3", "c")
    assert (full.value.limit, full.value.queued) == (2, 2)
    assert "vm3" not in states(queues)


def test_repairs_and_checks_are_admitted_always():
    queues: Queues[str] = Queues(per_key=1, total=1)
    queues.push("vm1", "a")
    assert queues.push("vm1", "repair", limited=False)
    assert queues.push("vm2", "check", limited=False)


@pytest.mark.parametrize("way", ["begun", "ended", "withdrawn"])
def test_room_is_made_by_what_is(way: str):
    queues: Queues[str] = Queues(per_key=1, total=1)
    queues.push("vm1", "a")
    if way == "withdrawn":
        queues.withdraw("vm1", lambda _: True)
    else:
        lease = leased(queues)
        if way == "ended":
            queues.release(lease, Ended(), 0.0)
    assert queues.push("vm1", "b")
    with pytest.raises(QueueFull):
        queues.push("vm1", "c")


def test_equal_work_that_waits_is_done_once():
    queues: Queues[str] = Queues(per_key=1)
    assert queues.push("vm1", "check 1", coalesce="check")
    assert not queues.push("vm1", "check 2", coalesce="check")
    assert drained(queues) == ["check 1"]


@pytest.mark.parametrize("way", ["begun", "ended", "withdrawn", "other key", "other value"])
def test_equal_work_is_taken_again_after(way: str):
    queues: Queues[str] = Queues()
    queues.push("vm1", "a", coalesce="check")
    if way in {"begun", "ended"}:
        lease = leased(queues)
        if way == "ended":
            queues.release(lease, Ended(), 0.0)
    elif way == "withdrawn":
        queues.withdraw("vm1", lambda _: True)
    key = "vm2" if way == "other key" else "vm1"
    assert queues.push(key, "b", coalesce="look" if way == "other value" else "check")


def test_work_without_a_coalesce_value_is_never_dropped():
    assert drained(filled(("vm1", "a"), ("vm1", "a"))) == ["a", "a"]


def test_lane_serves_urgent_keys_alone_and_past_all_others():
    queues = filled(("vm1", "a"))
    queues.push("vm2", "shutdown", urgent=True)
    assert queues.ready_urgent == 1
    assert leased(queues, urgent_only=True).key == "vm2"
    assert queues.lease(0.0, urgent_only=True) is None


def test_any_worker_serves_an_urgent_key_in_its_turn():
    queues = filled(("vm1", "a"))
    queues.push("vm2", "shutdown", urgent=True)
    assert drained(queues) == ["a", "shutdown"]
    assert queues.ready_urgent == 0


def test_key_is_urgent_while_an_urgent_item_is_anywhere_on_it():
    queues = filled(("vm1", "a"))
    queues.push("vm1", "shutdown", urgent=True)
    queues.push("vm1", "b")
    assert drained(queues, urgent_only=True) == ["a", "shutdown"]
    assert drained(queues) == ["b"]


def test_key_is_urgent_after_a_lease_during_which_it_became_so():
    queues = filled(("vm1", "a"))
    lease = leased(queues)
    queues.push("vm1", "shutdown", urgent=True)
    assert queues.lease(0.0, urgent_only=True) is None
    queues.release(lease, Again(), 0.0)
    assert leased(queues, urgent_only=True).item == "a"


def test_withdrawn_urgent_item_leaves_its_key_an_ordinary_one():
    queues = filled(("vm1", "a"))
    queues.push("vm1", "shutdown", urgent=True)
    queues.withdraw("vm1", lambda item: item == "shutdown")
    assert queues.lease(0.0, urgent_only=True) is None
    assert drained(queues) == ["a"]


def test_urgent_item_does_not_unpark_its_key():
    queues = filled(("vm1", "a"))
    queues.release(leased(queues), Parked(), 0.0)
    queues.push("vm1", "shutdown", urgent=True)
    assert queues.lease(0.0, urgent_only=True) is None
    queues.wake("vm1")
    assert leased(queues, urgent_only=True).item == "a"


def test_queues_that_are_empty_cost_nothing():
    queues = filled(("vm1", "a"), ("vm2", "b"))
    queues.withdraw("vm2", lambda _: True)
    drained(queues)
    assert (len(queues), list(queues), queues.ready, queues.total) == (0, [], 0, 0)
    assert (queues.head("vm1"), queues.depth("vm1"), queues.snapshot("vm1")) == (None, 0, None)


def test_counts_tell_where_the_work_is():
    queues = filled(("vm1", "a"), ("vm1", "b"), ("vm2", "c"), ("vm3", "d"))
    queues.release(leased(queues), Parked(), 0.0)
    leased(queues)
    assert (queues.total, queues.waiting) == (4, 2)
    assert (queues.ready, queues.leased, queues.parked) == (1, 1, 1)
    assert (queues.head("vm1"), queues.depth("vm1")) == ("a", 2)
