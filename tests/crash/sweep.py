"""Kill the real daemon at every point of every operation, and look at what it makes of it.

    python tests/crash/sweep.py [--jobs N] [--only TEXT] [--markdown FILE] [--directory DIR]

Each operation is run once to find the points that it passes. Then, for each of them: prepare a
VM, have the daemon SIGKILL itself there, start it again, and hold the simulator's world, the
state directory and the daemon's answers against interface.md ("After a crash of the daemon");
afterwards the VM must still stop, start and go without a trace. A second round kills the
recovery too, once at each of its steps. What has no points (a single durable record) is killed
from outside at moments spread over the call. At last recoveries are cut in process, at every
place (`test_recovery_inprocess`).
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

sys.path.insert(0, str(Path(__file__).parents[1]))

from crash.bench import Case, Lab, Result
from crash.cases import OPERATIONS, STEPS, Operation, nothing, power
from crash.table import markdown, text

#: How many moments of a call without points are killed at.
MOMENTS = 8


def single_kills(operation: Operation, found: Result) -> Iterator[Case]:
    """Every point that the operation passed, every time that it passed it."""
    passed: Counter[str] = Counter()
    for point in found.points:
        passed[point] += 1
        yield Case(operation, f"{point},{passed[point]}")
    if not found.points:
        for number in range(MOMENTS):
            yield Case(operation, moment=found.seconds * number / (MOMENTS - 1))


def double_kills(operation: Operation, found: Result) -> Iterator[Case]:
    """Each step of the recovery once, after first kills spread over the operation."""
    cases = [
        case for case in single_kills(operation, found) if not case.point.startswith("journal:")
    ]
    for number, step in enumerate(STEPS):
        first = cases[(number * len(cases) // len(STEPS) + 1) % len(cases)]
        yield Case(operation, first.point, moment=first.moment, second=f"{step},1")


class Sweep:
    """Carries cases out in several labs at once, and gathers what came of them."""

    def __init__(self, directory: Path, jobs: int, lab: type[Lab] = Lab) -> None:
        self.directory = directory
        self.jobs = jobs
        self._kind = lab
        self.results: list[Result] = []
        self._lock = threading.Lock()
        self._labs = 0
        self._stopped = threading.Event()

    def stop(self, *_signal: object) -> None:
        """Begin no more cases: every daemon is ended when its present one is over."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        """Whether it was told to stop."""
        return self._stopped.is_set()

    def carry_out(self, cases: Iterable[Case], *, alone: bool) -> list[Result]:
        """All cases; `alone` where no other VM may be there, for its repair would count too."""
        queue: SimpleQueue[Case] = SimpleQueue()
        for case in cases:
            queue.put(case)
        before = len(self.results)
        threads = [
            threading.Thread(target=self._serve, args=(queue, alone)) for _ in range(self.jobs)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.results[before:]

    def _serve(self, queue: "SimpleQueue[Case]", alone: bool) -> None:
        lab: Lab | None = None
        while not self._stopped.is_set():
            try:
                case = queue.get_nowait()
            except Empty:
                break
            directory = self._fresh() if lab is None else lab.directory
            try:
                lab = lab or self._kind(directory, alone=alone)
                result = lab.carry_out(case)
            except AssertionError as error:
                result = Result(case, failure=f"no daemon: {error}")
            with self._lock:
                self.results.append(result)
            if result.failure:
                print(f"FAILED {case}: {result.failure}\n  see {directory}", flush=True)
                if lab is not None:
                    lab.abandon()
                lab = None
        if lab is not None:
            lab.close()

    def _fresh(self) -> Path:
        with self._lock:
            self._labs += 1
            return self.directory / f"lab-{self._labs}"


def sweep(directory: Path, jobs: int, operations: Sequence[Operation]) -> list[Result]:
    """Everything: what passed without a kill, with one, and with two."""
    rounds = Sweep(directory, jobs)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, rounds.stop)
    found = rounds.carry_out((Case(op) for op in operations), alone=False)
    whole = {r.case.operation.name: r for r in found if not r.failure}
    known = [(op, whole[op.name]) for op in operations if op.name in whole]
    rounds.carry_out((c for op, r in known for c in single_kills(op, r)), alone=False)
    rounds.carry_out((c for op, r in known for c in double_kills(op, r)), alone=True)
    if rounds.stopped:
        sys.exit(130)
    return rounds.results


def in_process(jobs: int) -> Result:
    """Every cut of every recovery, over a disk in memory."""
    tests = Path(__file__).with_name("test_recovery_inprocess.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", str(jobs), str(tests)],
        env={**os.environ, "RECOVERY_STRIDE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(f"in process: {done.stdout.strip().rpartition(chr(10))[2]}")
    everything = Operation("recoveries in process", nothing, nothing, frozenset(), frozenset(), power)
    return Result(Case(everything), failure=done.stdout if done.returncode else "")


def conclude(results: Sequence[Result], seconds: float, passing: Path | None) -> int:
    """Say how it went, and remove a directory that only failures are looked up in; the exit
    status is 1 when a case failed, or there was none."""
    failed = [r for r in results if r.failure]
    if not failed and passing is not None:
        shutil.rmtree(passing)
    print(f"{len(results)} cases in {seconds:.0f} s")
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed or not results else 0


def main() -> int:
    """Run the sweep; the status is 1 when a case failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    jobs = 2 * (os.cpu_count() or 1)
    parser.add_argument("--jobs", type=int, default=jobs, help=f"daemons at once ({jobs})")
    parser.add_argument("--only", default="", help="operations with this text in their name")
    parser.add_argument("--markdown", type=Path, help="write the table there too")
    parser.add_argument("--directory", type=Path, help="where the daemons live; kept")
    args = parser.parse_args()
    memory = Path("/dev/shm")
    directory = args.directory or Path(
        tempfile.mkdtemp(prefix="sweep-", dir=memory if memory.is_dir() else None)
    )
    began = time.monotonic()
    operations = [op for op in OPERATIONS if args.only in op.name]
    results = sweep(directory, args.jobs, operations)
    print(text(operations, results))
    if args.markdown:
        args.markdown.write_text(markdown(operations, results))
    if not args.only:
        results.append(in_process(os.cpu_count() or 1))
        print(results[-1].failure)
    return conclude(results, time.monotonic() - began, None if args.directory else directory)


if __name__ == "__main__":
    sys.exit(main())
