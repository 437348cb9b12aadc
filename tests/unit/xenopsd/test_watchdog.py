"""The watchdog is told that we live only while all that matters does."""

import pytest
from rigs.manager import manager

from xenopsd.notify import Notifier
from xenopsd.pulse import Pulse
from xenopsd.watchdog import Watchdog, patience


class Thread:
    """Answers at once while it is alive."""

    def __init__(self, name: str) -> None:
        self.pulse = Pulse(name)
        self.alive = True

    def recheck(self) -> None:
        if self.alive:
            self.pulse.answer()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "7"}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_who_is_watched_and_how_closely(environ, seconds):
    assert patience(environ, 7) == seconds


@pytest.mark.parametrize("name", ["intake", "supervisor"])
def test_a_silent_thread_holds_it_back_until_it_answers(name):
    threads = {one: Thread(one) for one in ("intake", "supervisor")}
    with manager() as listening:
        watchdog = Watchdog(Notifier(listening.environ), list(threads.values()))
        watchdog.tick()
        listening.has("WATCHDOG")
        threads[name].alive = False
        watchdog.tick()  # what was asked at the first tick has been answered
        listening.has("WATCHDOG")
        for _ in range(10):
            watchdog.tick()
        Notifier(listening.environ).tell("STATUS=ten ticks")
        listening.has("STATUS")
        assert listening.told[2:] == [{"STATUS": "ten ticks"}]
        threads[name].alive = True
        threads[name].recheck()
        watchdog.tick()
        listening.has("WATCHDOG")
