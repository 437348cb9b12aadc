"""What a crash of the daemon makes of a suspend and of a resume: at a point of each that the sweep of
containers has too, and while CRIU is at work."""

import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from crash.bench import Case
from crash.containers.cases import SUSPENSION
from crash.containers.lab import ContainerLab, opened
from crash.containers.world import text

BY_NAME = {operation.name: operation for operation in SUSPENSION}
SUSPEND, RESUME = BY_NAME["VM.suspend"], BY_NAME["VM.resume"]

#: Seconds within which CRIU has come to where it is stopped.
LIMIT = 60.0


@dataclass(frozen=True)
class Asleep(Case):
    """The daemon dies while CRIU stands still, once it has written `said` into its `log`; that
    goes on when the daemon is dead."""

    log: str = ""
    said: str = ""

    @property
    def is_killed(self) -> bool:
        return True

    def __str__(self) -> str:
        return f"{self.operation.name} | {self.said}"


class RigLab(ContainerLab):
    """One in which CRIU works."""

    def _kill(self, case: Case, called: Any) -> None:
        if not isinstance(case, Asleep):
            super()._kill(case, called)
            return
        caller = threading.Thread(target=self._call_in_vain, args=(called,))
        caller.start()
        criu = self._stopped(called.id, case)
        self.daemon.kill()
        caller.join()
        self.client.close()
        with suppress(ProcessLookupError):
            os.kill(criu, signal.SIGCONT)

    def _stopped(self, vm: str, case: Asleep) -> int:
        """Let CRIU go on step by step until it is there: its pid, stopped."""
        until = time.monotonic() + LIMIT
        while time.monotonic() < until:
            pid = self._criu(vm)
            if pid is None:
                select.select([], [], [], 0.001)
                continue
            os.kill(pid, signal.SIGSTOP)
            logs = self.outside.checkpoints(vm).glob(f"*/{case.log}")
            if any(case.said in text(log) for log in logs):
                return pid
            os.kill(pid, signal.SIGCONT)
            select.select([], [], [], 0.002)
        raise AssertionError(f"criu did not come to {case.said!r}")

    def _criu(self, vm: str) -> int | None:
        """The process of CRIU that is at work on a VM."""
        for path in Path("/proc").iterdir():
            words = text(path / "cmdline").split("\0") if path.name.isdigit() else []
            if words[0:1] == ["criu"] and str(self.outside.checkpoints(vm)) in "".join(words):
                return int(path.name)
        return None


@pytest.fixture(scope="module")
def lab() -> Iterator[RigLab]:
    with opened(RigLab) as lab:
        yield lab


CASES = (
    Asleep(SUSPEND, log="dump.log", said="Running pre-dump scripts"),
    Asleep(SUSPEND, log="dump.log", said="Dumping task"),
    Case(SUSPEND, "vm_save:after,1"),
    Asleep(RESUME, log="restore.log", said="Running setup-namespaces scripts"),
    Asleep(RESUME, log="restore.log", said="Restoring resources"),
    Case(RESUME, "vm_restore:after,1"),
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_crash_leaves_it_running_or_suspended(lab: RigLab, case: Case):
    assert lab.carry_out(case).failure == ""
