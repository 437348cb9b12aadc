"""What top knows and shows."""

from typing import Any

from idl.errors import Cancelled
from idl.host import (
    Diagnostics,
    HostQuery,
    QueueDiagnostics,
    QueuedOperation,
    RunningMicroOp,
    WorkerPool,
)
from idl.task import Completed, Failed, Pending, Subtask, Task
from idl.vm import Attention, PowerState, RunningOperation, Vm, VmMetrics, VmRecord, VmState
from xenopsd.cli.top.board import (
    KEPT,
    QUEUE_TITLES,
    STALE,
    TASK_TITLES,
    VM_TITLES,
    WORKER_TITLES,
    Board,
    Look,
    Rate,
)


def vm(id: str, state: PowerState = PowerState.HALTED, **fields: Any) -> VmRecord:
    return VmRecord(
        id=id, config=Vm(id=id, name=f"The {id}"), state=VmState(power_state=state, **fields)
    )


def task(id: str, state: Any = None) -> Task:
    return Task(
        id=id,
        vm="web",
        operation="VM.start",
        debug_info="",
        created=0.0,
        object="web",
        state=state or Pending(progress=0.5),
        subtasks=[Subtask(name="vm_build", object="web", state="pending")],
    )


def queue(vm: str, age: float | None = None) -> QueueDiagnostics:
    running = age is not None and RunningMicroOp(
        name="vm_build", object=vm, holder="worker-1", age=age, deadline=5.0
    )
    return QueueDiagnostics(
        vm=vm,
        state="leased" if running else "ready",
        operations=[QueuedOperation(name="VM.start", task="t", state="running")],
        running=running or None,
        deadline=None,
    )


def look(at: float, *queues: QueueDiagnostics, number: int = 0, cpu: float = 0.0) -> Look:
    return Look(
        at=at,
        query=HostQuery(
            name="xenopsd",
            version="1",
            instance="default",
            backend="simulator",
            epoch="e",
            features=[],
            recovering=False,
        ),
        pool=WorkerPool(size=4, busy=1, idle=3, parked=0, queued=1),
        diagnostics=Diagnostics(
            queues=list(queues),
            workers={},
            tasks={},
            updates={"number": number},
            journal=[],
            quarantined=[],
            versions={},
        ),
        metrics=[
            VmMetrics(
                id="web",
                cpu_seconds=cpu,
                disks={"web/a": {"read_bytes": int(cpu * 1024), "write_bytes": 0}},
            )
        ],
    )


def test_vms_come_change_and_go():
    board = Board()
    board.put_vms([vm("web"), vm("db")], [], whole=True)
    assert list(board.vm_rows()) == ["db", "web"]
    board.put_vms([vm("web", PowerState.RUNNING)], ["db"], whole=False)
    assert board.vm_rows() == {"web": ("web", "running", "", "", "", "", "", "The web")}
    board.put_vms([vm("new")], [], whole=True)
    assert list(board.vm_rows()) == ["new"]


def test_a_row_has_a_cell_a_title():
    board = Board()
    board.put_vms([vm("web")], [], whole=True)
    board.put_tasks([task("t")], whole=True)
    board.put_look(look(0.0, queue("web", 1.0)))
    for rows, titles in (
        (board.vm_rows(), VM_TITLES),
        (board.task_rows(), TASK_TITLES),
        (board.queue_rows(), QUEUE_TITLES),
        (board.worker_rows(), WORKER_TITLES),
    ):
        assert [len(row) for row in rows.values()] == [len(titles)]


def test_a_filter_looks_into_id_name_and_state():
    board = Board()
    board.put_vms([vm("web"), vm("db", PowerState.PAUSED)], [], whole=True)
    assert list(board.vm_rows("we")) == ["web"]
    assert list(board.vm_rows("The d")) == ["db"]
    assert list(board.vm_rows("paused")) == ["db"]


def test_orders():
    board = Board()
    doubt = vm("c", attention=Attention(reason="?", since=0.0))
    board.put_vms([vm("a"), vm("b", memory_actual=5), doubt], [], whole=True)
    assert list(board.vm_rows(order="memory")) == ["b", "a", "c"]
    assert list(board.vm_rows(order="state")) == ["c", "a", "b"]
    assert board.vm_rows()["c"][1] == "attention"


def test_what_a_vm_does_is_shown():
    operation = RunningOperation(task="t", name="VM.start", micro_op="vm_build", since=0.0)
    board = Board()
    board.put_vms([vm("web", operation=operation)], [], whole=True)
    assert board.vm_rows()["web"][2] == "VM.start vm_build"


def test_rates_hold_until_their_counter_moves_and_then_stand_still():
    rate = Rate((0.0, 0.0, 0.0), 0.0).moved((5.0, 10.0, 0.0), 5.0)
    assert rate.speed == (1.0, 2.0, 0.0)
    assert rate.moved((5.0, 10.0, 0.0), 7.0) == rate
    assert rate.moved((5.0, 10.0, 0.0), 5.0 + STALE + 1).speed == (0.0, 0.0, 0.0)


def test_a_counter_that_begins_anew_is_no_negative_rate():
    assert Rate((5.0, 5.0, 5.0), 0.0).moved((1.0, 1.0, 1.0), 1.0).speed == (0.0, 0.0, 0.0)


def test_looks_give_rates():
    board = Board()
    board.put_vms([vm("web", PowerState.RUNNING)], [], whole=True)
    board.put_look(look(0.0, cpu=0.0))
    board.put_look(look(2.0, number=10, cpu=1.0))
    assert board.vm_rows()["web"][3:6] == ("", "", ""), "sampled nobody knows when"
    board.put_look(look(4.0, number=50, cpu=2.0))
    assert board.updates == 20
    assert board.vm_rows()["web"][3:6] == ("50%", "", "512 B")
    who, load = board.head()
    assert who == "default (simulator) · 1 VMs: 1 running"
    assert "workers 4: 1 busy, 3 idle, 0 parked" in load
    assert "updates 20/s · CPU 50% · disk 512 B/s" in load


def test_nothing_is_said_before_the_first_look():
    assert Board().head() == ("", "")
    assert Board().queue_rows() == {}


def test_the_longest_held_queue_stands_first():
    board = Board()
    board.put_look(look(0.0, queue("idle"), queue("young", 1.0), queue("old", 9.0)))
    assert list(board.queue_rows()) == ["old", "young", "idle"]
    assert list(board.worker_rows()) == ["worker-1 old", "worker-1 young"]


def test_open_tasks_stand_before_ended_ones_and_the_newest_first():
    board = Board()
    failed = Failed(duration=1.0, error=Cancelled(task="t2").error_object())
    board.put_tasks(
        [task("t1"), task("t2", failed), task("t3"), task("t4", Completed(duration=1))], whole=True
    )
    assert list(board.task_rows()) == ["t3", "t1", "t4", "t2"]
    assert board.task_rows()["t1"][3:6] == ("pending", "50%", "vm_build")
    assert board.task_rows()["t2"][-1] == "Task t2 was cancelled."


def test_of_ended_tasks_the_newest_stay():
    board = Board()
    board.put_tasks([task("open")], whole=True)
    board.put_tasks([task(str(n), Completed(duration=1)) for n in range(KEPT + 5)], whole=False)
    assert len(board.tasks) == KEPT + 1
    assert "open" in board.tasks
    assert "4" not in board.tasks
