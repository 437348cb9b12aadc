"""The registry of tasks: what is kept, who waits, what a repeat is recognised by."""

import asyncio
import threading

import msgspec
import pytest

from idl.errors import Cancelled, DoesNotExist, TaskIsRunning
from idl.task import Completed, Failed, Pending, Subtask, Task
from xenopsd.bridge import Bridge
from xenopsd.tasks import EndedTask, TaskEntry, Tasks

LIMIT = 10.0


def entry(id="t", created=100.0):
    return TaskEntry(
        id=id, vm="vm1", operation="VM.start", object="vm1", debug_info="mine", created=created,
        call=b'["VM.start",{"id":"vm1"}]',
    )


class Inline:
    """A bridge whose calls run at once."""

    def post(self, call):
        call()


@pytest.fixture
def forgotten():
    return []


@pytest.fixture
def tasks(forgotten):
    return Tasks(Inline(), keep=3, forgotten=forgotten.append)


def shown(tasks, id="t"):
    return msgspec.json.decode(tasks.encoded(id), type=Task)


def end(tasks, task, **outcome):
    tasks.end(task, tasks.final(task, now=task.created + 2.5, **{"error": None, **outcome}))


@pytest.mark.parametrize("call", [b"", b'["VM.start",{"id":"vm1"}]'], ids=["unknown", "known"])
def test_an_ended_task_is_kept_as_it_was_and_small(call):
    whole = entry()
    whole.debug_info = "two\nlines"
    whole.subtasks = [
        Subtask(name=f"vif_plug_{n}", object=f"vm1/nic{n}", state="completed", duration=0.1 / 7)
        for n in range(6)
    ]
    task = msgspec.json.encode(whole.task(Completed(duration=0.1, result=None)))
    ended = EndedTask.of(task, call)
    assert (ended.task, ended.call) == (task, call)
    assert len(ended.packed) < len(task) / 2


def test_an_accepted_task_is_pending_and_can_be_cancelled(tasks):
    tasks.add(entry())
    assert shown(tasks) == Task(
        id="t", vm="vm1", operation="VM.start", debug_info="mine", created=100.0, object="vm1",
        state=Pending(progress=0.0), cancellable=True,
    )


def test_a_task_shows_how_far_it_is(tasks):
    task = entry()
    tasks.add(task)
    task.progress, task.cancellable, task.cancel_points_seen = 0.5, False, 7
    task.subtasks.append(Subtask(name="vm_create", object="vm1", state="pending"))
    found = shown(tasks)
    assert (found.state, found.cancellable, found.cancel_points_seen) == (
        Pending(progress=0.5), False, 7,
    )
    assert found.subtasks == task.subtasks


def test_an_ended_task_says_how_long_it_took_and_what_came_of_it(tasks):
    task = entry()
    tasks.add(task)
    end(tasks, task, result={"a": 1})
    found = shown(tasks)
    assert found.state == Completed(duration=2.5, result={"a": 1})
    assert not found.cancellable
    assert tasks.open("t") is None


def test_a_failed_task_has_its_error(tasks):
    task = entry()
    tasks.add(task)
    error = Cancelled(task="t").error_object()
    end(tasks, task, error=error)
    assert shown(tasks).state == Failed(duration=2.5, error=error)


def test_a_clock_that_was_set_back_gives_no_negative_duration(tasks):
    task = entry(created=100.0)
    final = tasks.final(task, now=50.0, error=None)
    assert msgspec.json.decode(final, type=Task).state.duration == 0.0


def test_only_the_newest_ended_ones_are_kept_and_who_goes_is_told(tasks, forgotten):
    for number in range(5):
        task = entry(f"t{number}")
        tasks.add(task)
        end(tasks, task)
    assert tasks.ids() == ["t2", "t3", "t4"]
    assert forgotten == ["t0", "t1"]
    with pytest.raises(DoesNotExist) as raised:
        tasks.encoded("t0")
    assert raised.value.facts() == {"kind": "task", "id": "t0"}


def test_open_ones_are_kept_whatever_ends(tasks):
    tasks.add(entry("open"))
    for number in range(5):
        task = entry(f"t{number}")
        tasks.add(task)
        end(tasks, task)
    assert shown(tasks, "open").state == Pending()
    assert tasks.ids()[-1] == "open"
    assert tasks.counts() == {"open": 1, "ended": 3}
    assert len(tasks.encoded_list()) == 4


def test_a_repeat_is_recognised_by_its_call_whether_it_has_ended_or_not(tasks):
    task = entry()
    tasks.add(task)
    assert tasks.known_call("t") == task.call
    end(tasks, task)
    assert tasks.known_call("t") == task.call
    assert tasks.known_call("other") is None


def test_tasks_of_a_former_life_are_there(tasks):
    tasks.restore("old", msgspec.json.encode(entry("old").task(Completed(duration=1.0))), b"call")
    assert shown(tasks, "old").state == Completed(duration=1.0)
    assert tasks.known_call("old") == b"call"


def test_only_an_ended_task_is_destroyed(tasks):
    task = entry()
    tasks.add(task)
    with pytest.raises(TaskIsRunning):
        tasks.destroy("t")
    end(tasks, task)
    tasks.destroy("t")
    with pytest.raises(DoesNotExist):
        tasks.destroy("t")


def test_what_was_never_accepted_never_was(tasks):
    tasks.add(entry())
    tasks.withdraw("t")
    with pytest.raises(DoesNotExist):
        tasks.encoded("t")
    tasks.withdraw("t")


# Waiting


def on_loop(scenario):
    async def run():
        await asyncio.wait_for(
            scenario(Tasks(Bridge(asyncio.get_running_loop()), keep=3, forgotten=lambda _: None)),
            LIMIT,
        )

    asyncio.run(run())


def test_who_waits_is_told_of_the_end_from_another_thread():
    async def scenario(tasks):
        task = entry()
        tasks.add(task)
        waiting = [tasks.wait("t", 1000.0) for _ in range(3)]
        threading.Thread(target=end, args=(tasks, task)).start()
        await asyncio.gather(*waiting)
        assert isinstance(shown(tasks).state, Completed)

    on_loop(scenario)


def test_of_an_ended_task_nobody_waits():
    async def scenario(tasks):
        task = entry()
        tasks.add(task)
        end(tasks, task)
        assert tasks.wait("t", 1000.0) is None
        with pytest.raises(DoesNotExist):
            tasks.wait("no", 1000.0)

    on_loop(scenario)


def test_a_wait_ends_with_its_time_and_leaves_nothing_behind():
    async def scenario(tasks):
        tasks.add(entry())
        await tasks.wait("t", 0.001)
        assert isinstance(shown(tasks).state, Pending)
        assert tasks._waiters == {}

    on_loop(scenario)


def test_a_wait_that_is_given_up_leaves_nothing_behind():
    async def scenario(tasks):
        tasks.add(entry())
        first, second = tasks.wait("t", 1000.0), tasks.wait("t", 1000.0)
        first.cancel()
        await asyncio.sleep(0)
        assert tasks._waiters == {"t": [second]}
        second.cancel()
        await asyncio.sleep(0)
        assert tasks._waiters == {}
        end(tasks, tasks.open("t"))

    on_loop(scenario)


def test_no_end_is_missed_whoever_comes_first():
    async def scenario(tasks):
        for number in range(200):
            task = entry(f"t{number}")
            tasks.add(task)
            ending = asyncio.to_thread(end, tasks, task)
            running = asyncio.ensure_future(ending)
            waiting = tasks.wait(task.id, 1000.0)
            if waiting is not None:
                await waiting
            await running

    on_loop(scenario)
