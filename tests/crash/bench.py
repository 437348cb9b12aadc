"""One daemon's directory in which case after case is carried out, and what a case is held to."""

import json
import subprocess
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crash.cases import Bench, Operation, running
from rigs.daemon import DEADLINE, DaemonProcess, ended, eventually
from rigs.outside import Seen, look, nothing_of, untidy

from idl.calls import Operation as TaskCall
from idl.client import Client, ConnectionFailed
from idl.task import Completed, Failed, Task
from idl.vm import Vm

CONFIG = """
[reboot]
delay = 0.02
"""
#: What a daemon without faults has no reason to log.
COMPLAINTS = frozenset({"warning", "error", "critical"})
BYSTANDER = "zz-bystander"
#: What clients call the words of an outsider.
SHOWN = {"shell": "paused", "stopped": "running"}


@dataclass(frozen=True)
class Case:
    """An operation, killed at `point` (POINT,N), or after `moment` seconds, or not at all; and
    its recovery killed at `second`."""

    operation: Operation
    point: str = ""
    moment: float | None = None
    second: str = ""

    @property
    def is_killed(self) -> bool:
        return bool(self.point) or self.moment is not None

    def __str__(self) -> str:
        first = self.point or ("" if self.moment is None else f"{self.moment * 1000:.2f} ms")
        return " | ".join(part for part in (self.operation.name, first, self.second) if part)


@dataclass(frozen=True)
class Result:
    """What came of a case: the word for the VM, how its task ended, the points passed."""

    case: Case
    word: str = ""
    task: str = ""
    points: tuple[str, ...] = ()
    seconds: float = 0.0
    failure: str = ""
    died_again: bool = False


