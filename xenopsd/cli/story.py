"""Why a VM is where it is, what goes on, and what would be done, in sentences. Pure.

What would be done is asked of the table of recovery itself (`xenopsd.reconcile`), with what
the daemon tells of the VM in place of what only its journal knows.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args

import msgspec
from msgspec.structs import fields

from backends.interface import Domain
from idl.host import Diagnostics, OpenIntent, QueueDiagnostics, RunningMicroOp
from idl.task import Failed, Task
from idl.vm import PowerState, VmRecord
from xenopsd.cli.concerns import Concern, of_vm
from xenopsd.cli.output import moment, span, written
from xenopsd.microop import MicroOp, VmCreate, VmDestroy
from xenopsd.plan.plan import Plan, Segment
from xenopsd.reconcile import LOST, RESTARTED, TABLE, Facts, OpenPlan, Repair, Verdict, reconcile
from xenopsd.record import VmExtra

#: What each verdict of the table means.
VERDICTS = {
    Verdict.SETTLE: "do nothing, since it is sensible as it is",
    Verdict.CONTINUE: "carry the operation on from its first step that is not done",
    Verdict.TURN_BACK: "undo what the operation has begun, in reverse",
    Verdict.CLEAR: "remove whatever is left of its domain, so that it is halted",
    Verdict.DOUBT: "touch nothing and ask you",
}

_KINDS: dict[str, type[Any]] = {
    str(kind.__struct_config__.tag): kind for kind in get_args(MicroOp)
}

#: What the daemon says of how a VM got where it is, as a sentence.
_REASONS = {
    "started": "It was started.",
    "shut down": "It was shut down.",
    "rebooted": "It was rebooted.",
    "resumed": "It was resumed.",
    "suspended": "It was suspended.",
    "crashed": "Its guest crashed, and on_crash decided.",
    "guest shut down": "Its guest shut down by itself, and on_shutdown decided.",
    LOST: "Its domain was found gone, and nothing here had ended it.",
    RESTARTED: "The host restarted under it.",
}

#: What a queue without a worker waits for, by its micro-op.
_AWAITED = {
    "vm_delay": "for its delay to be over",
    "vm_request_shutdown": "for its guest to acknowledge the shutdown",
    "vm_await_shutdown": "for its guest to shut down",
    "vbd_unplug": "for its guest to let the disk go",
    "vif_unplug": "for its guest to let the interface go",
    "pci_unplug": "for its guest to let the device go",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """All that the daemon tells about one VM: the `task` at the head of its queue, the `last`
    that has ended and is remembered; `extra` as VM.export_metadata has it.
    """

    record: VmRecord
    diagnostics: Diagnostics
    recovering: bool = False
    task: Task | None = None
    last: Task | None = None
    extra: VmExtra | None = None

    @property
    def queue(self) -> QueueDiagnostics | None:
        """Its queue, None where nothing stands on it."""
        return next((q for q in self.diagnostics.queues if q.vm == self.record.id), None)

    @property
    def intent(self) -> OpenIntent | None:
        """What its journal leaves open."""
        return next((i for i in self.diagnostics.journal if i.vm == self.record.id), None)

    @property
    def concern(self) -> Concern | None:
        """What needs an administrator."""
        return of_vm(self.record, self.queue)


def tell(case: Case) -> list[tuple[str, list[str]]]:
    """The story: paragraphs with a title each, of sentences."""
    paragraphs = (
        ("Where it is", _whereabouts(case)),
        ("What goes on", _doings(case)),
        ("What the journal says", _journal(case)),
        ("What would be done", _prospects(case)),
    )
    return [(title, list(sentences)) for title, sentences in paragraphs]


def _whereabouts(case: Case) -> Iterator[str]:
    record, state = case.record, case.record.state
    if record.config is None:
        why = state.attention.reason if state.attention else "damaged"
        yield f"Its record cannot be read ({why}), so nothing else is known of it."
        return
    yield f"{record.id} is {state.power_state}. {_because(record)}"
    if state.domain_ids:
        since = moment(state.last_start_time)
        yield f"It has domain {', '.join(state.domain_ids)}, started {since or 'unknown when'}."
    if state.attention is not None:
        when, why = moment(state.attention.since), state.attention.reason.rstrip(".")
        yield f"The daemon is in doubt about it since {when}: {why}."
    if case.last is not None and isinstance(case.last.state, Failed):
        when, why = moment(case.last.created), case.last.state.error.message
        yield f"The last that was asked of it, {case.last.operation} at {when}, failed: {why}"
    for field, change in record.pending.items():
        now, then = written(change.running), written(change.configured)
        yield f"{field} is {now} now and {then} from its next start on."
    if state.observed_at is not None:
        yield f"It was last looked at {moment(state.observed_at)}."


def _because(record: VmRecord) -> str:
    reason = record.state.reason
    if not reason and record.state.domain_ids:
        return "It ran already when it was recorded here."
    if not reason:
        return "It has never been started here."
    return _REASONS.get(reason, f"The last that happened to it: {reason}.")


def _doings(case: Case) -> Iterator[str]:
    if case.recovering:
        yield "The daemon is recovering: what is asked of a VM waits for the VM's repair."
    queue = case.queue
    if queue is None or not queue.operations:
        yield "Nothing goes on, and nothing waits."
        return
    head, *rest = queue.operations
    yield f"{head.name}{_of_task(head.task)} is at the head of its queue. {_stand(queue)}"
    if head.micro_ops:
        yield f"Still to come: {', '.join(head.micro_ops)}."
    if case.task is not None and not case.task.cancellable:
        yield "It can only be finished now, not cancelled."
    if rest:
        yield f"Behind it wait: {', '.join(one.name + _of_task(one.task) for one in rest)}."


def _of_task(task: str | None) -> str:
    return f" (task {task})" if task else ""


def _stand(queue: QueueDiagnostics) -> str:
    """Where the head of a queue is."""
    if queue.running is not None:
        return _held(queue.running)
    match queue.state:
        case "parked":
            steps = queue.operations[0].micro_ops
            step = steps[0] if steps else "something"
            return f"It waits {_AWAITED.get(step, f'for {step} to end')}, and holds no worker."
        case "blocked":
            return "It waits for a call that was given up and has not returned."
        case "leased":
            return "A worker has it."
        case _:
            return "It waits for a free worker (xenops pool show)."


def _held(running: RunningMicroOp) -> str:
    held = f"{running.name} of {running.object} is with {running.holder} for {span(running.age)}"
    if running.written_off:
        return f"{held}; it was given up, and until it returns only a hard shutdown is possible."
    if running.deadline is None:
        return f"{held}."
    if running.deadline < 0:
        return f"{held}, {span(-running.deadline)} longer than it may."
    return f"{held}; it may take {span(running.deadline)} more."


def _journal(case: Case) -> Iterator[str]:
    intent = case.intent
    if intent is None:
        yield "No operation has begun and not ended."
        return
    since = f" at {moment(intent.since)}" if intent.since is not None else ""
    yield f"{intent.operation}{_of_task(intent.task)} began{since} and has not ended."
    if intent.direction == "back":
        yield "It is being undone."
    steps = "step is" if intent.done == 1 else "steps are"
    yield f"{intent.done} {steps} done."
    if intent.intended:
        yield f"{intent.intended} was about to be done; whether it was, only a look can tell."


def _prospects(case: Case) -> Iterator[str]:
    if case.concern is not None and case.record.state.attention is not None:
        yield f"Now: {VERDICTS[Verdict.DOUBT]}. What settles it stands below."
        return
    if case.record.config is None or case.extra is None:
        yield "Nothing."
        return
    facts = _facts(case, case.extra)
    yield f"If the daemon ended now, its next start would {_answer(facts)}"
    if facts.domain is not None:
        lost = replace(facts, domain=None, leftovers=True)
        yield f"If its domain were gone by then as well, it would {_answer(lost)}"
    auto = " Then it would be started (auto_start)." if case.record.config.auto_start else ""
    restarted = replace(facts, domain=None, leftovers=facts.domain is not None, rebooted=True)
    yield f"If the host restarted now, it would {_answer(restarted)}{auto}"


def _answer(facts: Facts) -> str:
    repair: Repair = reconcile(facts)
    return f"{VERDICTS[repair.verdict]} ({repair.reason})."


def _facts(case: Case, extra: VmExtra) -> Facts:
    past = _past(case)
    return Facts(
        extra=extra,
        domain=_domain(case.record, past),
        open=_open(case, past),
        leftovers=False,
        rebooted=False,
    )


def _past(case: Case) -> list[MicroOp]:
    """The steps that its operation has done, as far as the daemon tells of them."""
    if case.task is None:
        return []
    done = (step.name for step in case.task.subtasks if step.state == "completed")
    return [step for name in done if (step := _step(name))]


def _ahead(case: Case) -> list[MicroOp]:
    """The steps that are not done."""
    head = case.queue.operations[0] if case.queue and case.queue.operations else None
    names = head.micro_ops if head else []
    if not names and case.intent is not None and case.intent.intended:
        names = [case.intent.intended]
    return [step for name in names if (step := _step(name))]


def _step(name: str) -> MicroOp | None:
    """A micro-op of which only the kind matters; None for one of a newer daemon."""
    kind = _KINDS.get(name)
    if kind is None:
        return None
    blank = {one.name: None for one in fields(kind) if one.required}
    step: MicroOp = kind(**blank)
    return step


def _open(case: Case, past: list[MicroOp]) -> OpenPlan | None:
    """Its open plan, as far as the daemon tells of it."""
    if case.intent is None:
        return None
    segment = Segment(
        steps=[*past, *_ahead(case)],
        incarnation=case.record.state.incarnation,
        finish=case.task is not None and not case.task.cancellable,
    )
    return OpenPlan(
        plan=Plan(segments=[segment]),
        direction="back" if case.intent.direction == "back" else "forward",
        done=len(past),
        intended=case.intent.intended is not None,
    )


def _domain(record: VmRecord, past: list[MicroOp]) -> Domain | None:
    """Its domain: an operation under way knows better than the last look."""
    made = next((s for s in reversed(past) if isinstance(s, VmCreate | VmDestroy)), None)
    if isinstance(made, VmDestroy) or (made is None and not record.state.domain_ids):
        return None
    return Domain(
        id="",
        name=record.id,
        vm=record.id,
        incarnation=record.state.incarnation,
        paused=record.state.power_state is not PowerState.RUNNING,
    )


def recorded(extra: object) -> VmExtra | None:
    """The running record as VM.export_metadata has it; None where a newer daemon's is another."""
    try:
        return None if extra is None else msgspec.convert(extra, VmExtra)
    except msgspec.ValidationError:
        return None


def table() -> list[tuple[str, str, str]]:
    """The table of recovery in words: number, what is found, what is then done."""
    return [
        (str(number), words, f"{verdict}: {VERDICTS[verdict]}")
        for number, (_, verdict, words) in enumerate(TABLE, start=1)
    ]
