import threading

import pytest

from backends.simulator.faults import Faults
from idl.errors import Cancelled, DeadlineExceeded, HypervisorError


def _waits_in(body):
    """Run in a thread; what it raised, when it ends."""
    raised = []

    def run():
        try:
            body()
        except Exception as error:  # noqa: BLE001  # told by the test
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


def test_nothing_armed_is_nothing_met(attempt):
    call = attempt("vm_create")
    Faults().meet(call)
    assert call.pauses == []


def test_a_cancelled_call_does_not_begin(attempt):
    call = attempt("vm_create")
    call.cancel()
    with pytest.raises(Cancelled):
        Faults().meet(call)


def test_the_next_so_many_fail_and_name_the_micro_op(attempt):
    faults = Faults()
    faults.fail("vm_create", 2)
    faults.meet(attempt("vm_build"))
    for _ in range(2):
        with pytest.raises(HypervisorError, match="vm_create"):
            faults.meet(attempt("vm_create"))
    faults.meet(attempt("vm_create"))


@pytest.mark.parametrize("name", ["vm_create", "*"], ids=["this one", "any"])
def test_latency_is_paused_through_the_call(attempt, name):
    faults = Faults()
    faults.slow(name, 0.001)
    call = attempt("vm_create")
    faults.meet(call)
    assert call.pauses == [0.001]


def test_a_latency_of_its_own_comes_before_anys(attempt):
    faults = Faults()
    faults.slow("*", 0.5)
    faults.slow("vm_create", 0.0)
    call = attempt("vm_create")
    faults.meet(call)
    assert call.pauses == []


def test_a_hang_ends_with_a_cancel(attempt):
    faults = Faults()
    faults.hang("vm_create", 1, deaf=False)
    call = attempt("vm_create")
    thread, raised = _waits_in(lambda: faults.meet(call))
    assert call.under_way.wait(30)
    call.cancel()
    thread.join()
    assert isinstance(raised[0], Cancelled)
    faults.meet(attempt("vm_create"))


def test_a_hang_ends_at_the_deadline(attempt):
    faults = Faults()
    faults.hang("*", 1, deaf=False)
    call = attempt("vm_create")
    call.deadline = 0.0
    with pytest.raises(DeadlineExceeded):
        faults.meet(call)


def test_a_deaf_call_ends_only_when_it_is_told_to(attempt):
    faults = Faults()
    faults.hang("vm_create", 1, deaf=True)
    call = attempt("vm_create")
    thread, raised = _waits_in(lambda: faults.meet(call))
    call.cancel()
    thread.join(0.05)
    assert thread.is_alive()
    faults.undeaf()
    thread.join()
    assert raised == []
