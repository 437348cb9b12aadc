"""The log of all tasks: accepted, ended, destroyed, in one append-only file.

It must outlive the daemon, not the host: nothing is fsynced but a compacted file. Damage costs
the tasks that it hit and never keeps the daemon from starting. What a task means is not known
here.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from msgspec import Struct

from journal.disk import Disk, name_aside, remove_leftover, temporary_of, write_all
from journal.errors import reason_of
from journal.lines import LineFile
from journal.records import (
    Accepted,
    Ended,
    Line,
    LineDamaged,
    TaskRecord,
    decode_heading,
    decode_line,
    decode_task,
    encode_line,
    split_lines,
)

A = TypeVar("A")
E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class LoadedTasks:
    """What the file knows.

    `open` are the tasks accepted and not ended, in order of acceptance; `ended` the newest ended
    ones, in order of ending, each with what was accepted (None when that line is lost).
    `gone` are those that were destroyed and have not come again, as far as the file still tells.
    `damaged` are (line number, reason) of what was skipped; number 0 is the file as a whole.
    """

    open: dict[str, Accepted]
    ended: dict[str, tuple[Accepted | None, Ended]]
    damaged: tuple[tuple[int, str], ...]
    gone: frozenset[str] = frozenset()


class Tally(Generic[A, E]):
    """Which tasks are open and which the newest `keep` ended ones are; pure.

    What stands for an accepted and an ended task (the record, the number of its line) is for the
    caller to choose. An id may come again after it was destroyed.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self.open: dict[str, A] = {}
        self.ended: OrderedDict[str, tuple[A | None, E]] = OrderedDict()
        self.gone: set[str] = set()

    def accepted(self, task: str, value: A) -> None:
        self.ended.pop(task, None)
        self.gone.discard(task)
        self.open[task] = value

    def has_ended(self, task: str, value: E) -> None:
        before = self.ended.pop(task, None)
        accepted = self.open.pop(task, before[0] if before else None)
        self.ended[task] = (accepted, value)
        if len(self.ended) > self._keep:
            self.ended.popitem(last=False)

    def destroyed(self, task: str) -> None:
        self.open.pop(task, None)
        self.ended.pop(task, None)
        self.gone.add(task)


class _Contents(Struct):
    """How long the file is, in lines, and how many tasks in it are open."""

    lines: int = 0
    open: int = 0
    next_seq: int = 1
    compact_at: int = 0

    def count(self, record: TaskRecord) -> None:
        self.lines += 1
        self.next_seq += 1
        if isinstance(record, Accepted):
            self.open += 1
        elif isinstance(record, Ended):
            self.open = max(0, self.open - 1)


class TaskLog:
    """The file `path`; any thread may append, one at a time.

    The newest `keep` ended tasks are kept. Life: `load`, then `append`s.
    """

    def __init__(self, disk: Disk, path: Path, *, keep: int = 10_000) -> None:
        self._disk = disk
        self._path = path
        self._keep = keep
        self._lock = threading.Lock()
        self._file = LineFile(disk, path)
        self._contents = _Contents()

    def load(self) -> LoadedTasks:
        """What was accepted and has ended; a line that was cut while written is removed.

        Never raises: a file that cannot be read is set aside, and reported in `damaged`.
        """
        with self._lock:
            remove_leftover(self._disk, temporary_of(self._path))
            return self._load()

    def append(self, records: Sequence[TaskRecord]) -> None:
        """Write a batch with one write. Raises JournalUnwritable; nothing of it is there then."""
        with self._lock:
            first = self._contents.next_seq
            lines = [encode_line(first + at, record) for at, record in enumerate(records)]
            self._file.append(b"".join(lines), durable=False)
            for record in records:
                self._contents.count(record)
            if self._is_due():
                self._compact()

    def close(self) -> None:
        with self._lock:
            self._file.close()

    def _load(self) -> LoadedTasks:
        tally: Tally[Accepted, Ended] = Tally(self._keep)
        damaged: list[tuple[int, str]] = []
        contents = _Contents()
        length = 0
        ragged = False
        try:
            for line in self._lines():
                ragged = not line.endswith(b"\n")
                if ragged:
                    break
                length += len(line)
                contents.lines += 1
                try:
                    _absorb(tally, contents, decode_line(line))
                except LineDamaged as error:
                    damaged.append((contents.lines, str(error)))
            self._file.adopt(length, ragged=ragged)
        except OSError as error:
            damaged.append((0, f"the log cannot be read: {reason_of(error)}"))
            contents = self._set_aside(reason_of(error))
        contents.open = len(tally.open)
        self._contents = contents
        return LoadedTasks(
            tally.open, dict(tally.ended), tuple(damaged), frozenset(tally.gone)
        )

    def _lines(self) -> Iterator[bytes]:
        if not self._disk.exists(self._path):
            return iter(())
        return split_lines(self._disk.chunks(self._path))

    def _set_aside(self, reason: str) -> _Contents:
        """Begin a new file beside one that cannot be read."""
        try:
            self._disk.rename(self._path, name_aside(self._disk, self._path))
            self._file.adopt(0, ragged=False)
        except OSError:
            # Not even its length is known: appending might have to cut it, and cut too much.
            self._file.distrust(reason)
        return _Contents()

    def _is_due(self) -> bool:
        """Whether more is superseded than is of use: then compacting costs O(1) an append."""
        contents = self._contents
        of_use = 2 * self._keep + contents.open
        return contents.lines > max(2 * of_use, contents.compact_at)

    def _compact(self) -> None:
        """Rewrite the file with what is of use; when that fails, the old one stays in use."""
        temporary = temporary_of(self._path)
        try:
            wanted = self._wanted()
            length = self._copy(wanted, temporary)
            # Complete on the disk before it takes the name: a crash between leaves the old file.
            self._disk.rename(temporary, self._path)
        except OSError:
            remove_leftover(self._disk, temporary)
            self._contents.compact_at = self._contents.lines + 2 * self._keep
            return
        # From here on the old descriptor leads to a file without a name.
        self._file.adopt(length, ragged=False)
        self._contents.lines = len(wanted)
        self._contents.compact_at = 0

    def _wanted(self) -> set[int]:
        """The numbers of the lines that are of use."""
        tally: Tally[int, int] = Tally(self._keep)
        for number, line in enumerate(self._lines()):
            try:
                heading = decode_heading(decode_line(line))
            except LineDamaged:
                continue
            if heading.kind == "accepted":
                tally.accepted(heading.id, number)
            elif heading.kind == "ended":
                tally.has_ended(heading.id, number)
            else:
                tally.destroyed(heading.id)
        pairs = (number for pair in tally.ended.values() for number in pair if number is not None)
        return {*tally.open.values(), *pairs}

    def _copy(self, wanted: set[int], target: Path) -> int:
        """Copy the wanted lines into a new file, durably; its length."""
        length = 0
        file = self._disk.open_append(target, empty=True)
        try:
            for number, line in enumerate(self._lines()):
                if number in wanted:
                    write_all(file, line)
                    length += len(line)
            file.fsync()
        finally:
            file.close()
        return length


def _absorb(tally: Tally[Accepted, Ended], contents: _Contents, line: Line) -> None:
    """Take one line into account. Raises LineDamaged."""
    contents.next_seq = line.seq + 1
    record = decode_task(line)
    if isinstance(record, Accepted):
        tally.accepted(record.id, record)
    elif isinstance(record, Ended):
        tally.has_ended(record.id, record)
    else:
        tally.destroyed(record.id)