@dataclass
class Lab:
    """A directory with a daemon; `alone`: without a VM that stands by and must not change."""

    directory: Path
    alone: bool
    daemon: DaemonProcess = field(init=False)
    client: Client = field(init=False)
    number: int = 0
    read: int = 0
    bystander: Seen | None = None

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True)
        self.trace = self.directory / "trace"
        self.daemon = self._daemon()
        try:
            self._start()
            if not self.alone:
                self._run(self._bench(BYSTANDER))
                self.bystander = self.look(BYSTANDER)
        except BaseException:
            self.daemon.kill()
            raise

    def close(self) -> None:
        """End it, and leave nothing."""
        self.client.close()
        self.daemon.remove()

    def abandon(self) -> None:
        """End it, and leave the evidence."""
        self.client.close()
        self.daemon.kill()

    def _daemon(self) -> DaemonProcess:
        config = self.directory / "config.toml"
        config.write_text(CONFIG)
        return DaemonProcess(self.directory, "--config", str(config))

    def _bench(self, vm: str) -> Bench:
        return Bench(self.client, vm)

    def _run(self, bench: Bench) -> None:
        running(bench)

    def look(self, vm: str) -> Seen:
        return look(self.daemon.state_dir, self.daemon.run_dir, vm)

    def carry_out(self, case: Case) -> Result:
        """One case with a VM of its own."""
        self.number += 1
        bench = self._bench(f"vm-{self.number}")
        try:
            return self._carry_out(case, bench)
        except (Exception, subprocess.TimeoutExpired) as error:  # noqa: BLE001  # it is reported
            where = traceback.extract_tb(error.__traceback__)
            lines = ", ".join(f"{Path(f.filename).name}:{f.lineno}" for f in where[-4:])
            return Result(case, failure=f"{type(error).__name__}: {error} ({lines})")

    def _carry_out(self, case: Case, bench: Bench) -> Result:
        case.operation.prepare(bench)
        bench.quiet()
        self.trace.write_bytes(b"")
        called = case.operation.call(bench)
        began = time.monotonic()
        died_again = False
        if not case.is_killed:
            self._call(called)
            if isinstance(called, TaskCall):
                ended(self.client, bench.vm)
            seconds = time.monotonic() - began
            bench.quiet()
        else:
            self._kill(case, called)
            seconds = time.monotonic() - began
            died_again = bool(case.second) and self._kill_again(case.second)
            self._start()
            bench = self._bench(bench.vm)
        points = tuple(self.trace.read_text().split()) if not case.is_killed else ()
        word, task = self._examine(case, bench, is_task=isinstance(called, TaskCall))
        self._use(bench)
        return Result(case, word, task, points, seconds, died_again=died_again)

    # The daemon

    def _start(self) -> None:
        self.daemon.start({"XENOPSD_KILL_TRACE": str(self.trace)})
        self.client = self.daemon.client()
        eventually(lambda: not self.client.host.query().recovering, why="it has recovered")
        Bench(self.client, "").quiet()

    def _call(self, called: Any) -> None:
        if isinstance(called, tuple):
            act, vm = called
            self.client.debug.trigger(act, [vm])
        else:
            self.client.send(called)

    def _kill(self, case: Case, called: Any) -> None:
        """Make the call and have the daemon die of it."""
        if case.point:
            point, _, n = case.point.rpartition(",")
            self.client.debug.trigger("kill-at", [point, n])
            self._call_in_vain(called)
            status = self.daemon.wait(DEADLINE)
            assert status == -9, f"it ended with {status}"
        else:
            assert case.moment is not None
            self.client.host.query()
            caller = threading.Thread(target=self._call_in_vain, args=(called,))
            caller.start()
            threading.Event().wait(case.moment)
            self.daemon.kill()
            caller.join()
        self.client.close()

    def _call_in_vain(self, called: Any) -> None:
        try:
            self._call(called)
        except ConnectionFailed:
            pass

    def _kill_again(self, second: str) -> bool:
        """Start it so that it dies in its recovery; whether it did."""
        self.daemon.spawn({"XENOPSD_KILL_AT": second})
        process = self.daemon.process
        assert process is not None
        with self.daemon.client() as client:
            eventually(lambda: process.poll() is not None or _recovered(client))
        died = process.poll() is not None
        self.daemon.kill()
        return died

    # What a case is held to

    def _examine(self, case: Case, bench: Bench, *, is_task: bool) -> tuple[str, str]:
        operation, vm = case.operation, bench.vm
        seen = self.look(vm)
        word = operation.word(seen, bench)
        allowed = operation.ends if case.is_killed else operation.done
        assert word in allowed, f"it ended {word!r}, which is none of {sorted(allowed)}"
        self._hold_consistent(seen, vm)
        if operation.plugged is not None and seen.power in ("running", "paused"):
            assert seen.names == operation.plugged, f"plugged are {sorted(seen.names)}"
        self._hold_answers(seen, vm)
        self._hold_instance()
        return word, self._task(case, bench, word) if is_task else ""

    def _hold_consistent(self, seen: Seen, vm: str) -> None:
        """World and state directory agree with each other."""
        assert seen.power != "stopped", "its guest has stopped, and nobody looked"
        assert seen.plugged == seen.devices, f"the ledger has {set(seen.plugged ^ seen.devices)}"
        passing = {layer for layer in seen.layers if "@" in layer}
        needed, allowed = _layers(seen)
        assert needed <= passing <= needed | allowed, f"layers {passing}, not {needed}"
        assert seen.image == (seen.power == "suspended"), f"an image: {seen.image}"
        image = seen.extra.get("image")
        assert (image is not None) == (seen.power == "suspended"), f"a recorded image: {image}"
        assert not (image and image.get("spent")), "its image is spent"
        assert seen.claimed == (seen.config is not None), f"a claim: {seen.claimed}"
        assert not seen.leftovers, f"in its directory: {seen.leftovers}"
        if seen.domain is not None:
            marks = [seen.domain[m] for m in ("instance", "vm", "incarnation")]
            assert marks == ["default", vm, seen.extra["incarnation"]], f"marks: {marks}"
            assert seen.extra["settled"], "no operation has ended for its domain"
        booted = seen.extra.get("running") is not None
        assert booted == (seen.domain is not None or seen.power == "suspended"), "as booted"

    def _hold_answers(self, seen: Seen, vm: str) -> None:
        """What the daemon says is what an outsider sees."""
        assert self.client.vm.exists(vm) == (seen.config is not None)
        if seen.config is None:
            assert seen.domain is None, "a domain without a record"
            return
        stat = self.client.vm.stat(vm)
        state = stat.state
        assert state.attention is None, f"attention: {state.attention}"
        assert state.operation is None, f"an operation: {state.operation}"
        assert str(state.power_state) == SHOWN.get(seen.power, seen.power), state.power_state
        domain = seen.domain or {}
        assert state.domain_ids == ([domain["id"]] if domain else []), state.domain_ids
        assert state.incarnation == domain.get("incarnation"), state.incarnation
        shown = {
            f"{kind}:{record.id.partition('/')[2]}"
            for kind, listed in (
                ("vbd", self.client.vbd.list(vm)),
                ("vif", self.client.vif.list(vm)),
                ("pci", self.client.pci.list(vm)),
            )
            for record in listed
            if record.state.plugged
        }
        assert shown == seen.names, f"shown as plugged: {sorted(shown)}"
        assert not any(v.state.detaching for v in self.client.vbd.list(vm)), "detaching"

    def _hold_instance(self) -> None:
        """Nothing is left lying about, nobody else was touched."""
        state_dir, run_dir = self.daemon.state_dir, self.daemon.run_dir
        # What the daemon remembers of itself is written beside everything else.
        eventually(
            lambda: not untidy(state_dir, run_dir), why=f"untidy: {untidy(state_dir, run_dir)}"
        )
        diagnostics = self.client.host.get_diagnostics()
        assert not diagnostics.journal, f"open intents: {diagnostics.journal}"
        assert not diagnostics.quarantined, f"quarantined: {diagnostics.quarantined}"
        assert not (foreign := self.client.host.list_foreign()), f"foreign: {foreign}"
        assert all(t.ended for t in self.client.task.list()), "a task has not ended"
        records = {p.name for p in (state_dir / "vm").iterdir()}
        domains = {n for n, d in self.daemon.domains().items() if d is not None}
        assert domains <= records, f"domains without a record: {domains - records}"
        host = self.client.host.stat()
        used = sum(d["memory_target"] for d in self.daemon.domains().values() if d)
        assert host.memory_total - host.memory_free == used, "memory is reserved for nobody"
        if self.bystander is not None:
            assert _steady(self.look(BYSTANDER)) == _steady(self.bystander), "the bystander"
        self._hold_quiet()

    def _hold_quiet(self) -> None:
        """Nothing was logged that an operator would have to look at."""
        with self.daemon.log.open("rb") as log:
            log.seek(self.read)
            new = log.read()
        self.read += len(new)
        lines = [json.loads(line) for line in new.splitlines() if line.startswith(b"{")]
        complaints = [line for line in lines if line.get("level") in COMPLAINTS]
        assert not complaints, f"logged: {complaints[0]}"
        stray = [line for line in new.splitlines() if not line.startswith(b"{")]
        assert not stray, f"logged: {stray}"

    def _task(self, case: Case, bench: Bench, word: str) -> str:
        """How the task ended: well, or Interrupted with the facts right."""
        task: Task = self.client.task.stat(bench.vm)
        answered = not case.is_killed or case.point.startswith("journal:end")
        assert task.interrupted != answered, f"interrupted is {task.interrupted}"
        if isinstance(task.state, Completed):
            assert word in case.operation.done, f"completed, and it is {word!r}"
            return "completed" + (", interrupted" if task.interrupted else "")
        assert isinstance(task.state, Failed), f"the task has not ended: {task.state}"
        error = task.state.error
        assert error.data.get("error") == "Interrupted", f"failed with {error}"
        assert error.data["begun"], "it had begun"
        power = SHOWN.get(self.look(bench.vm).power, self.look(bench.vm).power)
        assert error.data["recovered_to"] == power, f"recovered_to: {error.data}"
        return "Interrupted"

    def _use(self, bench: Bench) -> None:
        """It still stops, starts, and goes without a trace."""
        client, vm = bench.client, bench.vm
        if not client.vm.exists(vm):
            assert client.vm.add(Vm(id=vm)) == vm
        bench.run(client.vm.shutdown(vm))
        seen = self.look(vm)
        assert seen.power == "halted", f"shut down, and {seen.power}"
        self._hold_consistent(seen, vm)
        bench.run(client.vm.start(vm))
        seen = self.look(vm)
        assert seen.power == "running", f"started, and {seen.power}"
        self._hold_consistent(seen, vm)
        assert seen.names == _recorded(seen), f"plugged are {sorted(seen.names)}"
        bench.run(client.vm.shutdown(vm))
        client.vm.remove(vm)
        bench.quiet()
        left = nothing_of(self.daemon.state_dir, self.daemon.run_dir, vm)
        assert not left, f"left of it: {left}"
        self._hold_instance()


