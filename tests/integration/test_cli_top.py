"""`xenops top` by textual's pilot, against the real daemon with 1,000 VMs."""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from rigs.daemon import running
from rigs.lab import Lab
from textual.pilot import Pilot

from idl.task import Failed
from idl.vm import Vm
from xenopsd.cli.top.app import Top
from xenopsd.cli.top.screens import Question, Story

MANY = 1000
DEADLINE = 60.0
#: A key is taken up and shown within so many seconds, however much there is to show.
USABLE = 10.0

Script = Callable[[Top, "Pilot[None]"], Awaitable[None]]


@pytest.fixture(scope="module")
def crowd(pool_size: int) -> Iterator[Lab]:
    """A daemon with 1,000 halted VMs."""
    with (
        tempfile.TemporaryDirectory(prefix="xenopsd-") as name,
        running(Path(name), "--workers", str(pool_size)) as daemon,
        ThreadPoolExecutor(16) as threads,
    ):
        lab = Lab(daemon)
        vms = [Vm(id=f"crowd-{n:04}", name=f"number {n}") for n in range(MANY)]
        list(threads.map(lab.client.vm.add, vms))
        yield lab
        lab.client.close()


def drive(socket: Path, script: Script) -> None:
    """Run the screen, and a script that presses keys."""

    async def run() -> None:
        app = Top(socket, interval=0.3)
        async with app.run_test(size=(140, 40), notifications=True) as pilot:
            await script(app, pilot)

    asyncio.run(run())


async def until(
    pilot: "Pilot[None]", there: Callable[[], Any], why: str, deadline: float = DEADLINE
) -> None:
    """Until it holds; fails past the deadline."""
    end = time.monotonic() + deadline
    while not there():
        assert time.monotonic() < end, f"not within {deadline} s: {why}"
        await pilot.pause(0.02)


def cell(app: Top, key: str, column: str) -> str:
    return app.table.get_cell(key, column).plain


def scripted(script: Callable[..., Coroutine[Any, Any, None]]) -> Callable[[Lab], None]:
    """A test of a script that is given the screen, its pilot, and the lab."""

    def test(crowd: Lab) -> None:
        async def run(app: Top, pilot: "Pilot[None]") -> None:
            await until(pilot, lambda: app.table.row_count >= MANY, "every VM is shown")
            await until(pilot, lambda: app.board.look is not None, "the daemon was looked at")
            await script(app, pilot, crowd)

        drive(crowd.daemon.socket, run)

    test.__name__ = script.__name__
    test.__doc__ = script.__doc__
    return test


@scripted
async def test_every_vm_is_shown_and_what_changes_is_followed(app, pilot, lab):
    assert list(app.board.vm_rows())[:2] == ["crowd-0000", "crowd-0001"]
    assert cell(app, "crowd-0500", "STATE") == "halted"
    for n in range(100, 400):
        lab.client.vm.start(f"crowd-{n:04}")
    await until(pilot, lambda: cell(app, "crowd-0399", "STATE") == "running", "starts are shown")
    await until(pilot, lambda: "300 running" in app.board.head()[0], "and counted")
    lab.run(lab.client.vm.shutdown("crowd-0399"))
    await until(pilot, lambda: cell(app, "crowd-0399", "STATE") == "halted", "a stop is shown")


@scripted
async def test_the_keyboard_starts_and_stops(app, pilot, lab):
    await pilot.press("down", "down", "s")
    await until(pilot, lambda: lab.power_state("crowd-0002") == "running", "it was started")
    await until(pilot, lambda: cell(app, "crowd-0002", "STATE") == "running", "and shown")
    await pilot.press("X")
    await until(pilot, lambda: isinstance(app.screen, Question), "it asks")
    await pilot.press("n")
    await until(pilot, lambda: not isinstance(app.screen, Question), "it takes no")
    assert lab.power_state("crowd-0002") == "running"
    await pilot.press("x")
    await until(pilot, lambda: isinstance(app.screen, Question), "it asks again")
    await pilot.press("y")
    await until(pilot, lambda: lab.power_state("crowd-0002") == "halted", "it was stopped")


