"""The host's memory: what is squeezed and stretched, and that nothing is given out twice."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idl.errors import NotEnoughMemory
from xenopsd.memory import Balloon, Memory, squeeze, stretch

GIB = 2**30


@st.composite
def balloons(draw):
    minimum = draw(st.integers(0, 2**40))
    target = minimum + draw(st.integers(0, 2**40))
    return Balloon(target, minimum, target + draw(st.integers(0, 2**40)))


MANY = st.dictionaries(st.text("ab", min_size=1, max_size=4), balloons(), max_size=8)


@given(st.integers(0, 2**43), MANY)
def test_a_squeeze_frees_what_is_asked_and_takes_nobody_below_the_minimum(shortage, them):
    targets = squeeze(shortage, them)
    room = sum(b.target - b.minimum for b in them.values())
    if targets is None:
        assert room < shortage
        return
    assert all(them[vm].minimum <= target < them[vm].target for vm, target in targets.items())
    assert sum(them[vm].target - target for vm, target in targets.items()) >= shortage


@given(st.integers(1, 2**43), MANY)
def test_a_squeeze_takes_no_more_than_is_asked(shortage, them):
    targets = squeeze(shortage, them)
    if targets is not None:
        assert sum(them[vm].target - target for vm, target in targets.items()) == shortage


@given(st.integers(-10, 2**43), MANY)
def test_a_stretch_gives_no_more_than_is_free_and_nobody_more_than_the_maximum(free, them):
    targets = stretch(free, them)
    assert all(them[vm].target < target <= them[vm].maximum for vm, target in targets.items())
    assert sum(target - them[vm].target for vm, target in targets.items()) <= max(0, free)


@given(st.integers(0, 2**43), MANY)
def test_what_is_squeezed_could_be_stretched_back(shortage, them):
    targets = squeeze(shortage, them) or {}
    squeezed = {
        vm: Balloon(targets.get(vm, b.target), b.minimum, b.target) for vm, b in them.items()
    }
    back = stretch(2**50, squeezed)
    assert {**targets, **back} == {vm: them[vm].target for vm in targets}


def test_each_gives_in_proportion_to_what_it_can():
    them = {"a": Balloon(400, 100, 400), "b": Balloon(200, 100, 200)}
    assert squeeze(200, them) == {"a": 250, "b": 150}


def test_nothing_short_takes_from_nobody():
    assert squeeze(0, {"a": Balloon(2, 1, 2)}) == {}
    assert squeeze(-5, {"a": Balloon(2, 1, 2)}) == {}


def test_one_below_its_minimum_gives_nothing():
    assert squeeze(1, {"a": Balloon(50, 100, 200)}) is None


def memory(total=1000):
    made = Memory()
    made.set_total(total, host_reserve=0, overcommit=1.0)
    return made


@pytest.mark.parametrize(
    ("total", "reserve", "overcommit", "free"),
    [(1000, 0, 1.0, 1000), (1000, 200, 1.0, 800), (1000, 200, 1.5, 1200), (100, 200, 2.0, 0)],
)
def test_what_can_be_used_is_the_hosts_less_its_own_times_the_overcommitment(
    total, reserve, overcommit, free
):
    made = Memory()
    made.set_total(total, host_reserve=reserve, overcommit=overcommit)
    assert made.free == free


def test_as_much_of_the_range_is_reserved_as_there_is():
    made = memory()
    assert made.reserve("a", 100, 600) == 600
    assert made.reserve("b", 100, 600) == 400
    assert made.reserve("c", 1, 600) is None
    assert made.free == 0


def test_what_is_reserved_already_is_said_again():
    made = memory()
    assert made.reserve("a", 100, 600) == 600
    assert made.reserve("a", 900, 900) == 600
    assert made.free == 400


def test_a_release_gives_back_once():
    made = memory()
    made.reserve("a", 100, 600)
    made.release("a")
    made.release("a")
    made.release("never")
    assert made.free == 1000


def test_what_was_found_or_ballooned_replaces_what_was_reserved():
    made = memory()
    made.reserve("a", 100, 600)
    made.set("a", 200)
    assert made.free == 800
    made.set("b", 5000)
    assert made.free == 0, "never less than nothing"
    assert made.reserve("c", 0, 0) is None, "and nothing is given out of less than nothing"
    made.release("b")
    assert made.free == 800


def test_no_byte_is_given_out_twice():
    made = memory(1000)
    granted = []
    begin = threading.Barrier(8)

    def take(name):
        begin.wait(10)
        for turn in range(200):
            amount = made.reserve(f"{name}-{turn}", 7, 10)
            if amount is not None:
                granted.append(amount)
                if turn % 3:
                    made.release(f"{name}-{turn}")
                    granted.append(-amount)

    threads = [threading.Thread(target=take, args=(name,)) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sum(granted) + made.free == 1000
    assert sum(granted) <= 1000


def test_a_balloon_is_let_out_only_into_what_is_free():
    memory = Memory()
    memory.set_total(100, host_reserve=0, overcommit=1.0)
    memory.set("a", 40)
    memory.set("b", 50)
    memory.grow("a", 50)
    assert memory.free == 0
    memory.grow("a", 30)
    assert memory.free == 0
    with pytest.raises(NotEnoughMemory) as refused:
        memory.grow("a", 51)
    assert refused.value.facts() == {"needed": 1, "free": 0}


def test_what_a_guest_gives_back_by_itself_is_free():
    made = memory(100)
    made.set("a", 40)
    made.follow("a", 40, 30)
    assert made.free == 70


def test_a_balloon_that_is_being_set_is_not_followed():
    made = memory(100)
    made.set("a", 40)
    made.grow("a", 50)
    made.follow("a", 40, 30)
    made.follow("b", 10, 20)
    assert made.free == 50
