import asyncio
import gc
import weakref
from threading import Barrier as Meeting
from threading import Thread

import msgspec
import pytest

from idl.update import Barrier, Update, UpdateBatch
from xenopsd.updatelog import UpdateLog
from xenopsd.updates import Updates

LONG = 60.0  # seconds, and no test gets there


def made(*ids):
    updates = Updates(UpdateLog("e"))
    for each in ids:
        updates.touch("vm", each)
    return updates


def vm(id, removed=False):
    return Update(type="vm", id=id, removed=removed)


async def answer(future):
    raw = await asyncio.wait_for(future, LONG)
    return msgspec.json.decode(bytes(raw), type=UpdateBatch)


def on_a_loop(test):
    """A test that is a coroutine, on a loop of its own."""

    def run():
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


def elsewhere(change, *args):
    thread = Thread(target=change, args=args)
    thread.start()
    thread.join(LONG)
    assert not thread.is_alive()


@on_a_loop
async def test_what_there_is_to_tell_is_answered_at_once():
    updates = made("a")
    future = updates.get(None, LONG)
    assert future.done()
    assert await answer(future) == UpdateBatch(
        updates=[vm("a")], barriers=[], next=updates.last_id(), resync=False
    )


@on_a_loop
async def test_a_change_by_another_thread_wakes_who_waits():
    updates = made("a")
    future = updates.get(updates.last_id(), LONG)
    assert not future.done()
    elsewhere(updates.touch, "vm", "b")
    assert (await answer(future)).updates == [vm("b")]
    assert updates.stats()["waiters"] == 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(lambda u: u.touch("vm", "a"), [vm("a")], id="a change"),
        pytest.param(lambda u: u.remove("vm", "a"), [vm("a", removed=True)], id="a removal"),
        pytest.param(lambda u: u.refresh("a"), [vm("a")], id="a refresh"),
        pytest.param(lambda u: u.inject_barrier(1, "a"), [], id="a barrier"),
    ],
)
def test_everything_that_is_announced_ends_the_wait(change, expected):
    async def run():
        updates = made("a")
        future = updates.get(updates.last_id(), LONG)
        change(updates)
        assert (await answer(future)).updates == expected

    asyncio.run(run())


@on_a_loop
async def test_what_is_not_announced_does_not_end_the_wait():
    updates = made("a")
    updates.inject_barrier(1, "a")
    future = updates.get(updates.last_id(), LONG)
    updates.forget("vm", "a")
    updates.remove_barrier(1)
    updates.refresh("unknown")
    elsewhere(updates.touch, "vm", "b")
    assert (await answer(future)).updates == [vm("b")]


@on_a_loop
async def test_an_answer_given_before_a_silent_change_is_not_given_after_it():
    updates = made("a")
    updates.inject_barrier(1, "a")
    first = await answer(updates.get(None, LONG))
    updates.forget("vm", "a")
    updates.remove_barrier(1)
    assert (first.updates, first.barriers) == ([vm("a")], [Barrier(id=1, updates=[vm("a")])])
    batch = await answer(updates.get(None, 0))
    assert (batch.updates, batch.barriers) == ([], [])


@pytest.mark.parametrize("timeout", [0.0, 0.001], ids=["none", "a short one"])
def test_a_timeout_is_answered_with_an_empty_batch_and_the_same_token(timeout):
    async def run():
        updates = made("a")
        token = updates.last_id()
        batch = await answer(updates.get(token, timeout))
        assert batch == UpdateBatch(updates=[], barriers=[], next=token, resync=False)
        assert updates.stats()["waiters"] == 0

    asyncio.run(run())


@on_a_loop
async def test_a_timeout_from_the_beginning_gives_the_token_of_now():
    updates = made("a")
    updates.remove("vm", "a")
    batch = await answer(updates.get(None, 0))
    assert batch == UpdateBatch(updates=[], barriers=[], next=updates.last_id(), resync=False)


@on_a_loop
async def test_a_change_that_the_timeout_overtakes_is_told_and_not_lost():
    updates = made("a")
    future = updates.get(updates.last_id(), LONG)
    [waiter] = [w for group in updates._waiting.values() for w in group]
    updates.touch("vm", "b")
    updates._expire(waiter)  # before the loop comes to the flush
    assert (await answer(future)).updates == [vm("b")]


@on_a_loop
async def test_a_bad_token_is_answered_at_once_with_a_resync():
    updates = made("a")
    batch = await answer(updates.get("garbage", LONG))
    assert (batch.updates, batch.resync) == ([vm("a")], True)


@on_a_loop
async def test_a_burst_of_changes_wakes_the_loop_once():
    loop = asyncio.get_running_loop()
    updates = made("a")
    future = updates.get(updates.last_id(), LONG)
    wakes = []
    original = loop.call_soon_threadsafe
    loop.call_soon_threadsafe = lambda *args: (wakes.append(args), original(*args))

    def burst():
        for n in range(100):
            updates.touch("vm", f"v{n}")

    elsewhere(burst)
    assert len((await answer(future)).updates) == 100
    elsewhere(burst)  # nobody waits
    assert len(wakes) == 1