@scripted
async def test_the_keyboard_cancels_a_task(app, pilot, lab):
    task = lab.client.vm.delay("crowd-0003", 600)
    await until(
        pilot, lambda: cell(app, "crowd-0003", "OPERATION") == "VM.delay vm_delay", "shown"
    )
    await pilot.press("3")
    await until(pilot, lambda: app.tab == "tasks" and task in app.board.task_rows(), "the tasks")
    await until(pilot, lambda: app.table.chosen == task, "open tasks stand first")
    await pilot.press("c")
    await until(pilot, lambda: lab.client.task.stat(task).ended, "it was cancelled")
    assert isinstance(lab.client.task.stat(task).state, Failed)


@scripted
async def test_it_stays_usable_in_a_storm(app, pilot, lab):
    """Starts of everything, and keys between them."""
    tasks = [lab.client.vm.start(f"crowd-{n:04}") for n in range(500, MANY)]
    await pilot.press("2")
    await until(pilot, lambda: app.tab == "queues", "another table", USABLE)
    await pilot.press("1", "end")
    await until(pilot, lambda: app.table.chosen == "crowd-0999", "the last VM", USABLE)
    await pilot.press("slash", *"crowd-07")
    await until(pilot, lambda: app.table.row_count == 100, "the filter", USABLE)
    await pilot.press("escape")
    await until(pilot, lambda: app.table.row_count == MANY, "all again", USABLE)
    for task in tasks:
        lab.end(task)
    await until(pilot, lambda: cell(app, "crowd-0999", "STATE") == "running", "all is shown")


@scripted
async def test_a_vm_is_explained(app, pilot, lab):
    await pilot.press("e")
    await until(pilot, lambda: isinstance(app.screen, Story), "the story")
    assert "crowd-0000 is halted." in app.screen.text
    await pilot.press("escape")
    await until(pilot, lambda: not isinstance(app.screen, Story), "the tables again")


@scripted
async def test_an_error_is_a_notice(app, pilot, lab):
    lab.run(lab.client.vm.shutdown("crowd-0000"))
    lab.run(lab.client.vm.start("crowd-0000"))
    task_ids = set(app.board.tasks)
    await pilot.press("s")
    await until(pilot, lambda: set(app.board.tasks) - task_ids, "the task that fails")
    await pilot.press("3")
    await until(
        pilot,
        lambda: any("needs it halted" in row[-1] for row in app.board.task_rows().values()),
        "why it failed",
    )


@scripted
async def test_the_order_follows_what_is_asked(app, pilot, lab):
    lab.run(lab.client.vm.shutdown("crowd-0001"))
    lab.run(lab.client.vm.start("crowd-0800")) if lab.power_state(
        "crowd-0800"
    ) == "halted" else None
    await pilot.press("o", "o")
    await until(pilot, lambda: app.ordered == "memory", "by memory")
    await until(pilot, lambda: app.board.vms["crowd-0001"].state.memory_actual == 0, "looked at")
    await pilot.press("home")
    await until(pilot, lambda: app.table.chosen != "crowd-0001", "what has none stands last")


def test_a_daemon_that_goes_away_is_told_and_waited_for(start) -> None:
    lab = start()
    id = lab.running()

    async def run(app: Top, pilot: "Pilot[None]") -> None:
        away = app.query_one("#away")
        await until(pilot, lambda: id in app.board.vms, "the VM is shown")
        lab.daemon.kill()
        await until(pilot, lambda: away.display, "it is told")
        lab.daemon.start()
        await until(pilot, lambda: not away.display, "it is back")
        lab.client.close()
        lab.run(lab.client.vm.shutdown(id))
        await until(pilot, lambda: cell(app, id, "STATE") == "halted", "and followed again")

    drive(lab.daemon.socket, run)
