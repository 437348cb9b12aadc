"""Bytes both ways between a console and who looks at it. It asks no daemon, and prints no word.

Signals that would end the process come as `Killed`, so that a terminal is as it was whatever
happens.
"""

import os
import select
import signal
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from types import FrameType

#: A pipe that select calls ready takes so many bytes without waiting.
PIECE = 4096

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class End(Enum):
    """Why a relay has ended: by the escape key, by the console's end, by its deadline."""

    LEFT = "left"
    GONE = "gone"
    TIME = "time"


class Killed(BaseException):
    """A signal that ends the process has come."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def mortal() -> Iterator[None]:
    """Within, the first signal that ends raises Killed, and later ones are not heard."""
    heard: list[int] = []

    def hear(number: int, _frame: FrameType | None) -> None:
        heard.append(number)
        if len(heard) == 1:
            raise Killed(number)

    before = {number: signal.signal(number, hear) for number in _ENDING}
    try:
        yield
    finally:
        for number, found in before.items():
            signal.signal(number, found)


@contextmanager
def raw(terminal: int) -> Iterator[None]:
    """Within, every key goes through; afterwards the terminal is as before. Within `mortal`."""
    saved = termios.tcgetattr(terminal)
    try:
        # Nothing that was typed already is lost.
        tty.setraw(terminal, termios.TCSANOW)
        yield
    finally:
        # One that has hung up has no modes any more.
        with suppress(termios.error):
            termios.tcsetattr(terminal, termios.TCSANOW, saved)


@dataclass(slots=True)
class _Way:
    """One direction, and what of it is read and not yet written."""

    source: int
    sink: int
    waiting: bytes = b""
    open: bool = True

    @property
    def reads(self) -> bool:
        return self.open and not self.waiting

    def read(self) -> None:
        try:
            self.waiting = os.read(self.source, PIECE)
        except BlockingIOError:
            return
        except OSError:
            self.open = False  # a terminal or a peer that is gone: EIO, ECONNRESET
            return
        self.open = bool(self.waiting)

    def write(self) -> None:
        with suppress(BlockingIOError):
            self.waiting = self.waiting[os.write(self.sink, self.waiting) :]


def relay(
    keyboard: int, screen: int, console: int, *, escape: bytes | None, deadline: float | None
) -> End:
    """Send what comes from `keyboard`, show on `screen` what comes from `console`.

    `console` does not block. With `escape`, a key, the keyboard is a terminal: that key or its
    end leaves. Without, what it has is sent as it is, and its end ends nothing. `deadline` is
    monotonic. Raises OSError where the screen takes nothing any more.
    """
    typed, shown = _Way(keyboard, console), _Way(console, screen)
    while shown.open or shown.waiting:
        ready = _ready((typed, shown), deadline)
        if ready is None:
            return End.TIME
        if typed.source in ready[0]:
            typed.read()
            if escape is not None and _leaves(typed, escape):
                return End.LEFT
        if shown.source in ready[0]:
            shown.read()
        if typed.sink in ready[1] and not _sent(typed):
            typed.open, typed.waiting = False, b""
        if shown.sink in ready[1]:
            shown.write()
    return End.GONE


def _ready(ways: tuple[_Way, _Way], deadline: float | None) -> tuple[list[int], list[int]] | None:
    """The descriptors to read from and to write to; None past the deadline."""
    left = None if deadline is None else deadline - time.monotonic()
    if left is not None and left <= 0:
        return None
    reads = [way.source for way in ways if way.reads]
    writes = [way.sink for way in ways if way.waiting]
    readable, writable, _ = select.select(reads, writes, [], left)
    return readable, writable


def _leaves(typed: _Way, escape: bytes) -> bool:
    """Whether who types leaves; what was typed before that is still sent, if it can be."""
    before, key, _ = typed.waiting.partition(escape)
    if not key and typed.open:
        return False
    typed.waiting = before
    _sent(typed)
    return True


def _sent(typed: _Way) -> bool:
    """False where the console takes nothing any more: what it said last is still to be read."""
    try:
        typed.write()
    except OSError:
        return False
    return True
