"""What needs an administrator, why, and the commands that settle it. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from idl.host import Diagnostics, QueueDiagnostics
from idl.vm import VmRecord


@dataclass(frozen=True, slots=True)
class Remedy:
    """A command, and what it does."""

    command: str
    effect: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """Something that nobody but an administrator settles; `since` in Unix seconds."""

    subject: str
    why: str
    since: float | None = None
    remedies: tuple[Remedy, ...] = ()


def concerns(records: Iterable[VmRecord], diagnostics: Diagnostics) -> list[Concern]:
    """Everything, by subject."""
    stuck = {queue.vm: queue for queue in diagnostics.queues if is_stuck(queue)}
    found = [*_of_vms(records, stuck), *_of_files(diagnostics)]
    return sorted(found, key=lambda concern: concern.subject)


def is_stuck(queue: QueueDiagnostics) -> bool:
    """A call of it is past its deadline, or was given up and has not returned."""
    running = queue.running
    if running is None:
        return False
    return running.written_off or (running.deadline is not None and running.deadline < 0)


def of_vm(record: VmRecord, queue: QueueDiagnostics | None) -> Concern | None:
    """What one VM needs, or None."""
    attention = record.state.attention
    if attention is not None:
        return Concern(
            subject=record.id,
            why=attention.reason,
            since=attention.since,
            remedies=tuple(_remedies(record)),
        )
    if queue is None or not is_stuck(queue) or queue.running is None:
        return None
    why = f"{queue.running.name} does not return ({queue.running.age:.0f} s by now)"
    return Concern(subject=record.id, why=why, remedies=(_HARD.of(record.id),))


@dataclass(frozen=True, slots=True)
class _Template:
    command: str
    effect: str

    def of(self, vm: str) -> Remedy:
        return Remedy(self.command.format(vm=vm), self.effect)


_HARD = _Template("xenops shutdown {vm}", "stops it hard and clears what is left: it is halted")
_DESTROY = _Template("xenops destroy {vm}", "removes its domain, whatever that is doing")
_ADOPT = _Template("xenops adopt {vm} DOMAIN", "takes a domain that xenops foreign lists as its")
_FORGET = _Template("xenops forget {vm}", "drops its record and leaves whatever runs to itself")
_REPAIR = _Template("xenops add FILE --replace", "records it anew; the damaged file stays beside")

_DOUBTFUL: Sequence[_Template] = (_HARD, _DESTROY, _ADOPT, _FORGET)
_DAMAGED: Sequence[_Template] = (_REPAIR, _FORGET)


def _remedies(record: VmRecord) -> Iterator[Remedy]:
    templates = _DAMAGED if record.config is None else _DOUBTFUL
    yield from (template.of(record.id) for template in templates)


def _of_vms(records: Iterable[VmRecord], stuck: dict[str, QueueDiagnostics]) -> Iterator[Concern]:
    found = (of_vm(record, stuck.get(record.id)) for record in records)
    yield from (concern for concern in found if concern is not None)


def _of_files(diagnostics: Diagnostics) -> Iterator[Concern]:
    """What belongs to no VM; the records of VMs are told with their VM."""
    look = Remedy("xenops diag bundle", "gathers what a bug report needs; the file stays for you")
    for record in diagnostics.quarantined:
        if record.vm is None:
            why = f"it cannot be read and was set aside: {record.reason}"
            yield Concern(subject=record.path, why=why, remedies=(look,))
