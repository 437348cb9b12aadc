"""The journal of one VM: what is being done to it, written down before it is done.

Written by the holder of the VM's lease alone, hence without a lock. Says what is open; what to
do about it is for the daemon to decide.
"""

from collections.abc import Callable
from pathlib import Path

from journal.disk import Disk, name_aside
from journal.errors import JournalDamaged, JournalUnwritable, reason_of
from journal.lines import LineFile
from journal.records import Begun, Record, encode_line
from journal.replay import OpenIntent, advance, parse


def _pass_by(_point: str) -> None:
    """Nothing happens at the points where a test would kill the daemon."""


class VmJournal:
    """The append-only file `path`.

    Life: `open`, then for each operation `append` ... `append`, `end`. `intent` is what is open
    now; any thread may read it. `passing` is called with "journal:append" when a record has just
    been written, and with "journal:end" just before the file is truncated.
    """

    __slots__ = ("_disk", "_file", "_next_seq", "_passing", "intent")

    def __init__(
        self, disk: Disk, path: Path, *, passing: Callable[[str], None] = _pass_by
    ) -> None:
        self._disk = disk
        self._file = LineFile(disk, path)
        self._passing = passing
        self._next_seq = 1
        self.intent: OpenIntent | None = None

    @property
    def path(self) -> Path:
        return self._file.path

    def open(self, *, rebooted: bool) -> OpenIntent | None:
        """What the file leaves open; a torn tail is cut off.

        `rebooted` is whether the host has been restarted since the file was last written. It must
        stay True for every start of the daemon until one has opened all journals.
        Raises JournalDamaged, and leaves the file as it is then.
        """
        data = self._content()
        try:
            parsed = parse(data, rebooted=rebooted)
        except JournalDamaged as damage:
            raise JournalDamaged(self.path, damage.reason) from None
        self._file.adopt(parsed.valid_bytes, ragged=parsed.valid_bytes < len(data))
        self._next_seq = parsed.next_seq
        self.intent = parsed.intent
        return parsed.intent

    def append(self, *records: Record, durable: bool) -> None:
        """Write records, all or none, in one write; with `durable` they survive a crash of the
        host.

        Raises JournalUnwritable, and the file is what it was before: the effect that the record
        announces must not begin. After a failed fsync every append raises, until `end` or the next
        Begun, which makes the file anew.
        Raises OutOfOrder for a record that cannot follow the ones before.
        """
        intent = self.intent
        for record in records:
            intent = advance(intent, record)
        afresh = self._file.is_distrusted and isinstance(records[0], Begun)
        first = 1 if afresh else self._next_seq
        lines = b"".join([encode_line(first + at, one) for at, one in enumerate(records)])
        if afresh:
            self._file.renew(lines, durable=durable)
        else:
            self._file.append(lines, durable=durable)
        self._next_seq = first + len(records)
        self.intent = intent
        self._passing("journal:append")

    def end(self, *, durable: bool = False) -> None:
        """Cross it all out: truncate the file to nothing.

        Without `durable` a crash of the host may bring the ended operation back; it is then
        reconciled once more, which changes nothing. Raises JournalUnwritable, and the file may be
        as it was: the operation has ended all the same, and the next Begun replaces it.
        """
        self._passing("journal:end")
        self._file.empty(durable=durable)
        self._next_seq = 1
        self.intent = None

    def close(self) -> None:
        """Give the descriptor back; the next append opens the file again (some 10 µs)."""
        self._file.close()

    def discard(self) -> None:
        """Remove the file: its VM is gone. Raises JournalUnwritable."""
        self._file.remove()
        self._next_seq = 1
        self.intent = None

    def set_aside(self) -> Path:
        """Rename a damaged file, so that a new one can begin; the new name of the old one.

        Raises JournalUnwritable.
        """
        try:
            aside = name_aside(self._disk, self.path)
            self._file.close()
            self._disk.rename(self.path, aside)
            self._disk.fsync_dir(self.path.parent)
        except OSError as error:
            raise JournalUnwritable(self.path, reason_of(error)) from error
        self._file = LineFile(self._disk, self.path)
        self._next_seq = 1
        self.intent = None
        return aside

    def _content(self) -> bytes:
        try:
            return self._disk.read(self.path)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise JournalDamaged(self.path, f"it cannot be read: {reason_of(error)}") from error
