"""What a service manager is told, and that it is true."""

import time

import pytest
from rigs.manager import manager

from xenopsd.notify import Notifier
from xenopsd.supervision import Supervision


@pytest.fixture
def world():
    """A manager, what the daemon does, and its side of the talk."""
    doing = ["1 VMs"]
    with manager() as listening:
        yield listening, doing, Supervision(Notifier(listening.environ), lambda: doing[0])


def test_a_reload_says_when_it_began_and_that_it_is_over(world):
    listening, _, supervision = world
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    with supervision.reloading() as reload:
        reload.note = "restart needed for jobs"
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    began = listening.has("RELOADING")
    assert before <= int(began["MONOTONIC_USEC"]) <= after
    assert listening.has("READY")["STATUS"] == "1 VMs; restart needed for jobs"


def test_a_reload_that_fails_is_over_too(world):
    listening, _, supervision = world

    def fail() -> None:
        with supervision.reloading():
            raise OSError("no such thing")

    with pytest.raises(OSError, match="no such thing"):
        fail()
    assert "has failed" in listening.has("READY")["STATUS"]


def test_a_status_is_told_when_it_is_another(world):
    listening, doing, supervision = world
    supervision.ready()
    supervision.tick()
    doing[0] = "2 VMs"
    supervision.tick()
    supervision.tick()
    supervision.stopping()
    listening.has("STOPPING")
    assert listening.told == [
        {"READY": "1", "STATUS": "1 VMs"},
        {"STATUS": "2 VMs"},
        {"STOPPING": "1", "STATUS": "stopping"},
    ]


def test_what_was_settled_by_the_next_reload_is_said_no_more(world):
    listening, _, supervision = world
    with supervision.reloading() as reload:
        reload.note = "a reason\nof two lines"
    assert listening.has("READY")["STATUS"] == "1 VMs; a reason of two lines"
    with supervision.reloading() as reload:
        reload.note = ""
    assert listening.has("READY")["STATUS"] == "1 VMs"
