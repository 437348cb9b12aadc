"""The client for asyncio against a daemon of a few lines; what is pure is tested beside it."""

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from idl.aclient import (
    AnswerTimeout,
    AsyncClient,
    ClientClosed,
    ConnectionFailed,
    OutcomeUnknown,
    View,
)
from idl.errors import BadPowerState, DoesNotExist, MethodNotFound, PermissionDenied
from idl.task import Completed, Failed, Pending, Task
from idl.update import Update
from idl.vm import PowerState, Vm, VmRecord, VmState

DEADLINE = 10.0

RECORD = VmRecord(id="a", config=Vm(id="a"), state=VmState(power_state=PowerState.RUNNING))

Act = Callable[[AsyncClient], Awaitable[Any]]


@pytest.fixture
def awaited(daemon):
    """Runs a coroutine function with a client of the daemon, within the deadline."""

    def run(act: Act, path: Path | None = None, **options: Any) -> Any:
        async def main() -> Any:
            options.setdefault("timeout", DEADLINE)
            async with (
                asyncio.timeout(2 * DEADLINE),
                AsyncClient(path or daemon.path, **options) as client,
            ):
                return await act(client)

        return asyncio.run(main())

    return run


def task(state: Any, id: str = "t") -> Task:
    return Task(
        id=id, vm="a", operation="VM.start", debug_info="", created=0.0, object="a", state=state
    )


def cut_once(daemon, answer: Any) -> Any:
    """Hangs up at the first call, and answers those after it."""
    calls = itertools.count()
    return lambda params: answer if next(calls) else daemon.hang_up()


async def seen(daemon, method: str, times: int = 1) -> None:
    await asyncio.to_thread(daemon.wait_seen, method, times)


def test_results_are_typed(daemon, awaited):
    daemon.answers["VM.list"] = [RECORD]
    assert awaited(lambda client: client.vm.list()) == [RECORD]


def test_a_raw_call_answers_plain_values(daemon, awaited):
    daemon.answers["FUTURE.call"] = {"a": [1, None]}
    assert awaited(lambda client: client.call("FUTURE.call", x=1)) == {"a": [1, None]}


def test_a_subscription_is_refused(awaited):
    with pytest.raises(ValueError, match="subscribe"):
        awaited(lambda client: client.call("UPDATES.subscribe"))


def test_the_connection_survives_an_error(daemon, awaited):
    daemon.answers["VM.stat"] = DoesNotExist(kind="VM", id="a")
    daemon.answers["VM.exists"] = False

    async def act(client: AsyncClient) -> bool:
        with pytest.raises(MethodNotFound):
            await client.call("NO.such")
        with pytest.raises(DoesNotExist, match="no VM a"):
            await client.vm.stat("a")
        return await client.vm.exists("a")

    assert awaited(act) is False
    assert len(daemon.connections) == 1


def test_an_answer_of_another_shape_is_told_as_such(daemon, awaited):
    daemon.answers["VM.list"] = {"not": "a list"}
    with pytest.raises(ConnectionFailed, match=r"VM\.list is not understood"):
        awaited(lambda client: client.vm.list())


def test_what_speaks_no_json_rpc_is_told(daemon, awaited):
    def babble(params: Any) -> Any:
        for connection in daemon.connections:
            connection.sendall(b"HTTP/1.1 400 Bad Request\n")
        return daemon.over.wait(DEADLINE)

    daemon.answers["VM.list"] = babble
    with pytest.raises(ConnectionFailed, match="does not speak JSON-RPC"):
        awaited(lambda client: client.vm.list(), reconnect=0.0)


GARBAGE = {
    "no text": b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"\xff","data":{}}}\n',
    "no text in the result": b'{"jsonrpc":"2.0","id":1,"result":["\xff"]}\n',
    "bottomless": b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * 100_000 + b"\n",
    "no result": b'{"jsonrpc":"2.0","id":1}\n',
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_what_cannot_be_read_is_told_as_such(daemon, awaited, garbage: str):
    def babble(params: Any) -> Any:
        daemon.connections[-1].sendall(GARBAGE[garbage])
        return daemon.over.wait(DEADLINE)

    daemon.answers["VM.list"] = babble
    for ask in (lambda client: client.vm.list(), lambda client: client.call("VM.list")):
        with pytest.raises(ConnectionFailed, match=r"not understood|does not speak"):
            awaited(ask, reconnect=0.0)


