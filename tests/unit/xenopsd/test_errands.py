import threading
from queue import SimpleQueue

import pytest

from xenopsd.errands import Errands

SOON = 10.0


@pytest.fixture
def errands():
    errands = Errands("errand", 2)
    yield errands
    errands.close()


def test_errand_that_hangs_holds_up_neither_sender_nor_others(errands):
    gate, done = threading.Event(), threading.Event()
    errands.send(lambda: gate.wait(SOON) and None)
    errands.send(done.set)
    assert done.wait(SOON)
    gate.set()


def test_no_more_errands_run_at_once_than_there_are_threads(errands):
    begun: SimpleQueue[int] = SimpleQueue()
    gate = threading.Event()
    for number in range(3):
        errands.send(lambda number=number: begun.put(number) or (gate.wait(SOON) and None))
    assert {begun.get(timeout=SOON), begun.get(timeout=SOON)} == {0, 1}
    assert begun.empty()
    gate.set()
    assert begun.get(timeout=SOON) == 2


def test_errand_that_throws_costs_no_thread(errands):
    done = threading.Event()
    for _ in range(4):
        errands.send(lambda: {}["bug"])
    errands.send(done.set)
    assert done.wait(SOON)


def test_what_was_sent_before_the_close_is_still_run():
    errands = Errands("errand", 1)
    threads: SimpleQueue[threading.Thread] = SimpleQueue()
    errands.send(lambda: threads.put(threading.current_thread()))
    errands.close()
    thread = threads.get(timeout=SOON)
    thread.join(SOON)
    assert (thread.name, thread.daemon, thread.is_alive()) == ("errand-1", True, False)
