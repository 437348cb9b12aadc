"""Calls that are sent before the VM that they are about is there."""

import asyncio

import pytest

from idl import calls
from idl.errors import DoesNotExist, TooManyRequests
from idl.vbd import Vbd
from idl.vif import Bridge, Vif
from idl.vm import Vm
from xenopsd.forthcoming import Forthcoming


class Accepting:
    """Answers each call with its number, in the order it comes."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.error: Exception | None = None
        self.future: asyncio.Future[object] | None = None

    def __call__(self, call):
        self.calls.append(call)
        if self.error is not None:
            raise self.error
        return len(self.calls) if self.future is None else self.future


def run(scenario):
    """The result of a scenario on a loop of its own: (accepting, forthcoming, added)."""

    async def on_loop():
        accepting = Accepting()
        forthcoming = Forthcoming(accepting, limit=3)
        future = asyncio.get_running_loop().create_future()
        forthcoming.expect("web", future)
        return await asyncio.wait_for(scenario(accepting, forthcoming, future), 10)

    return asyncio.run(on_loop())


START = calls.VmStart(id="web")
STOP = calls.VmShutdown(id="web")


def test_what_is_sent_before_is_accepted_after_in_order():
    async def scenario(accepting, forthcoming, added):
        answers = [forthcoming.keep(START), forthcoming.keep(STOP)]
        assert accepting.calls == []
        added.set_result("web")
        return await asyncio.gather(*answers), accepting.calls

    assert run(scenario) == ([1, 2], [START, STOP])


def test_what_is_sent_after_is_not_kept():
    async def scenario(_accepting, forthcoming, added):
        added.set_result("web")
        await asyncio.sleep(0)
        return forthcoming.keep(START)

    assert run(scenario) is None


def test_a_failed_addition_has_them_answered_by_what_is_then_so():
    async def scenario(accepting, forthcoming, added):
        accepting.error = DoesNotExist(kind="vm", id="web")
        answer = forthcoming.keep(START)
        added.set_exception(ValueError())
        await asyncio.wait([answer])
        added.exception()
        return answer.exception()

    assert isinstance(run(scenario), DoesNotExist)


def test_an_answer_that_is_awaited_is_passed_on():
    async def scenario(accepting, forthcoming, added):
        accepting.future = asyncio.get_running_loop().create_future()
        answer = forthcoming.keep(START)
        added.set_result("web")
        await asyncio.sleep(0)
        accepting.future.set_result("task-1")
        return await answer

    assert run(scenario) == "task-1"


def test_who_goes_away_withdraws_what_is_awaited():
    async def scenario(accepting, forthcoming, added):
        accepting.future = asyncio.get_running_loop().create_future()
        answer = forthcoming.keep(START)
        added.set_result("web")
        await asyncio.sleep(0)
        answer.cancel()
        await asyncio.wait([accepting.future])
        return accepting.future.cancelled()

    assert run(scenario)


def test_no_more_than_the_limit_wait():
    async def scenario(_accepting, forthcoming, _added):
        for _ in range(3):
            forthcoming.keep(START)
        with pytest.raises(TooManyRequests):
            forthcoming.keep(START)

    run(scenario)


@pytest.mark.parametrize(
    ("call", "kept"),
    [
        pytest.param(calls.VbdAdd(vbd=Vbd(id="web/root")), True, id="a disk of it"),
        pytest.param(
            calls.VifAdd(vif=Vif(id="web/0", backend=Bridge(name="br0"))), True, id="a nic of it"
        ),
        pytest.param(calls.VbdPlug(id="web/root"), True, id="plugging a disk of it"),
        pytest.param(calls.VmRemove(id="web"), True, id="its removal"),
        pytest.param(calls.VmStart(id="other"), False, id="another VM"),
        pytest.param(calls.VmAdd(vm=Vm(id="web")), False, id="another addition"),
        pytest.param(calls.VmStat(id="web"), False, id="a read"),
        pytest.param(calls.VmList(), False, id="a read of all"),
    ],
)
def test_changes_of_that_vm_are_kept(call, kept):
    async def scenario(_accepting, forthcoming, _added):
        return forthcoming.keep(call) is not None

    assert run(scenario) is kept
