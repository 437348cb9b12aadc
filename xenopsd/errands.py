"""Calls that may hang, made on a few threads of their own so that who asks for them cannot.

All threads are daemons: none of them keeps the process from ending.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue

import structlog

log = structlog.get_logger(__name__)


def start(name: str, target: Callable[..., None], *args: object) -> None:
    """Start a daemon thread; RuntimeError at the system's limit of threads."""
    threading.Thread(target=target, args=args, name=name, daemon=True).start()


def tell(callback: Callable[..., None], *args: object) -> None:
    """Call the owner back; what it throws is its bug, logged, and costs no thread of ours."""
    try:
        callback(*args)
    except Exception:
        log.exception("callback_crashed", callback=getattr(callback, "__qualname__", "?"))


class Errands:
    """At most `threads` calls at a time, begun in the order in which they were sent."""

    def __init__(self, name: str, threads: int) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = threads
        for number in range(1, threads + 1):
            start(f"{name}-{number}", self._run)

    def send(self, call: Callable[[], None]) -> None:
        """Have `call` made; never waits."""
        self._calls.put(call)

    def close(self) -> None:
        """Let the threads end after what has been sent."""
        for _ in range(self._threads):
            self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            tell(call)
