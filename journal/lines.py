"""An append-only file that holds whole appends and nothing else.

Knows how far the file is good, cuts it back when an append fails, and never believes a file
again whose fsync has failed. Does not know what a line says. Not thread-safe.
"""

import errno
from contextlib import suppress
from pathlib import Path
from typing import Never

from journal.disk import AppendFile, Disk, replace_file
from journal.errors import JournalUnwritable, reason_of


class LineFile:
    """The file `path`, of which the first `length` bytes are good.

    Opened at the first append. Every method that writes raises JournalUnwritable.
    """

    __slots__ = ("_disk", "_distrusted", "_entry_durable", "_file", "_ragged", "length", "path")

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self._file: AppendFile | None = None
        self._entry_durable = False
        self._ragged = False
        self._distrusted: str | None = None
        self.path = path
        self.length = 0

    def adopt(self, length: int, *, ragged: bool) -> None:
        """Take the first `length` bytes of the file as good; `ragged` when more follow.

        What follows is cut off now, or else before the next append.
        """
        self.close()
        self.length = length
        self._ragged = ragged
        if ragged:
            self._try_to_mend()

    def distrust(self, reason: str) -> None:
        """Refuse every append, for this reason, until the file is emptied, renewed or removed."""
        self._distrusted = reason

    @property
    def is_distrusted(self) -> bool:
        return self._distrusted is not None

    def append(self, data: bytes, *, durable: bool) -> None:
        """Write the whole of `data` at the end, or nothing; on the disk itself if `durable`."""
        try:
            if self._ragged or self._distrusted:
                self._mend()
            file = self._file or self._open()
            written = file.write(data)
            if written != len(data):
                raise OSError(errno.ENOSPC, "only a part of the line could be written")
            if durable:
                self._sync(file)
        except OSError as error:
            self._fail(error)
        self.length += written

    def empty(self, *, durable: bool) -> None:
        """Truncate the file to nothing; keeps it open, since making it anew costs much more.

        A distrusted file is removed instead: the next append makes another.
        """
        if self._distrusted:
            self.remove()
            return
        try:
            file = self._file or self._open()
            file.truncate(0)
            self.length = 0
            self._ragged = False
            if durable:
                self._sync(file)
        except OSError as error:
            raise JournalUnwritable(self.path, reason_of(error)) from error

    def renew(self, data: bytes, *, durable: bool) -> None:
        """Put a new file with `data` in the place of this one; it can be trusted again.

        The old content is there until the new one is. Only when the very last step fails, the
        fsync of the directory, may the new one be there although this raises.
        """
        self.close()
        try:
            replace_file(self._disk, self.path, data, durable=durable)
        except OSError as error:
            raise JournalUnwritable(self.path, reason_of(error)) from error
        self._distrusted = None
        self._entry_durable = durable
        self.adopt(len(data), ragged=False)

    def close(self) -> None:
        """Give the descriptor back; the next append takes another."""
        file, self._file = self._file, None
        if file is not None:
            # What was acknowledged is with the kernel (or on the disk): closing decides nothing.
            with suppress(OSError):
                file.close()

    def remove(self) -> None:
        """Remove the file."""
        try:
            self.close()
            self._disk.remove(self.path)
        except OSError as error:
            raise JournalUnwritable(self.path, reason_of(error)) from error
        self.length = 0
        self._ragged = self._entry_durable = False
        self._distrusted = None

    def _open(self) -> AppendFile:
        self._file = self._disk.open_append(self.path)
        return self._file

    def _sync(self, file: AppendFile) -> None:
        try:
            file.fsync()
            if not self._entry_durable:
                # A durable line in a file whose name a crash forgets would be lost all the same.
                self._disk.fsync_dir(self.path.parent)
                self._entry_durable = True
        except OSError:
            # The kernel reports a lost page once and then calls it clean: a second fsync lies.
            self.distrust("an fsync of this file has failed")
            raise

    def _fail(self, error: OSError) -> Never:
        self._ragged = True
        self._try_to_mend()
        raise JournalUnwritable(self.path, reason_of(error)) from error

    def _try_to_mend(self) -> None:
        try:
            self._cut()
        except OSError:
            pass  # still ragged: the next append begins with the cut, or fails

    def _mend(self) -> None:
        if self._distrusted:
            raise OSError(errno.EIO, self._distrusted)
        self._cut()

    def _cut(self) -> None:
        (self._file or self._open()).truncate(self.length)
        self._ragged = False
