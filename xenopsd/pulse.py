"""Whether a thread is alive: it is asked, and answers when it next comes by.

Neither side waits for the other, and neither takes a lock: each writes a number of its own.
"""


class Pulse:
    """Of the thread called `name`. One thread asks, that one answers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._asked = 0
        self._answered = 0

    def ask(self) -> None:
        """Put the question; whoever asks then wakes the thread."""
        self._asked += 1

    def answer(self) -> None:
        """On the thread itself: it is here."""
        self._answered = self._asked

    @property
    def answered(self) -> bool:
        """Whether the last question has been answered."""
        return self._answered == self._asked
