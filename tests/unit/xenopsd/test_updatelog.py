import pytest

from idl.errors import TooManyRequests
from idl.update import Barrier, Update
from xenopsd.updatelog import UpdateLog, Whole


def made(*ids, **limits):
    log = UpdateLog("e", **limits)
    for each in ids:
        log.touch("vm", each)
    return log


def vm(id, removed=False):
    return Update(type="vm", id=id, removed=removed)


def told(batch):
    return [("-" if u.removed else "") + u.id for u in batch.updates]


def test_an_empty_log_has_nothing_to_tell_from_the_beginning():
    assert made().get(None) is None


def test_the_beginning_names_every_object_that_exists_and_no_removed_one():
    log = made("a", "b", "c")
    log.remove("vm", "b")
    batch = log.get(None)
    assert batch.updates == [vm("a"), vm("c")]
    assert (batch.next, batch.resync) == (log.last, False)


def test_a_log_of_removals_alone_has_nothing_to_tell_from_the_beginning():
    log = made("a")
    log.remove("vm", "a")
    assert log.get(None) is None


def test_the_newest_token_has_nothing_to_hear():
    log = made("a")
    assert log.get(log.last) is None


def test_changes_are_told_once_and_in_the_order_of_the_last_one():
    log = made("a", "b", "c")
    since = log.last
    for each in ("b", "a", "b"):
        log.touch("vm", each)
    batch = log.get(since)
    assert told(batch) == ["a", "b"]
    assert log.get(batch.next) is None


def test_a_removal_stands_among_the_changes_in_its_order():
    log = made("a", "b", "c")
    since = log.last
    log.touch("vm", "c")
    log.remove("vm", "a")
    log.touch("vm", "b")
    assert told(log.get(since)) == ["c", "-a", "b"]


def test_an_object_that_came_back_is_not_removed():
    log = made("a")
    since = log.last
    log.remove("vm", "a")
    log.touch("vm", "a")
    assert told(log.get(since)) == ["a"]
    assert log.stats()["tombstones"] == 0


def test_a_removal_repeated_is_told_again():
    log = made("a")
    log.remove("vm", "a")
    since = log.last
    log.remove("vm", "a")
    assert told(log.get(since)) == ["-a"]


def test_objects_of_one_id_and_different_types_are_different():
    log = made("a")
    log.touch("task", "a")
    log.remove("vm", "a")
    assert log.get(None).updates == [Update(type="task", id="a")]


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("", id="empty"),
        pytest.param("3", id="a number without an epoch"),
        pytest.param("e", id="an epoch without a number"),
        pytest.param("e.", id="no digits"),
        pytest.param("other.1", id="another epoch"),
        pytest.param("e.e.1", id="an epoch too many"),
        pytest.param("e.3", id="the future"),
        pytest.param("e.-1", id="a negative number"),
        pytest.param("e.01", id="a leading zero"),
        pytest.param("e.1_0", id="an underscore"),
        pytest.param("e. 1", id="white space"),
        pytest.param("e.١", id="a digit of another script"),
        pytest.param("e.²", id="a superscript"),
        pytest.param("e." + "9" * 5000, id="more digits than Python converts"),
    ],
)
def test_what_is_no_token_of_this_log_is_answered_with_a_resync(token):
    log = made("a", "b")
    batch = log.get(token)
    assert (told(batch), batch.resync, batch.next) == (["a", "b"], True, log.last)


def test_an_epoch_may_hold_a_dot():
    log = UpdateLog("e.f")
    assert log.parse(log.last) == 0


def test_a_resync_is_answered_even_when_nothing_exists():
    batch = made().get("garbage")
    assert (batch.updates, batch.barriers, batch.resync) == ([], [], True)


def test_a_resync_is_followed_by_no_second_one():
    log = made("a", "b", tombstones=1)
    log.remove("vm", "a")
    log.remove("vm", "b")
    batch = log.get("e.0")
    assert batch.resync
    assert log.get(batch.next) is None


def test_who_missed_a_forgotten_removal_gets_a_resync_and_who_did_not_does_not():
    log = made("a", "b", "c", tombstones=1)
    before = log.last
    log.remove("vm", "a")
    after = log.last
    log.remove("vm", "b")  # a's removal is remembered no more
    assert (told(log.get(before)), log.get(before).resync) == (["c"], True)
    assert (told(log.get(after)), log.get(after).resync) == (["-b"], False)


def test_tombstones_that_came_back_do_not_count_against_the_limit():
    log = made("a", "b", tombstones=1)
    since = log.last
    log.remove("vm", "a")
    log.touch("vm", "a")
    log.remove("vm", "b")
    assert told(log.get(since)) == ["a", "-b"]


def test_what_ages_out_is_not_announced():
    log = made("a")
    log.touch("task", "t")
    since = log.last
    log.forget("task", "t")
    assert log.get(since) is None
    assert told(log.get(None)) == ["a"]


def test_forgetting_a_removed_object_keeps_its_removal():
    log = made("a")
    since = log.last
    log.remove("vm", "a")
    log.forget("vm", "a")
    assert told(log.get(since)) == ["-a"]


