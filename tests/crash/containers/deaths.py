"""Deaths beside the daemon's: of the server of jobs, of a job, and of a container's keeper,
console and first process, while an operation is under way or none is.

Each is to cost its own VM at most that operation: what comes of it is sensible, the daemon
shows what there is, and the VM can still be stopped, started and removed.
"""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from crash.bench import Case, Result
from crash.cases import Operation, nothing, power
from crash.containers.cases import OPERATIONS
from crash.containers.lab import Bed, ContainerLab, running
from crash.containers.world import Outside, Seen, children, kill, leads_session, parent
from rigs.daemon import ended, eventually

from idl.calls import Operation as TaskCall

Victim = Callable[[Outside, str], list[int]]

#: Longest that the daemon may take to see that a container has ended.
NOTICE = 10.0


def server(outside: Outside, _vm: str) -> list[int]:
    servers = set(outside.servers())
    return [pid for pid in servers if parent(pid) not in servers]


def job(outside: Outside, vm: str) -> list[int]:
    """Not what waits for the next one, which was forked last, nor who has left as a keeper."""
    found = [pid for one in server(outside, vm) for pid in children(one)[:-1]]
    return [pid for pid in found if not leads_session(pid)]


def keeper(outside: Outside, vm: str) -> list[int]:
    return outside.signed(vm, "keeper")


def console(outside: Outside, vm: str) -> list[int]:
    return outside.signed(vm, "console")


def init(outside: Outside, vm: str) -> list[int]:
    found = outside.first_process(vm)
    return [] if found is None else [found]


VICTIMS: dict[str, Victim] = {
    "server": server,
    "job": job,
    "keeper": keeper,
    "console": console,
    "init": init,
}

#: Operations during which something dies, and what of theirs may.
DURING = {
    "VM.start": ("server", "job", "keeper", "console", "init"),
    "VM.shutdown hard": ("server", "job", "keeper"),
    "VM.shutdown clean": ("server", "keeper", "init"),
    "VM.reboot hard": ("server", "job", "keeper", "init"),
    "VM.pause": ("keeper", "init"),
    "VBD.plug": ("server", "job", "init"),
    "VBD.unplug": ("server", "job", "init"),
    "VIF.plug": ("init",),
}

#: What else than after a crash of the daemon may be: that a failed operation changed nothing.
WAS = {
    "VM.start": {"halted"},
    "VM.shutdown hard": {"running"},
    "VM.shutdown clean": {"running"},
    "VM.reboot hard": {"running", "halted"},
}


@dataclass(frozen=True)
class Death(Case):
    """`victim` dies `moment` seconds after the call, or as soon as there is one."""

    victim: str = ""

    def __str__(self) -> str:
        return f"{self.operation.name} | {(self.moment or 0.0) * 1000:.0f} ms | {self.victim}"


def idle(victim: str) -> Operation:
    """Nothing is under way: only a container without a first process is none."""
    ends = frozenset({"halted" if victim == "init" else "running"})
    return Operation("nothing", running, nothing, ends, ends, power, plugged=None)


def deaths(found: dict[str, float], moments: int) -> Iterator[Death]:
    """Of each victim so many times in the time that each operation took without it."""
    by_name = {operation.name: operation for operation in OPERATIONS}
    for name in found.keys() & DURING.keys():
        for victim in DURING[name]:
            for number in range(moments):
                moment = found[name] * (number + 0.5) / moments
                yield Death(by_name[name], moment=moment, victim=victim)
    for victim in VICTIMS:
        yield Death(idle(victim), moment=0.0, victim=victim)


class DeathLab(ContainerLab):
    """The daemon lives; something beside it dies."""

    def _carry_out(self, case: Case, bench: Any) -> Result:
        assert isinstance(case, Death)
        case.operation.prepare(bench)
        bench.quiet()
        before = self.look(bench.vm)
        called = case.operation.call(bench)
        death = threading.Thread(target=self._strike, args=(case, bench.vm))
        death.start()
        task = ""
        with suppress(Exception):
            self._call(called) if called is not None else None
        if isinstance(called, TaskCall):
            task = str(type(ended(self.client, bench.vm).state).__name__).lower()
        death.join()
        word = self._settled(case, bench, before)
        self._use(bench)
        return Result(case, word, task)

    def _strike(self, case: Death, vm: str) -> None:
        """Kill it; where it is not there at that moment, as soon as it is, for a second."""
        threading.Event().wait(case.moment)
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            if found := VICTIMS[case.victim](self.outside, vm):
                for pid in found:
                    kill(pid, signal.SIGKILL)
                return
            threading.Event().wait(0.002)

    def _settled(self, case: Death, bench: Bed, before: Seen) -> str:
        """What came of it, once the daemon sees what is seen from outside."""
        vm = bench.vm

        def agrees() -> bool:
            state, seen = self.client.vm.stat(vm).state, self.look(vm)
            served = seen.init is not None and bool(self.outside.signed(vm, "console"))
            return (seen.power, served) == (str(state.power_state), bool(state.consoles))

        eventually(agrees, deadline=NOTICE, why=f"the daemon shows that {vm} is {before.power}")
        bench.quiet()
        seen = self.look(vm)
        word = "halted" if seen.power == "halted" else case.operation.word(seen, bench)
        # Unless it was its own first process, an operation that failed has changed nothing.
        allowed = case.operation.ends | WAS.get(case.operation.name, set())
        if case.operation.name != "nothing" and case.victim in ("keeper", "console", "init"):
            allowed |= {"halted"}
        assert word in allowed, f"it ended {word!r}, which is none of {sorted(allowed)}"
        self.lost = frozenset({case.victim} & {"keeper", "console"})
        try:
            self._hold_consistent(seen, vm)
        finally:
            self.lost = frozenset()
        self._hold_answers(seen, vm)
        self._hold_instance()
        return word

    def _astray(self) -> list[str]:
        # Whose deletion was killed goes with the next, or with the next daemon.
        return [what for what in super()._astray() if not what.startswith("tombstone ")]

    def _hold_quiet(self) -> None:
        """That something died is logged, but nothing in the daemon broke."""
        with self.daemon.log.open("rb") as log:
            log.seek(self.read)
            new = log.read()
        self.read += len(new)
        for line in new.splitlines():
            assert line.startswith(b"{"), f"logged: {line!r}"
            said = json.loads(line)
            assert said.get("level") not in ("error", "critical"), f"logged: {said}"
