"""Bytes to messages: one JSON message a line.

Knows nothing of JSON: a message is what stands between two newlines and is not blank.
"""

from collections import deque


class LineTooLong(Exception):
    """A line is over the limit, whether it has ended or not."""


class Lines:
    """Splits what was received into lines of at most `limit` bytes, torn and glued as it comes.

    `backlog` is the number of bytes in lines that are complete and not yet taken.
    """

    __slots__ = ("_limit", "_lines", "_tail", "_too_long", "backlog")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lines: deque[bytes] = deque()
        self._tail = bytearray()
        self._too_long = False
        self.backlog = 0

    def feed(self, data: bytes) -> None:
        """Take what was received. After a line that is too long everything is ignored."""
        *ended, tail = data.split(b"\n")
        for line in ended:
            if self._tail:
                self._tail += line
                line = bytes(self._tail)
                self._tail.clear()
            self._append(line)
        self._tail += tail
        if len(self._tail) > self._limit:
            self._too_long = True
            self._tail.clear()

    def finish(self) -> None:
        """Nothing more will come: what is left counts as a line."""
        self._append(bytes(self._tail))
        self._tail.clear()

    def pop(self) -> bytes | None:
        """The next message, or None.

        Raises: LineTooLong once all messages before that line have been taken.
        """
        if self._lines:
            line = self._lines.popleft()
            self.backlog -= len(line)
            return line
        if self._too_long:
            raise LineTooLong
        return None

    def _append(self, line: bytes) -> None:
        if len(line) > self._limit:
            self._too_long = True
        if line and not self._too_long and not line.isspace():
            self._lines.append(line)
            self.backlog += len(line)
