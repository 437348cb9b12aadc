"""Clients that wait in UPDATES.get, each on a connection of its own."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from bench.server import Daemon
from bench.wire import CHUNK, Readiness, request

#: Seconds for which a poll waits: longer than any scenario.
PATIENCE = 3000.0


class Subscribers:
    """So many of them; `wait` comes first."""

    def __init__(self, daemon: Daemon, count: int, stack: ExitStack) -> None:
        self._polls = [stack.enter_context(daemon.connect()) for _ in range(count)]
        self._ready = stack.enter_context(Readiness(self._polls))

    def wait(self) -> None:
        """Have each wait for what happens next, and see that it does."""
        token = self._polls[0].call("UPDATES.last_id")
        poll = request("UPDATES.get", {"since": token, "timeout": PATIENCE}, 1)
        asked = poll + request("HOST.query", {}, 2)
        for client in self._polls:
            client.socket.sendall(asked)
        # A connection is read in order: who answers the second has taken the first.
        for client in self._polls:
            client.receive()

    def woken(self) -> float:
        """The moment (perf_counter) when the last of them has read its answer."""
        answers: list[bytes] = []
        # Each is answered once: nobody is readable twice.
        while len(answers) < len(self._polls):
            answers += [client.socket.recv(CHUNK) for client in self._ready.wait()]
        moment = time.perf_counter()
        if not all(b'"updates":[{' in a and a.endswith(b"\n") for a in answers):
            raise RuntimeError("an answer without updates")
        return moment


@contextmanager
def subscribed(daemon: Daemon, count: int) -> Iterator[Subscribers]:
    """So many clients, all of them waiting."""
    with ExitStack() as stack:
        subscribers = Subscribers(daemon, count, stack)
        subscribers.wait()
        yield subscribers