@pytest.mark.parametrize("left", [False, True], ids=["no socket", "a socket left behind"])
def test_no_daemon_is_a_connection_failure_with_the_path(daemon, awaited, left: bool):
    path = daemon.path if left else Path("/nonexistent/x.sock")
    daemon.stop()
    with pytest.raises(ConnectionFailed, match="start xenopsd") as raised:
        awaited(lambda client: client.vm.list(), path)
    assert str(path) in str(raised.value)
    daemon.start()


def test_a_refused_connection_tells_the_daemons_reason(daemon, awaited):
    refusal = PermissionDenied(method="any call").error_object()

    def refuse(params: Any) -> None:
        daemon.say({"jsonrpc": "2.0", "id": None, "error": refusal})
        daemon.hang_up()

    daemon.answers["VM.list"] = refuse
    with pytest.raises(PermissionDenied):
        awaited(lambda client: client.vm.list())


def test_many_tasks_get_each_their_own_answer_over_one_connection(daemon, awaited):
    gate = threading.Event()
    daemon.answers["TASK.wait"] = lambda params: gate.wait(DEADLINE) and task(Pending())
    daemon.answers["TASK.stat"] = lambda params: task(Pending(), params["id"])
    names = [f"t{n}" for n in range(100)]

    async def act(client: AsyncClient) -> list[str]:
        waiting = asyncio.create_task(client.task.wait("t"))
        await seen(daemon, "TASK.wait")
        found = await asyncio.gather(*map(client.task.stat, names))
        gate.set()
        await waiting
        return [each.id for each in found]

    assert awaited(act) == names
    assert len(daemon.connections) == 1


def test_an_answer_of_many_reads_is_put_together(daemon, awaited):
    daemon.answers["FUTURE.call"] = "x" * 3_000_000
    assert len(awaited(lambda client: client.call("FUTURE.call"))) == 3_000_000


def test_a_cancelled_call_leaves_the_connection_to_the_others(daemon, awaited):
    gate = threading.Event()
    daemon.answers["TASK.wait"] = lambda params: gate.wait(DEADLINE) and task(Pending())
    daemon.answers["VM.exists"] = True

    async def act(client: AsyncClient) -> bool:
        waiting = asyncio.create_task(client.run("t"))
        await seen(daemon, "TASK.wait")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.set()  # the answer comes late, and is dropped
        await asyncio.to_thread(daemon.wait_answered, "TASK.wait")
        return await client.vm.exists("a")

    assert awaited(act) is True
    assert len(daemon.connections) == 1


def test_a_call_that_is_never_answered_ends(daemon, awaited):
    daemon.answers["VM.start"] = lambda params: daemon.over.wait(DEADLINE)
    with pytest.raises(AnswerTimeout, match="ask for task t"):
        awaited(lambda client: client.vm.start("a", task="t"), timeout=0.05)


def test_a_restarted_daemon_is_found_again_at_once(daemon, awaited):
    daemon.answers["VM.add"] = "a"

    async def act(client: AsyncClient) -> str:
        await client.vm.add(Vm(id="a"))
        # The loop has no time to hear that the connection ended.
        daemon.stop()
        daemon.start()
        return await client.vm.add(Vm(id="a"))

    assert awaited(act) == "a"


def test_reads_and_operations_are_sent_again(daemon, awaited):
    daemon.answers["VM.exists"] = cut_once(daemon, True)
    daemon.answers["VM.start"] = cut_once(daemon, "t")

    async def act(client: AsyncClient) -> tuple[bool, str]:
        return await client.vm.exists("a"), await client.vm.start("a")

    assert awaited(act) == (True, "t")
    assert daemon.methods() == ["VM.exists"] * 2 + ["VM.start"] * 2
    first, second = daemon.tasks
    assert first == second


def test_any_other_call_is_not_sent_again(daemon, awaited):
    daemon.answers["VM.add"] = lambda params: daemon.hang_up()
    with pytest.raises(OutcomeUnknown, match=r"VM\.add may have been carried out"):
        awaited(lambda client: client.vm.add(Vm(id="a")))
    assert daemon.methods() == ["VM.add"]


def test_a_daemon_that_stays_away_is_told_after_a_while(daemon, awaited):
    daemon.answers["VM.start"] = lambda params: daemon.stop()
    with pytest.raises(OutcomeUnknown, match="may have been accepted"):
        awaited(lambda client: client.vm.start("a"), reconnect=0.05)
    daemon.start()


