"""Random operations, faults and kills for minutes, and then: is everything as everybody believes?

    python tests/soak/run.py [--minutes N] [--seed S] [--markdown FILE] [--directory DIR]

First the daemon is killed, restarted and made to fail while clients work and followers follow;
then faults are cleared, everything settles, and the simulator's world, the daemon's answers and
every follower's view are held against each other. Then the same load and the same faults go on
without kills, in rounds; after each round every VM is removed and memory, descriptors, threads
and files are counted. A violation leaves the directory, and the status is 1. The dice are `random.Random(S)`;
what threads make of them differs from run to run.
"""

import argparse
import math
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1]))

from rigs.daemon import DaemonProcess
from soak.actions import metadata
from soak.chaos import Chaos
from soak.crowd import Crowd, History
from soak.followers import CREW, Follower, within
from soak.report import markdown, text
from soak.trend import Sample, trends
from soak.verify import TOTAL, attended, busy, finished, misled, shown, wrong

from idl.client import Client
from idl.vm import PowerState

VMS = [f"vm-{number}" for number in range(20)]
#: How long everything may take to settle once nothing is asked any more.
SETTLING = 60.0
#: Of the time, for what comes with kills; the rest is for measuring.
SHARE = 0.6
#: The fewest rounds of measuring: a line needs points.
ROUNDS = 20
#: Seconds after which everything is compared: before 10,000 tasks have ended, for a task that ages
#: out is not announced.
LONGEST = 15.0
CONFIG = f"""
log.level = "warning"
reboot.delay = 0.02
deadlines.short = 1.0
deadlines.job = 3.0
deadlines.hotplug = 1.0
deadlines.shutdown_ack = 1.0
deadlines.drain = 1.0
simulator.memory_total = {TOTAL}
"""


class Violation(Exception):
    """Something is not as it must be; says what."""


def parts(seconds: float, fewest: int) -> list[float]:
    """So long in all, in equal parts."""
    number = max(fewest, math.ceil(seconds / LONGEST))
    return [seconds / number] * number


