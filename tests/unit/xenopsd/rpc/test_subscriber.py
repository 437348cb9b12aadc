import pytest
from msgspec import Raw
from structlog.testing import capture_logs

from xenopsd.rpc.subscriber import Subscriber


class Updates:
    token = "t"

    def __init__(self, loop):
        self.loop = loop
        self.futures = []
        self.closed = False

    def next(self):
        self.futures.append(self.loop.create_future())
        return self.futures[-1]

    def close(self):
        self.closed = True


@pytest.fixture
def updates(loop):
    return Updates(loop)


def fail():
    raise AssertionError("it did not fail")


def spin(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_one_batch_is_asked_for_at_a_time(loop, updates):
    delivered = []
    subscriber = Subscriber(updates, delivered.append, fail)
    subscriber.ask()
    subscriber.ask()
    assert len(updates.futures) == 1
    updates.futures[0].set_result(Raw(b"1"))
    spin(loop)
    assert delivered == [Raw(b"1")]
    assert len(updates.futures) == 1
    subscriber.ask()
    assert len(updates.futures) == 2


def test_nothing_is_delivered_after_the_end(loop, updates):
    delivered = []
    subscriber = Subscriber(updates, delivered.append, fail)
    subscriber.ask()
    updates.futures[0].set_result(Raw(b"1"))
    subscriber.close()
    spin(loop)
    subscriber.ask()
    assert (delivered, updates.closed, len(updates.futures)) == ([], True, 1)


def test_a_cancelled_wait_is_no_fault(loop, updates):
    failed = []
    subscriber = Subscriber(updates, lambda batch: None, lambda: failed.append(1))
    subscriber.ask()
    updates.futures[0].cancel()
    with capture_logs() as logs:
        spin(loop)
    assert (logs, failed) == ([], [])


def test_updates_that_fail_are_logged_and_end_it(loop, updates):
    failed = []
    subscriber = Subscriber(updates, lambda batch: None, lambda: failed.append(1))
    subscriber.ask()
    updates.futures[0].set_exception(ValueError("x"))
    with capture_logs() as logs:
        spin(loop)
    assert [log["event"] for log in logs] == ["updates_failed"]
    assert failed == [1]
