"""The clients against the real daemon, which is killed under them."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from rigs.daemon import DEADLINE, DaemonProcess, eventually

from idl.aclient import AsyncClient
from idl.client import Client, View
from idl.errors import Interrupted
from idl.task import Task
from idl.update import Update
from idl.vbd import Local, Vbd
from idl.vm import Vm


@pytest.fixture
def daemon(start: Callable[..., Any]) -> DaemonProcess:
    return start().daemon


@pytest.fixture
def client(daemon: DaemonProcess) -> Iterator[Client]:
    with Client(daemon.socket, DEADLINE) as made:
        yield made


def truth(client: Client) -> dict[str, Any]:
    """What the daemon says of its VMs and VBDs, without when it looked."""
    vms = client.vm.list()
    vbds = [vbd for vm in vms for vbd in client.vbd.list(vm.id)]
    return {
        **{vm.id: (vm.config, vm.state.power_state, vm.state.incarnation) for vm in vms},
        **{vbd.id: (vbd.config, vbd.state.plugged) for vbd in vbds},
    }


def seen(view: View) -> dict[str, Any]:
    """The same, of a view."""
    return {
        **{
            id: (vm.config, vm.state.power_state, vm.state.incarnation)
            for id, vm in view.vms.items()
        },
        **{id: (vbd.config, vbd.state.plugged) for id, vbd in view.vbds.items()},
    }


@contextmanager
def following(client: Client, view: View) -> Iterator[list[Update]]:
    """Follows in a thread until the client is closed; what it was told."""
    told: list[Update] = []
    thread = threading.Thread(target=lambda: told.extend(client.updates.follow(view=view)))
    thread.start()
    try:
        yield told
    finally:
        client.close()
        thread.join(DEADLINE)
        assert not thread.is_alive()


def add(client: Client, id: str) -> None:
    client.vm.add(Vm(id=id))
    client.vbd.add(Vbd(id=f"{id}/disk0", backend=Local(path=f"/images/{id}")))


def test_a_view_stays_true_over_a_kill(daemon, client):
    for id in ("a", "b", "c"):
        add(client, id)
    client.run(client.vm.start("a"))
    view = View()
    with following(Client(daemon.socket), view) as told:
        eventually(lambda: seen(view) == truth(client))
        client.run(client.vm.start("b"))
        eventually(lambda: seen(view) == truth(client))
        daemon.kill()
        daemon.start()
        client.vm.remove("c")
        client.run(client.vm.shutdown("a"))
        add(client, "d")
        eventually(lambda: seen(view) == truth(client))
        assert sorted(view.vms) == ["a", "b", "d"]
    assert Update(type="vm", id="c", removed=True) in told


def test_an_operation_whose_answer_is_lost_is_carried_out_once(daemon, client):
    add(client, "a")
    client.debug.trigger("kill-at", ["vm_create:before", "1"])
    done: list[Task] = []

    def begin() -> None:
        done.append(client.run(client.vm.start("a"), DEADLINE))

    caller = threading.Thread(target=begin)
    caller.start()
    assert daemon.wait() == -signal.SIGKILL
    daemon.start()
    caller.join(DEADLINE)
    assert [task.interrupted for task in done] == [True]
    assert [task.operation for task in client.task.list()] == ["VM.start"]
    assert client.vm.stat("a").state.power_state == "running"


def test_a_task_is_waited_for_over_a_kill_with_its_progress(daemon, client):
    add(client, "a")
    client.debug.trigger("set-latency", ["vbd_plug", "30"])
    start, queued = client.vm.start("a"), client.vm.pause("a")
    told: list[Task] = []
    errors: list[Exception] = []

    def wait() -> None:
        client.run(start, DEADLINE, progress=told.append)
        try:
            client.run(queued, DEADLINE)
        except Interrupted as error:
            errors.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    eventually(lambda: any(s.name == "vbd_plug" for task in told for s in task.subtasks))
    daemon.kill()
    daemon.start()
    waiter.join(DEADLINE)
    assert told[-1].ended
    assert told[-1].interrupted
    assert {task.id for task in told} == {start}
    assert [error.begun for error in errors] == [False]


def test_the_client_that_awaits_stays_true_over_a_kill(daemon, client):
    add(client, "a")
    view = View()

    async def main() -> None:
        async with AsyncClient(daemon.socket, DEADLINE) as awaiting:

            async def follow() -> None:
                async for _ in awaiting.updates.follow(view=view):
                    pass

            async def agreed() -> None:
                await asyncio.to_thread(eventually, lambda: seen(view) == truth(client))

            follower = asyncio.create_task(follow())
            await agreed()
            await awaiting.debug.trigger("set-latency", ["vbd_plug", "30"])
            start = await awaiting.vm.start("a")
            waiting = asyncio.create_task(awaiting.run(start, DEADLINE))
            await asyncio.to_thread(eventually, lambda: began(client, start, "vbd_plug"))
            await asyncio.to_thread(daemon.kill)
            await asyncio.to_thread(daemon.start)
            assert (await waiting).interrupted
            await awaiting.vm.add(Vm(id="b"))
            await agreed()
            assert sorted(view.vms) == ["a", "b"]
            await awaiting.close()
            await follower

    asyncio.run(asyncio.wait_for(main(), 3 * DEADLINE))


def began(client: Client, task: str, micro_op: str) -> bool:
    return any(step.name == micro_op for step in client.task.stat(task).subtasks)


def test_a_thousand_waits_share_a_connection_with_a_read(lab):
    id = lab.running()
    held = lab.client.vm.delay(id, 3600)

    async def main() -> None:
        async with AsyncClient(lab.daemon.socket, DEADLINE) as client:
            waits = [asyncio.create_task(client.run(held)) for _ in range(1000)]
            assert (await client.vm.stat(id)).state.power_state == "running"
            await client.task.cancel(held)
            ended = await asyncio.gather(*waits, return_exceptions=True)
            assert {type(error).__name__ for error in ended} == {"Cancelled"}

    asyncio.run(main())
