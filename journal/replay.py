"""From the bytes of a journal to what was going on when it was last written.

Pure: decides what is a torn tail and what is damage, and repairs neither.
"""

from collections.abc import Iterable
from typing import Never

from msgspec import Raw, Struct
from msgspec.structs import replace

from journal.errors import JournalDamaged
from journal.records import (
    NOTHING,
    Begun,
    Direction,
    Done,
    Intent,
    LineDamaged,
    Record,
    Turned,
    decode_line,
    decode_record,
    line_start,
    split_lines,
)


class OutOfOrder(ValueError):
    """A record that cannot follow the ones before it."""


class OpenIntent(Struct, frozen=True, kw_only=True):
    """An operation that has begun and not ended.

    `plan` is the one being carried out now (the one of `begun`, or of the last turn). Its steps
    are done in order: `outcomes` has the facts of those that are done. `intended` is the step
    whose effect may be there, wholly, partly or not at all, with its name and facts.
    """

    begun: Begun
    direction: Direction = "forward"
    task: str | None
    plan: Raw
    error: Raw = NOTHING
    outcomes: tuple[Raw, ...] = ()
    intended: int | None = None
    intended_name: str | None = None
    intended_facts: Raw = NOTHING

    @property
    def done(self) -> int:
        """How many leading steps of the plan are done."""
        return len(self.outcomes)


class Parsed(Struct, frozen=True, kw_only=True):
    """The good part of a journal: the first `valid_bytes` of the file."""

    records: tuple[Record, ...]
    valid_bytes: int
    next_seq: int
    intent: OpenIntent | None


def advance(intent: OpenIntent | None, record: Record) -> OpenIntent:
    """What is open after `record`. Raises OutOfOrder.

    A step may be intended again (recovery repeats it), and done without an intent (it had no
    effect that a crash could leave behind).
    """
    if isinstance(record, Begun):
        return OpenIntent(begun=record, task=record.task, plan=record.plan)
    if intent is None:
        raise OutOfOrder(f"{_kind(record)} before begun")
    if isinstance(record, Turned):
        return OpenIntent(
            begun=intent.begun,
            direction=record.direction,
            task=record.task,
            plan=record.plan,
            error=record.error,
        )
    if record.step != intent.done:
        raise OutOfOrder(f"{_kind(record)} of step {record.step} where {intent.done} was next")
    return _step(intent, record)


def unasked(intent: OpenIntent) -> tuple[Record, ...]:
    """Records after which the same is open, but nobody waits for its task any more."""
    turned = Turned(direction=intent.direction, task=None, plan=intent.plan, error=intent.error)
    done = [Done(step=step, facts=facts) for step, facts in enumerate(intent.outcomes)]
    if intent.intended is None or intent.intended_name is None:
        return (turned, *done)
    facts = intent.intended_facts
    return (turned, *done, Intent(step=intent.intended, name=intent.intended_name, facts=facts))


def _step(intent: OpenIntent, record: Intent | Done) -> OpenIntent:
    if isinstance(record, Intent):
        return replace(
            intent,
            intended=record.step,
            intended_name=record.name,
            intended_facts=record.facts,
        )
    return replace(
        intent,
        outcomes=(*intent.outcomes, record.facts),
        intended=None,
        intended_name=None,
        intended_facts=NOTHING,
    )


def _kind(record: Record) -> str:
    return str(record.__struct_config__.tag)


def fold(records: Iterable[Record]) -> OpenIntent | None:
    """What the records leave open; a later Begun replaces all before it. Raises OutOfOrder."""
    intent: OpenIntent | None = None
    for record in records:
        intent = advance(intent, record)
    return intent


def parse(data: bytes, *, rebooted: bool) -> Parsed:
    """Read a journal. Raises JournalDamaged.

    In a journal of this boot only the last line can be torn, by a write that was cut: it has no
    newline, and is left out. Anything else that is wrong is damage. When the host was `rebooted`
    since, any suffix may be missing or garbage, because only some appends were fsynced: all from
    the first bad line on is left out, and nothing is damage.
    """
    records: list[Record] = []
    intent: OpenIntent | None = None
    valid = 0
    for line in split_lines((data,)):
        seq = len(records) + 1
        try:
            record = _read(line, seq)
            if record is None:
                break
            intent = advance(intent, record)
        except (LineDamaged, OutOfOrder) as error:
            if rebooted:
                break
            _damaged(seq, str(error))
        records.append(record)
        valid += len(line)
    return Parsed(
        records=tuple(records), valid_bytes=valid, next_seq=len(records) + 1, intent=intent
    )


def _read(line: bytes, seq: int) -> Record | None:
    """The record of line `seq`, None if the line was cut while it was written."""
    if not line.endswith(b"\n"):
        start = line_start(seq)
        if line[: len(start)] != start[: len(line)]:
            raise LineDamaged("what follows is no line that was begun")
        return None
    parts = decode_line(line)
    if parts.seq != seq:
        raise LineDamaged(f"it has the number {parts.seq}")
    return decode_record(parts)


def _damaged(seq: int, reason: str) -> Never:
    raise JournalDamaged(None, f"line {seq}: {reason}")