@dataclass
class Soak:
    """One run in one directory, and what came of it."""

    directory: Path
    seed: int
    seconds: float
    history: History = field(default_factory=History)
    doubts: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    returns: int = 0
    chaotic: int = 0

    def __post_init__(self) -> None:
        self.dice = Random(self.seed)
        config = self.directory / "config.toml"
        config.write_text(CONFIG)
        self.daemon = DaemonProcess(self.directory, "--config", str(config))
        self.chaos = Chaos(self.daemon, VMS, self.dice, self.history)
        self.followers: list[Follower] = []

    def run(self) -> None:
        """Both phases. Raises Violation."""
        self.daemon.start()
        try:
            for kind in CREW:
                self.followers.append(kind(self.daemon, Random(self.dice.random())))
            self._wild(self.seconds * SHARE)
            self._measured(self.seconds * (1 - SHARE))
        finally:
            self.returns = sum(follower.returns for follower in self.followers)
            for follower in self.followers:
                follower.stop()
            self.daemon.kill()

    def _wild(self, seconds: float) -> None:
        for length in parts(seconds, 1):
            self._crowded(length, self.chaos.strike)
            self.chaos.living()
            self.chaos.kill()
            self._quiet()
            self._verify()
            self._destroy_tasks()
        self.chaotic = self.history.operations

    def _measured(self, seconds: float) -> None:
        assert self.daemon.process is not None
        pid, began = self.daemon.process.pid, time.monotonic()
        for length in parts(seconds, ROUNDS):
            self._crowded(length, self.chaos.harass)
            self._quiet()
            self._verify()
            self._clear()
            self._verify()
            self.samples.append(self._sample(pid, time.monotonic() - began))
        if leaks := [trend for trend in trends(self.samples) if trend.leaks]:
            raise Violation(f"it leaks: {leaks}")

    def _crowded(self, seconds: float, strike: Callable[[], None]) -> None:
        """Clients work, strokes fall, and followers come and go."""
        until = time.monotonic() + seconds
        self._fill()
        crowd = Crowd(self.daemon, VMS, self.dice, self.history)
        pause = threading.Event()
        try:
            while time.monotonic() < until:
                pause.wait(min(self.dice.random() / 2, max(until - time.monotonic(), 0.0)))
                strike()
                if self.dice.random() < 0.2:
                    self.dice.choice(self.followers).shake()
        finally:
            crowd.stop()

    def _fill(self) -> None:
        with self.daemon.client() as client:
            for vm in VMS:
                if not client.vm.exists(vm):
                    client.vm.import_metadata(metadata(vm, self.dice))

    def _quiet(self) -> None:
        """No faults any more, everything is brought to an end and in order."""
        self.chaos.calm()
        self._settle()

    def _settle(self) -> None:
        self._fill()  # what was forgotten, so that its domain has a record again
        with self.daemon.client() as client:
            if left := within(SETTLING, lambda: busy(client)):
                raise Violation("\n".join(left))
            self.doubts += attended(client)
            finished(self.daemon, client)
            self._renew(client)
            if left := within(SETTLING, lambda: busy(client)):
                raise Violation("\n".join(left))

    def _renew(self, client: Client) -> None:
        """What was forgotten suspended has left an image, which goes when the VM is removed.

        What of it runs now is renewed later, once it is halted.
        """
        for vm in sorted(self.history.forgotten):
            if client.vm.stat(vm).state.power_state == PowerState.HALTED:
                client.vm.remove(vm)
                client.vm.import_metadata(metadata(vm, self.dice))
                self.history.forgotten.discard(vm)

    def _verify(self) -> None:
        """The world, the daemon and the followers agree, and nothing broke on the way."""
        with self.daemon.client() as client:
            lines = []
            # A domain that was lost without an event is missed within seconds.
            for vm, what in within(SETTLING, lambda: wrong(self.daemon, client, VMS)):
                lines += [what, *(f"    {line}" for line in self.history.of(vm))]
                lines += [shown(client, vm)] if vm else []
            lines += within(SETTLING, lambda: misled(client, self.followers))
        lines += self.history.broken
        lines += [f"a follower met {f.failure}" for f in self.followers if f.failure]
        if lines:
            raise Violation("\n".join(lines))

    def _clear(self) -> None:
        """No VM and no task is left, so that what is counted should always be the same."""
        with self.daemon.client() as client:
            for vm in client.vm.list():
                client.run(client.vm.shutdown(vm.id), 30)
                client.vm.remove(vm.id)
        self._destroy_tasks()

    def _destroy_tasks(self) -> None:
        with self.daemon.client() as client:
            for task in client.task.list():
                client.task.destroy(task.id)

    def _sample(self, pid: int, seconds: float) -> Sample:
        proc = Path(f"/proc/{pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        places = (self.daemon.state_dir, self.daemon.run_dir)
        return Sample(
            seconds,
            self.history.operations - self.chaotic,
            int(status["VmRSS"].split()[0]) * 1024,
            len(list((proc / "fd").iterdir())),
            int(status["Threads"]),
            sum(not path.is_dir() for place in places for path in place.rglob("*")),
        )


def main() -> int:
    """Run it; the status is 1 when something was violated."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=2.0, help="how long (2)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the dice")
    parser.add_argument("--markdown", type=Path, help="write the figures there too")
    parser.add_argument("--directory", type=Path, help="where the daemon lives; kept")
    args = parser.parse_args()
    memory = Path("/dev/shm")
    made = tempfile.mkdtemp(prefix="soak-", dir=memory if memory.is_dir() else None)
    directory = args.directory or Path(made)
    directory.mkdir(parents=True, exist_ok=True)
    print(f"seed {args.seed}, {args.minutes:g} minutes, in {directory}", flush=True)
    soak = Soak(directory, args.seed, args.minutes * 60)
    try:
        soak.run()
    except (Violation, AssertionError) as violation:
        print(f"VIOLATED: {violation}\nsee {directory}")
        return 1
    print(text(soak.history, soak.samples, soak.doubts, soak.returns))
    if args.markdown:
        length = f"{args.minutes:g} minutes, seed {args.seed}"
        args.markdown.write_text(
            markdown(length, soak.history, soak.samples, soak.doubts, soak.returns)
        )
    if not args.directory:
        shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
