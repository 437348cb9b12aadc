"""Random operations on many containers while the daemon, keepers, servers of jobs and first
processes are killed; then the world is held against the daemon's view, and must be empty once
every VM is removed.

    python tests/crash/containers/churn.py [--operations N] [--vms N] [--seed S] [--directory DIR]

The dice are `random.Random(S)`; what the kernel makes of them differs from run to run.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from crash.containers.deaths import VICTIMS, DeathLab
from crash.containers.lab import Bed, recorded_with_spares
from crash.containers.world import kill, text
from rigs.container import Act
from rigs.daemon import eventually

from idl.errors import XenopsError
from idl.vm import Action

#: Of a hundred operations, before how many the daemon is killed; and something beside it.
KILLS = 8
DEATHS = 12
#: Seconds that everything may take to settle, and between two operations at most.
SETTLING = 120.0
PAUSE = 0.2

Step = Callable[[Bed, random.Random], object]


def _start(bed: Bed, _dice: random.Random) -> None:
    bed.client.vm.start(bed.vm)


def _shutdown(bed: Bed, dice: random.Random) -> None:
    bed.client.vm.shutdown(
        bed.vm, timeout=dice.choice([None, 0.2, 5.0]), force=dice.random() < 0.5
    )


def _reboot(bed: Bed, dice: random.Random) -> None:
    bed.client.vm.reboot(bed.vm, timeout=dice.choice([None, 5.0]), force=True)


def _freeze(bed: Bed, dice: random.Random) -> None:
    dice.choice([bed.client.vm.pause, bed.client.vm.unpause])(bed.vm)


def _plug(bed: Bed, dice: random.Random) -> None:
    kind = dice.choice([bed.client.vbd, bed.client.vif])
    if dice.random() < 0.5:
        kind.plug(bed.device("spare"))
    else:
        kind.unplug(bed.device("spare"), force=dice.random() < 0.2)


def _act(bed: Bed, dice: random.Random) -> None:
    """Its guest does it by itself, if it is up."""
    act: Act = dice.choice(["poweroff", "reboot", "crash"])
    init = bed.look().init
    if init is not None:
        with suppress(OSError):
            init.obey(act)


def _renew(bed: Bed, _dice: random.Random) -> None:
    bed.client.run(bed.client.vm.shutdown(bed.vm), SETTLING)
    bed.client.vm.remove(bed.vm)
    recorded_with_spares(bed)


STEPS: tuple[tuple[Step, int], ...] = (
    (_start, 30),
    (_shutdown, 14),
    (_reboot, 10),
    (_freeze, 12),
    (_plug, 20),
    (_act, 8),
    (_renew, 4),
)


class Churn:
    """One run in one directory, and what was done in it."""

    def __init__(self, directory: Path, seed: int, vms: int) -> None:
        self.dice = random.Random(seed)
        self.lab = DeathLab(directory, alone=True)
        self.vms = [f"c-{number}" for number in range(vms)]
        self.done: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.killed: set[str] = set()

    def run(self, operations: int) -> None:
        """Everything. Raises AssertionError."""
        for vm in self.vms:
            recorded_with_spares(self.lab.bed(vm))
            again = [Action.START.value] if self.dice.random() < 0.5 else [Action.SHUTDOWN.value]
            self.lab.client.vm.set(vm, {"on_crash": again})
        for _ in range(operations):
            self._one()
        self.lab.restart(recovered=True)
        self._settle()
        for vm in self.vms:
            self._hold(vm)
        self.lab.hold_instance()
        self._clear()

    def _one(self) -> None:
        threading.Event().wait(self.dice.random() * PAUSE)
        if self.dice.random() * 100 < DEATHS:
            self._kill()
        if self.dice.random() * 100 < KILLS:
            self.done["daemon killed"] += 1
            self.lab.restart(recovered=self.dice.random() < 0.5)
        steps, weights = zip(*STEPS, strict=True)
        step = self.dice.choices(steps, weights)[0]
        try:
            step(self.lab.bed(self.dice.choice(self.vms)), self.dice)
            self.done[step.__name__[1:]] += 1
        except XenopsError as error:
            self.errors[type(error).__name__] += 1

    def _kill(self) -> None:
        name = self.dice.choice(list(VICTIMS))
        vm = self.dice.choice(self.vms)
        for pid in VICTIMS[name](self.lab.outside, vm):
            kill(pid, signal.SIGKILL)
            self.killed.add(str(pid))
            self.done[f"{name} killed"] += 1

    def _settle(self) -> None:
        client = self.lab.client
        eventually(
            lambda: not client.host.get_diagnostics().queues, deadline=SETTLING, why="it settles"
        )

    def _hold(self, vm: str) -> None:
        """The world is what the daemon says."""
        place = self.lab.outside.place(vm)
        ours = ("keeper", "console")
        self.lab.lost = frozenset(n for n in ours if text(place / n) in self.killed)
        try:
            seen = self.lab.hold(vm)
        except AssertionError as error:
            raise AssertionError(f"{vm}: {error}") from error
        finally:
            self.lab.lost = frozenset()
        self.done[f"at last {seen.power}"] += 1

    def _clear(self) -> None:
        client = self.lab.client
        for task in [client.vm.shutdown(vm) for vm in self.vms]:
            client.run(task, SETTLING)
        for vm in self.vms:
            client.vm.remove(vm)
        for vm in self.vms:
            left = self.lab.outside.nothing_of(vm)
            assert not left, f"left of {vm}: {left}"
        self.lab.hold_instance()

        self.lab.close()


def main() -> int:
    """Run it; the status is 1 when something is not as it must be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--operations", type=int, default=200, help="how many (200)")
    parser.add_argument("--vms", type=int, default=20, help="on how many containers (20)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the dice")
    parser.add_argument("--directory", type=Path, help="where the daemon lives; kept")
    args = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("it needs root")
    directory = args.directory or Path(tempfile.mkdtemp(prefix="churn-"))
    directory.mkdir(exist_ok=True)
    # A container's root passes through it.
    directory.chmod(0o755)
    print(f"seed {args.seed}, {args.operations} operations, in {directory}", flush=True)
    began = time.monotonic()
    churn = Churn(directory / "lab", args.seed, args.vms)
    try:
        churn.run(args.operations)
    except AssertionError as error:
        print(f"VIOLATED: {error}\nsee {directory}")
        churn.lab.abandon()
        return 1
    finally:
        print(
            f"{time.monotonic() - began:.0f} s; {dict(churn.done)}; refused {dict(churn.errors)}"
        )
    if not args.directory:
        shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
