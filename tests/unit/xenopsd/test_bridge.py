"""From threads to the loop: all of it, in order, with one waking a burst."""

import asyncio
import threading

from structlog.testing import capture_logs

from xenopsd.bridge import Bridge

LIMIT = 10.0


class CountingLoop:
    """A loop that counts how often it is woken."""

    def __init__(self, loop):
        self.loop = loop
        self.woken = 0

    def call_soon_threadsafe(self, call):
        self.woken += 1
        self.loop.call_soon_threadsafe(call)


async def told(bridge):
    """Until all that was posted before has run."""
    done = asyncio.Event()
    bridge.post(done.set)
    await asyncio.wait_for(done.wait(), LIMIT)


def test_a_burst_wakes_the_loop_once_and_runs_in_order():
    async def scenario():
        loop = CountingLoop(asyncio.get_running_loop())
        bridge = Bridge(loop)
        seen = []
        for number in range(100):
            bridge.post(lambda number=number: seen.append(number))
        await told(bridge)
        assert seen == list(range(100))
        assert loop.woken == 1

    asyncio.run(scenario())


def test_every_call_of_every_thread_runs_in_its_threads_order():
    async def scenario():
        bridge = Bridge(asyncio.get_running_loop())
        seen = []

        def post(name):
            for number in range(500):
                bridge.post(lambda number=number: seen.append((name, number)))

        threads = [threading.Thread(target=post, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        await asyncio.to_thread(lambda: [thread.join(LIMIT) for thread in threads])
        await told(bridge)
        for name in "abcd":
            assert [n for who, n in seen if who == name] == list(range(500))

    asyncio.run(scenario())


def test_what_is_posted_from_a_call_runs_too():
    async def scenario():
        bridge = Bridge(asyncio.get_running_loop())
        seen = []
        bridge.post(lambda: bridge.post(lambda: seen.append("inner")))
        await told(bridge)
        assert seen == ["inner"]

    asyncio.run(scenario())


def test_a_call_that_throws_keeps_no_other_from_running():
    async def scenario():
        bridge = Bridge(asyncio.get_running_loop())
        seen = []
        bridge.post(lambda: 1 / 0)
        bridge.post(lambda: seen.append("after"))
        await told(bridge)
        assert seen == ["after"]

    with capture_logs() as logs:
        asyncio.run(scenario())
    assert [entry["event"] for entry in logs] == ["callback_crashed"]


def test_a_call_may_come_later():
    async def scenario():
        bridge = Bridge(asyncio.get_running_loop())
        rung = asyncio.Event()
        bridge.later(0.001, rung.set)
        await asyncio.wait_for(rung.wait(), LIMIT)

    asyncio.run(scenario())


def test_after_the_loop_has_closed_nobody_is_told():
    loop = asyncio.new_event_loop()
    bridge = Bridge(loop)
    loop.close()
    bridge.post(lambda: None)
    bridge.post(lambda: None)
