"""Kill the daemon at every micro-op of every operation on real containers, and look at what it
makes of it.

    python tests/crash/containers/sweep.py [--jobs N] [--only TEXT] [--directory DIR]

As `tests/crash/sweep.py` does on the simulator, with the same cases and the same bars; what is
looked at from outside is the host: processes, control groups, mounts, interfaces, rules, loop
devices, ranges of ids. Then what is beside the daemon is killed (`deaths`). The points are those of micro-ops alone: those of the journal and of
recovery are the core's, whatever the backend. Needs root.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from crash.bench import Case, Result
from crash.cases import Operation
from crash.containers.cases import OPERATIONS, SUSPENSION
from crash.containers.deaths import DeathLab, deaths
from crash.containers.lab import ContainerLab
from crash.sweep import Sweep, conclude, single_kills
from crash.table import text

from backends.lxc.apart import checkpoint
from backends.lxc.cgroup import Cgroups

#: How many moments of an operation something beside the daemon dies at.
MOMENTS = 4


def micro_op_kills(operation: Operation, found: Result) -> Iterator[Case]:
    """Before and after each micro-op, every time that it passed."""
    cases = single_kills(operation, found)
    return (case for case in cases if not case.point.startswith(("journal:", "recovery:")))


def sweep(directory: Path, jobs: int, operations: Sequence[Operation]) -> list[Result]:
    """What passed without a kill, and with one."""
    rounds = Sweep(directory, jobs, ContainerLab)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, rounds.stop)
    found = rounds.carry_out((Case(op) for op in operations), alone=False)
    whole = [(op, r) for op in operations for r in found if r.case.operation is op]
    cases = (c for op, r in whole if not r.failure for c in micro_op_kills(op, r))
    rounds.carry_out(cases, alone=False)
    if rounds.stopped:
        sys.exit(130)
    return rounds.results


def die(directory: Path, jobs: int, known: Sequence[Result]) -> list[Result]:
    """The deaths beside the daemon's, in the time that each operation takes."""
    took = {r.case.operation.name: r.seconds for r in known if not r.case.is_killed and r.word}
    return Sweep(directory, jobs, DeathLab).carry_out(deaths(took, MOMENTS), alone=False)


def swept() -> tuple[Operation, ...]:
    """Every operation that this host can."""
    lacking = checkpoint.unable()["reason"]
    if Cgroups.found().version != "v2":
        lacking = "control groups are not of version 2 alone"
    if lacking is None:
        return (*OPERATIONS, *SUSPENSION)
    print(f"not swept: suspend and resume ({lacking})")
    return OPERATIONS


def main() -> int:
    """Run the sweep; the status is 1 when a case failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    jobs = 2 * (os.cpu_count() or 1)
    parser.add_argument("--jobs", type=int, default=jobs, help=f"daemons at once ({jobs})")
    parser.add_argument("--only", default="", help="operations with this text in their name")
    parser.add_argument("--directory", type=Path, help="where the daemons live; kept")
    args = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("it needs root")
    directory = args.directory or Path(tempfile.mkdtemp(prefix="sweep-"))
    directory.mkdir(exist_ok=True)
    # A container's root passes through it.
    directory.chmod(0o755)
    began = time.monotonic()
    operations = [op for op in swept() if args.only in op.name]
    results = sweep(directory, args.jobs, operations)
    print(text(operations, results))
    died = die(directory / "deaths", args.jobs, results)
    print("\n".join(f"    {r.case} -> {r.word}; {r.task}" for r in died))
    results += died
    return conclude(results, time.monotonic() - began, None if args.directory else directory)


if __name__ == "__main__":
    sys.exit(main())