@on_a_loop
async def test_a_thousand_waiters_are_woken_by_one_change_and_share_its_answer():
    updates = made("a")
    token = updates.last_id()
    futures = [updates.get(token, LONG) for _ in range(1000)]
    assert updates.stats()["waiters"] == 1000
    elsewhere(updates.remove, "vm", "a")
    raws = await asyncio.wait_for(asyncio.gather(*futures), LONG)
    assert {id(raw) for raw in raws} == {id(raws[0])}
    assert (await answer(futures[0])).updates == [vm("a", removed=True)]
    assert updates.stats()["waiters"] == 0


@on_a_loop
async def test_waiters_at_different_positions_hear_what_is_new_to_each():
    updates = made()
    early = updates.get(None, LONG)
    updates.touch("vm", "a")
    late = updates.get(updates.last_id(), LONG)
    assert updates.stats()["waiters"] == 2
    elsewhere(updates.touch, "vm", "b")
    assert (await answer(early)).updates == [vm("a"), vm("b")]
    assert (await answer(late)).updates == [vm("b")]


@on_a_loop
async def test_a_cancelled_waiter_leaves_nothing_behind():
    updates = made("a")
    future = updates.get(updates.last_id(), LONG)
    [waiter] = [w for group in updates._waiting.values() for w in group]
    timer, gone = waiter.timer, weakref.ref(future)
    del waiter
    future.cancel()
    await asyncio.sleep(0)
    assert timer.cancelled()
    assert updates.stats()["waiters"] == 0
    assert updates._waiting == {}
    del future, timer
    gc.collect()
    assert gone() is None


@on_a_loop
async def test_a_waiter_that_is_cancelled_while_it_is_woken_harms_nobody():
    updates = made("a")
    token = updates.last_id()
    cancelled, other = updates.get(token, LONG), updates.get(token, LONG)
    updates.touch("vm", "b")  # the flush is on its way
    cancelled.cancel()
    assert (await answer(other)).updates == [vm("b")]
    assert cancelled.cancelled()
    assert updates.stats()["waiters"] == 0


@on_a_loop
async def test_changes_by_many_threads_are_all_told():
    updates = made()
    meeting = Meeting(4)

    def work(n):
        meeting.wait(LONG)
        for m in range(200):
            updates.touch("vm", f"v{n}-{m}")

    threads = [Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    seen, token = set(), None
    while len(seen) < 800:
        batch = await answer(updates.get(token, LONG))
        seen |= {u.id for u in batch.updates}
        token = batch.next
    for thread in threads:
        thread.join(LONG)
    assert seen == {f"v{n}-{m}" for n in range(4) for m in range(200)}


def test_a_change_after_the_loop_has_ended_is_logged_and_harmless():
    updates = made("a")

    async def wait():
        # Never cancelled and never awaited: the loop ends with it waiting.
        updates.get(updates.last_id(), LONG)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(wait())
    loop.close()
    updates.touch("vm", "b")
    assert updates.stats()["objects"] == 2


# Subscriptions


@on_a_loop
async def test_a_subscription_from_the_beginning_tells_everything_and_goes_on():
    updates = made("a")
    subscription = updates.subscribe(None)
    assert (await answer(subscription.next())).updates == [vm("a")]
    future = subscription.next()
    elsewhere(updates.touch, "vm", "b")
    batch = await answer(future)
    assert (batch.updates, batch.next) == ([vm("b")], subscription.token)


@on_a_loop
async def test_a_subscription_goes_on_from_its_token():
    updates = made("a")
    token = updates.last_id()
    updates.touch("vm", "b")
    subscription = updates.subscribe(token)
    assert subscription.token == token
    assert (await answer(subscription.next())).updates == [vm("b")]


@on_a_loop
async def test_a_subscription_with_a_bad_token_begins_with_one_resync():
    updates = made("a")
    subscription = updates.subscribe("garbage")
    assert subscription.token == "garbage"
    assert (await answer(subscription.next())).resync
    updates.touch("vm", "a")
    assert not (await answer(subscription.next())).resync


@on_a_loop
async def test_the_first_token_of_a_subscription_from_the_beginning_loses_nothing():
    updates = made("a")
    subscription = updates.subscribe(None)
    updates.touch("vm", "b")
    batch = await answer(updates.get(subscription.token, LONG))
    assert batch.updates == [vm("a"), vm("b")]


@on_a_loop
async def test_what_a_cancelled_answer_would_have_told_is_told_by_the_next():
    updates = made("a")
    subscription = updates.subscribe(updates.last_id())
    subscription.next().cancel()
    updates.touch("vm", "b")
    assert (await answer(subscription.next())).updates == [vm("b")]


@on_a_loop
async def test_one_answer_of_a_subscription_is_awaited_at_a_time():
    updates = made("a")
    subscription = updates.subscribe(updates.last_id())
    subscription.next()
    with pytest.raises(RuntimeError):
        subscription.next()


@on_a_loop
async def test_closing_a_subscription_withdraws_its_wait():
    updates = made("a")
    subscription = updates.subscribe(updates.last_id())
    future = subscription.next()
    subscription.close()
    await asyncio.sleep(0)
    assert future.cancelled()
    assert updates.stats()["waiters"] == 0
