"""What HOST.get_worker_pool and HOST.get_diagnostics answer, from the daemon's own state."""

import msgspec

from idl.host import (
    Diagnostics,
    OpenIntent,
    Quarantined,
    QueueDiagnostics,
    QueuedOperation,
    RunningMicroOp,
    WorkerPool,
)
from xenopsd import microop
from xenopsd.execution import Execution
from xenopsd.queues import Snapshot
from xenopsd.state import State


def worker_pool(state: State) -> WorkerPool:
    """What HOST.get_worker_pool answers."""
    pool = state.pool
    return WorkerPool(
        size=pool.size, busy=pool.busy, idle=pool.idle, parked=pool.parked, queued=pool.queued
    )


def diagnostics(state: State) -> Diagnostics:
    """What HOST.get_diagnostics answers: everything that explains why something does not move."""
    return Diagnostics(
        queues=[_queue_diagnostics(state, q) for q in state.pool.snapshots()],
        workers={
            **msgspec.to_builtins(worker_pool(state)),
            "written_off": state.pool.written_off,
        },
        tasks=state.executor.context.tasks.counts(),
        updates=state.executor.context.updates.stats(),
        journal=_open_intents(state),
        quarantined=_quarantined(state),
        versions=state.versions,
        places=state.places,
    )


def _queue_diagnostics(state: State, snapshot: Snapshot[Execution]) -> QueueDiagnostics:
    return QueueDiagnostics(
        vm=snapshot.key,
        state=str(snapshot.state),
        operations=[
            QueuedOperation(
                name=item.name,
                task=item.task.id if item.task else None,
                state="running" if item.run else "queued",
                micro_ops=[microop.name(op) for op, _ in item.run.steps[item.run.done :]]
                if item.run
                else [],
            )
            for item in snapshot.items
        ],
        running=_running(state, snapshot),
        deadline=_left(state, snapshot.deadline),
    )


def _left(state: State, deadline: float | None) -> float | None:
    return None if deadline is None else deadline - state.executor.context.clock()


def _running(state: State, snapshot: Snapshot[Execution]) -> RunningMicroOp | None:
    item = snapshot.items[0]
    holder = state.pool.holder(snapshot.key)
    now = state.executor.context.clock()
    name, subject = _present(item, snapshot.key)
    if holder is not None and name and item.lost_job is None:
        return RunningMicroOp(
            name=name,
            object=subject,
            holder=holder.thread,
            age=now - holder.since,
            deadline=_left(state, holder.deadline),
            written_off=holder.written_off,
        )
    job = item.lost_job or (item.run.job if item.run else None)
    if job is None:
        return None
    return RunningMicroOp(
        name=name,
        object=subject,
        holder=f"job-{snapshot.key}",
        age=now - item.step_began,
        deadline=None if item.abandoned else _left(state, job.deadline),
        written_off=item.abandoned,
    )


def _open_intents(state: State) -> list[OpenIntent]:
    found: list[OpenIntent] = []
    for entry in state.executor.context.inventory:
        intent = entry.journal.intent
        if intent is not None:
            found.append(
                OpenIntent(
                    vm=entry.id,
                    task=intent.task,
                    operation=intent.begun.operation,
                    direction=intent.direction,
                    done=intent.done,
                    intended=intent.intended_name,
                    since=intent.begun.at,
                )
            )
    return found


def _quarantined(state: State) -> list[Quarantined]:
    damaged = [
        Quarantined(vm=entry.id, path=str(d.path), reason=d.reason)
        for entry in state.executor.context.inventory
        for d in entry.damaged
    ]
    return [*damaged, *state.quarantined]


def _present(item: Execution, vm: str) -> tuple[str, str]:
    """The micro-op that is being carried out, and its object."""
    run = item.run
    if item.abandoned:
        return item.stuck_in
    if run is None or run.over:
        return "", ""
    return microop.name(run.step[0]), microop.subject(run.step[0], vm)
