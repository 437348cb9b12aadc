"""From worker threads to the event loop, waking it once a burst and not once a change."""

import asyncio
from collections import deque
from collections.abc import Callable

from xenopsd.errands import tell


class Bridge:
    """Calls posted from any thread run on the loop, in the order in which they were posted."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[Callable[[], None]] = deque()
        self._awake = False

    def post(self, call: Callable[[], None]) -> None:
        """Have `call` run on the loop soon; dropped when the loop is closed."""
        self._calls.append(call)
        # A post that sees `_awake` set comes before the drain that clears it has looked at
        # the deque, for the flag is cleared first: so no call is left behind.
        if not self._awake:
            self._awake = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError:  # the loop is closed: nobody waits any more
                self._calls.clear()

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Have `call` run on the loop after so long."""
        self.post(lambda: self._arm(seconds, call))

    def _arm(self, seconds: float, call: Callable[[], None]) -> None:
        self._loop.call_later(seconds, call)

    def _drain(self) -> None:
        self._awake = False
        while self._calls:
            tell(self._calls.popleft())