def test_close_wakes_who_waits(daemon, awaited):
    daemon.answers["TASK.wait"] = lambda params: daemon.over.wait(DEADLINE)
    daemon.answers["VM.exists"] = True

    async def act(client: AsyncClient) -> bool:
        waiting = asyncio.create_task(client.task.wait("t"))
        await seen(daemon, "TASK.wait")
        await client.close()
        with pytest.raises(ClientClosed):
            await waiting
        return await client.vm.exists("a")

    assert awaited(act) is True


def test_run_tells_of_progress_and_waits_for_the_end(daemon, awaited):
    states = [Pending(), Pending(), Pending(progress=0.5), Completed(duration=1.0)]
    coming = iter(states)
    daemon.answers["TASK.wait"] = lambda params: task(next(coming))
    told: list[Task] = []
    assert awaited(lambda client: client.run("t", progress=told.append)).ended
    assert [found.state for found in told] == [states[0], *states[2:]]


def test_run_raises_the_tasks_error(daemon, awaited):
    error = BadPowerState(id="a", actual="running", expected=["halted"])
    daemon.answers["TASK.wait"] = task(Failed(duration=0.1, error=error.error_object()))
    with pytest.raises(BadPowerState, match="VM a is running"):
        awaited(lambda client: client.run("t"))


def batch(*names: str, next: str, resync: bool = False) -> dict[str, Any]:
    updates = [{"type": "vm", "id": name} for name in names]
    return {"updates": updates, "barriers": [], "next": next, "resync": resync}


def updates_of(daemon, answers: dict[str | None, Any]) -> None:
    """UPDATES.get answers by token; a function is called, an unknown token waits for the end."""

    def get(params: dict[str, Any]) -> Any:
        answer = answers.get(params.get("since"))
        if answer is None:
            daemon.over.wait(DEADLINE)
        return answer(params) if callable(answer) else answer

    daemon.answers["UPDATES.get"] = get


def test_a_view_is_kept_over_a_restart(daemon, awaited):
    daemon.answers["VM.stat"] = RECORD
    again = cut_once(daemon, batch("b", next="2", resync=True))
    updates_of(daemon, {None: batch("a", "b", next="1"), "1": again})
    view = View()

    async def act(client: AsyncClient) -> list[Update]:
        follower = client.updates.follow(view=view)
        return [await anext(follower) for _ in range(4)]

    a, b = Update(type="vm", id="a"), Update(type="vm", id="b")
    assert awaited(act) == [a, b, Update(type="vm", id="a", removed=True), b]
    assert (list(view.vms), view.token) == (["b"], "1")


def test_what_is_gone_by_the_time_it_is_looked_at_is_told_removed(daemon, awaited):
    daemon.answers["VM.stat"] = DoesNotExist(kind="VM", id="a")
    updates_of(daemon, {None: batch("a", next="1")})
    view = View()
    told = awaited(lambda client: anext(client.updates.follow(view=view)))
    assert told == Update(type="vm", id="a", removed=True)
    assert view.vms == {}


@pytest.mark.parametrize("away", [False, True], ids=["it waits for updates", "it reconnects"])
def test_a_follower_ends_when_the_client_is_closed(daemon, awaited, away: bool):
    updates_of(daemon, {None: batch("a", next="1")})

    async def act(client: AsyncClient) -> list[Update]:
        follower = client.updates.follow()
        await anext(follower)

        async def rest() -> list[Update]:
            return [update async for update in follower]

        waiting = asyncio.create_task(rest())
        await seen(daemon, "UPDATES.get", 2)
        if away:
            await asyncio.to_thread(daemon.stop)
        await client.close()
        return await waiting

    assert awaited(act) == []
    if away:
        daemon.start()


def test_a_follower_is_cancelled_at_once(daemon, awaited):
    updates_of(daemon, {None: batch("a", next="1")})
    daemon.answers["VM.exists"] = True

    async def act(client: AsyncClient) -> bool:
        follower = client.updates.follow()
        await anext(follower)
        waiting = asyncio.ensure_future(anext(follower))
        await seen(daemon, "UPDATES.get", 2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return await client.vm.exists("a")

    assert awaited(act) is True


def test_a_follower_says_that_there_was_never_a_daemon(awaited):
    with pytest.raises(ConnectionFailed, match="start xenopsd"):
        awaited(lambda client: anext(client.updates.follow()), Path("/nonexistent/x.sock"))


def test_a_view_takes_no_token(awaited):
    async def act(client: AsyncClient) -> None:
        client.updates.follow("1", view=View())

    with pytest.raises(ValueError, match="token of its own"):
        awaited(act)
