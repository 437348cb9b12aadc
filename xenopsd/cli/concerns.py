"""What needs an administrator, why, and the commands that settle it. Pure."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

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
    found = [*_of_backend(of_vm(one, stuck.get(one.id)) for one in records)]
    found += _of_files(diagnostics)
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
            remedies=tuple(_remedies(record, attention.reason)),
        )
    if queue is None or not is_stuck(queue) or queue.running is None:
        return None
    why = f"{queue.running.name} does not return ({queue.running.age:.0f} s by now)"
    return Concern(subject=record.id, why=why, remedies=(_HARD.of(record.id),))


@dataclass(frozen=True, slots=True)
class _Template:
    command: str
    effect: str

    def of(self, vm: str, **facts: str) -> Remedy:
        return Remedy(self.command.format(vm=vm, **facts), self.effect.format(vm=vm, **facts))


_HARD = _Template("xenops shutdown {vm}", "stops it hard and clears what is left: it is halted")
_DESTROY = _Template("xenops destroy {vm}", "removes its domain, whatever that is doing")
_OWN = _Template("xenops adopt {vm} {domain}", "takes the domain that it has as it is")
_ADOPT = _Template("xenops adopt {vm} DOMAIN", "takes a domain that xenops foreign lists as its")
_FORGET = _Template("xenops forget {vm}", "drops its record and leaves whatever runs to itself")
_REPAIR = _Template("xenops add FILE --replace", "records it anew; the damaged file stays beside")
_KEEP = _Template("xenops --instance {other} forget {vm}", "leaves it to this instance")
_LEAVE = _Template("xenops forget {vm}", "leaves it to the instance {other}")
_MEND = _Template("xenops diagnostics", "shows what waits; mended, the daemon goes on by itself")

#: As the daemon says of VMs that it cannot look at, and of one that another instance has, too.
_UNREACHABLE = "the backend cannot be reached"
_CONTESTED = re.compile(r"the instance (?P<other>\S+) of this host claims it too")


def _remedies(record: VmRecord, reason: str) -> list[Remedy]:
    vm, domains = record.id, record.state.domain_ids
    if record.config is None:
        return [_REPAIR.of(vm), _FORGET.of(vm)]
    if reason.startswith(_UNREACHABLE):
        return [_MEND.of(vm)]
    if contested := _CONTESTED.match(reason):
        return [_KEEP.of(vm, **contested.groupdict()), _LEAVE.of(vm, **contested.groupdict())]
    adopt = [_OWN.of(vm, domain=domain) for domain in domains] or [_ADOPT.of(vm)]
    return [_HARD.of(vm), _DESTROY.of(vm), *adopt, _FORGET.of(vm)]


def _of_backend(found: Iterable[Concern | None]) -> Iterator[Concern]:
    """The concerns of VMs; those that wait for the backend are one."""
    waiting: list[Concern] = []
    for concern in found:
        if concern is not None and concern.why.startswith(_UNREACHABLE):
            waiting.append(concern)
        elif concern is not None:
            yield concern
    if waiting:
        number = f"{len(waiting)} VM" + ("s" if len(waiting) > 1 else "")
        yield replace(
            waiting[0], subject="backend", why=f"{waiting[0].why} ({number} wait for it)"
        )


def _of_files(diagnostics: Diagnostics) -> Iterator[Concern]:
    """What belongs to no VM; the records of VMs are told with their VM."""
    look = Remedy("xenops diag bundle", "gathers what a bug report needs; the file stays for you")
    for record in diagnostics.quarantined:
        if record.vm is None:
            why = f"it cannot be read and was set aside: {record.reason}"
            yield Concern(subject=record.path, why=why, remedies=(look,))