def _recovered(client: Client) -> bool:
    try:
        return not client.host.query().recovering
    except ConnectionFailed:
        return False


def _layers(seen: Seen) -> tuple[set[str], set[str]]:
    """The layers that are not for ever: those that must be there, and those that may be.

    That of an image stays with a halted VM until it starts, and with a domain until it has run.
    """
    config = seen.config or {}
    vbds = [v for v in config.get("vbds", ()) if not v.get("persistent", True)]
    suspended = {f"{vbd['id'].partition('/')[2]}@suspended.json" for vbd in vbds}
    if seen.domain is None:
        return (suspended, set()) if seen.power == "suspended" else (set(), suspended)
    used = {v.get("layer") for v in seen.domain.get("vbds", {}).values()} - {None}
    # What was unplugged keeps its layer as long as its domain lives.
    own = {f"{vbd['id'].partition('/')[2]}@{seen.domain['incarnation']}.json" for vbd in vbds}
    kept = suspended if seen.domain.get("restored") else set()
    return {layer for layer in used if "@" in layer}, own | kept


def _recorded(seen: Seen) -> frozenset[str]:
    config = seen.config or {}
    return frozenset(
        f"{kind}:{device['id'].partition('/')[2]}"
        for kind in ("vbd", "vif", "pci")
        for device in config.get(f"{kind}s", ())
    )


def _steady(seen: Seen) -> tuple[Any, ...]:
    """What of a VM that nobody touches must not change."""
    domain = seen.domain or {}
    return seen.power, domain.get("id"), domain.get("incarnation"), seen.plugged, seen.layers