def test_a_refresh_announces_the_vm_and_its_devices_and_nothing_else():
    log = made("a", "b")
    log.touch("vbd", "a/disk")
    log.touch("vif", "b/net")
    log.touch("vif", "a/net")
    log.remove("vif", "a/net")
    since = log.last
    log.refresh("a")
    log.refresh("unknown")
    assert told(log.get(since)) == ["a", "a/disk"]


def test_positions_that_tell_everything_are_told_apart():
    log = made("a")
    assert log.parse(None) is Whole.BEGINNING
    assert log.parse("x") is Whole.LOST
    assert log.parse(log.last) == 1


# Barriers


def test_a_barrier_holds_what_was_pending_of_its_vm_for_each_client():
    log = made("a", "b")
    log.touch("vbd", "a/disk")
    log.touch("task", "a")
    disk = Update(type="vbd", id="a/disk")
    log.inject_barrier(7, "a")
    assert log.get(None).barriers == [Barrier(id=7, updates=[vm("a"), disk])]
    assert log.get("e.2").barriers == [Barrier(id=7, updates=[disk])]
    assert log.get("e.4").barriers == [Barrier(id=7, updates=[])]


def test_a_barrier_alone_ends_the_wait_and_is_told_once():
    log = made("a")
    since = log.last
    log.inject_barrier(7, "a")
    batch = log.get(since)
    assert (batch.updates, batch.barriers) == ([], [Barrier(id=7, updates=[])])
    assert log.get(batch.next) is None


def test_barriers_are_told_in_the_order_of_injection_until_removed():
    log = made("a")
    for each in (3, 1, 2):
        log.inject_barrier(each, "a")
    log.remove_barrier(1)
    assert [b.id for b in log.get(None).barriers] == [3, 2]
    assert [b.id for b in log.get("x").barriers] == [3, 2]


def test_injecting_a_known_id_replaces_the_barrier_and_moves_it_to_the_end():
    log = made("a", "b")
    log.inject_barrier(1, "a")
    log.inject_barrier(2, "a")
    since = log.last
    log.inject_barrier(1, "b")
    assert log.get(since).barriers == [Barrier(id=1, updates=[])]
    assert log.get(None).barriers == [
        Barrier(id=2, updates=[vm("a")]),
        Barrier(id=1, updates=[vm("b")]),
    ]


def test_a_change_after_the_barrier_is_pending_in_both():
    log = made("a")
    log.inject_barrier(1, "a")
    log.touch("vm", "a")
    batch = log.get("e.0")
    assert (batch.updates, batch.barriers) == ([vm("a")], [Barrier(id=1, updates=[vm("a")])])
    # To who had heard of it at the injection, it is an update alone.
    batch = log.get("e.1")
    assert (batch.updates, batch.barriers) == ([vm("a")], [Barrier(id=1, updates=[])])


def test_a_member_that_is_gone_is_shown_as_removed():
    log = made("a")
    log.touch("vbd", "a/gone")
    log.touch("vbd", "a/going")
    log.remove("vbd", "a/gone")
    log.inject_barrier(1, "a")
    log.remove("vbd", "a/going")
    [barrier] = log.get(None).barriers
    assert barrier.updates == [
        vm("a"),
        Update(type="vbd", id="a/going", removed=True),
        Update(type="vbd", id="a/gone", removed=True),
    ]


def test_a_barrier_of_an_unknown_vm_is_empty():
    log = made("a")
    log.inject_barrier(1, "b")
    assert log.get("e.1").barriers == [Barrier(id=1, updates=[])]


def test_a_barrier_that_is_not_there_cannot_be_removed():
    with pytest.raises(KeyError):
        made().remove_barrier(1)


def test_there_is_a_limit_of_barriers_and_replacing_one_stays_within_it():
    log = made("a", barriers=2)
    log.inject_barrier(1, "a")
    log.inject_barrier(2, "a")
    with pytest.raises(TooManyRequests) as caught:
        log.inject_barrier(3, "a")
    assert (caught.value.limit, caught.value.queued) == (2, 2)
    log.inject_barrier(1, "a")
    assert [b.id for b in log.get(None).barriers] == [2, 1]


# What it costs


def test_nothing_stays_of_objects_that_are_gone():
    log = made(tombstones=2)
    for n in range(10):
        log.touch("vm", f"v{n}")
        log.touch("vbd", f"v{n}/d")
        log.remove("vbd", f"v{n}/d")
        log.remove("vm", f"v{n}")
    assert log.stats() == {"objects": 0, "tombstones": 2, "barriers": 0, "number": 40}
    assert set(log._members) == {"v9"}


def test_who_is_nearly_up_to_date_does_not_pay_for_every_object():
    log = made(*(f"v{n}" for n in range(50)))
    since = log.last
    log.touch("vm", "v7")
    looked_at = []

    class Counted(type(log._live)):
        def __reversed__(self):
            raise AssertionError("only its items are walked")

        def items(self):
            return Items(super().items())

    class Items:
        def __init__(self, items):
            self.items = items

        def __reversed__(self):
            for item in reversed(self.items):
                looked_at.append(item)
                yield item

    log._live = Counted(log._live)
    assert told(log.get(since)) == ["v7"]
    assert len(looked_at) == 2
