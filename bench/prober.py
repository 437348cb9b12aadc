"""`python -m bench.prober SOCKET VM`: a client that looks at a VM now and then, and times it.

A process of its own, so that what it measures is the server and not another client's
interpreter. It says `ready`, calls VM.stat every few milliseconds until its standard input ends,
then prints the latencies in seconds as one JSON list.
"""

import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench.pinning import CLIENT, pinned
from bench.server import ROOT
from bench.wire import Connection, request

#: Seconds between two calls: often enough to meet every hiccup, too seldom to be the load.
PAUSE = 0.004
DEADLINE = 30.0


class Probe:
    """A running prober; `latencies` is filled when it has ended."""

    def __init__(self, socket: Path, vm: str) -> None:
        self.latencies: list[float] = []
        with pinned(CLIENT):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.prober", str(socket), vm],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def finish(self) -> None:
        """End it, and take what it measured."""
        output, _ = self._process.communicate(b"", timeout=DEADLINE)
        self.latencies = msgspec.json.decode(output, type=list[float])


@contextmanager
def probing(socket: Path, vm: str) -> Iterator[Probe]:
    """A client that looks meanwhile."""
    probe = Probe(socket, vm)
    try:
        yield probe
    finally:
        probe.finish()


def main(socket: str, vm: str) -> None:
    latencies: list[float] = []
    line = request("VM.stat", {"id": vm})
    with Connection(Path(socket)) as client:
        client.exchange(line)
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], PAUSE)[0]:
            began = time.perf_counter()
            client.exchange(line)
            latencies.append(time.perf_counter() - began)
    print(msgspec.json.encode(latencies).decode())


if __name__ == "__main__":
    main(*sys.argv[1:])
