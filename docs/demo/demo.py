"""`make demo`: what the daemon promises, shown in seconds: on real containers where they can run,
else on the simulator (`--backend simulator` asks for it).

Everything happens in temporary directories. What is said was checked: where something does not
come out as it should, the demo says so and exits with 1. Other arguments go to xenopsd.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import click
from stages import Stage, chosen

from idl.client import Client, ConnectionFailed, OutcomeUnknown, Subscription
from idl.errors import DoesNotExist, Unimplemented, XenopsError
from idl.task import Completed, Failed, Pending, Task
from idl.update import Update, UpdateBatch
from idl.vm import PowerState, Vm

T = TypeVar("T")

DEADLINE = 15.0
MIB = 1 << 20
ONE_STEP = 0.02  # a micro-op of the simulator takes this long, so that there is something to see


class NotAsPromised(Exception):
    """What was to be shown did not happen."""


class Narrator:
    """The voice of the first client, and in columns to the right that of the second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._chapter = 0

    def chapter(self, title: str) -> None:
        """What comes next."""
        self._chapter += 1
        self._print("\n" + click.style(f"{self._chapter}. {title}", bold=True))

    def says(self, text: str) -> None:
        """What the first client does or finds."""
        self._print(f"   {text}")

    def calls(self, method: str, params: str) -> None:
        """A call of the first client."""
        self._print("   " + click.style(f"{method:<12}", fg="cyan") + f" {params}")

    def hears(self, text: str) -> None:
        """What the second client was told."""
        since = time.monotonic() - self._began
        self._print(click.style(f"{'':24}| {since:5.2f} s  {text}", fg="yellow"))

    def end(self, text: str) -> None:
        """How it went."""
        self._print("\n" + text)

    def _print(self, text: str) -> None:
        with self._lock:
            click.echo(text)


class Host:
    """The daemon as a process, in a directory of its own."""

    def __init__(self, stage: Stage, arguments: list[str]) -> None:
        self.stage = stage
        self.socket = stage.run / "default.sock"
        self.log = stage.run / "log"
        self._arguments = [
            str(Path(sys.executable).with_name("xenopsd")),
            *("--backend", stage.backend, "--debug"),
            *("--run-dir", str(stage.run), "--state-dir", str(stage.state)),
            *arguments,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The daemon's."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> str:
        """Start it; the line with which it says that it is ready."""
        environ = {n: v for n, v in os.environ.items() if not n.startswith("XENOPSD_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own script
                [*self._arguments, *self.stage.arguments()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environ,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode().strip()
        if "ready" not in line:
            raise NotAsPromised(f"xenopsd did not start:\n{self.last_words()}")
        return line

    def end(self, how: signal.Signals | None) -> int:
        """Send it a signal, if any, and wait; its exit status. Of one that has ended nothing."""
        process, self._process = self._process, None
        if process is None:
            return 0
        if how is not None:
            process.send_signal(how)
        try:
            return process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
        finally:
            if process.stdout is not None:
                process.stdout.close()

    def clear(self) -> None:
        """End the VMs that are left, the daemon, and remove what was made."""
        if self.stage.domains():
            if self._process is None:
                self.start()
            with Client(self.socket, DEADLINE) as client:
                _eventually(lambda: not client.host.query().recovering, "recovery ends")
                for vm in client.vm.list():
                    client.run(client.vm.shutdown(vm.id), DEADLINE)
        self.end(signal.SIGTERM)
        self.stage.strike()

    def last_words(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text().splitlines()[-15:])


class Watcher:
    """The second client: prints updates as they come, and looks at what they name.

    An update never says what happened, only what to look at again. When the daemon goes away it
    comes back with the token that it had, and has missed nothing.
    """

    def __init__(self, host: Host, narrator: Narrator) -> None:
        self._client = Client(host.socket)
        self._narrator = narrator
        self._token: str | None = None
        self._seen: dict[tuple[str, str], str] = {}
        self._barriers: set[int] = set()
        self._changed = threading.Condition()
        self._over = False
        self._subscription: Subscription | None = None
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        """Watch from now on."""
        self._token = self._client.updates.last_id()
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
            if self._subscription is not None:
                self._subscription.close()
        if self._thread.ident is not None:
            self._thread.join(DEADLINE)
        self._client.close()

    def caught_up(self, client: Client, vm: str) -> None:
        """Wait until it has been told of everything about a VM until now: a barrier's use."""
        number = len(self._barriers) + 1
        client.updates.inject_barrier(vm, number)
        with self._changed:
            if not self._changed.wait_for(lambda: number in self._barriers, DEADLINE):
                raise NotAsPromised("the second client was not told of a barrier")
        client.updates.remove_barrier(number)

    def _run(self) -> None:
        while not self._over:
            # The daemon is away for a moment; what the second client has is its token.
            with suppress(ConnectionFailed), self._subscribed() as subscription:
                for batch in subscription:
                    self._take(batch)
            with self._changed:
                self._changed.wait_for(lambda: self._over, 0.05)

    @contextmanager
    def _subscribed(self) -> Iterator[Subscription]:
        with self._client.subscribe(self._token) as subscription:
            with self._changed:
                self._subscription = subscription
                if self._over:
                    subscription.close()
            try:
                yield subscription
            except ConnectionFailed as error:
                self._narrator.hears(f"the daemon is gone: {error.reason}")
                raise
            finally:
                with self._changed:
                    self._subscription = None

    def _take(self, batch: UpdateBatch) -> None:
        if batch.resync:
            self._narrator.hears("resync: an old token, so every object is named again")
        for update in batch.updates:
            self._look(update)
        self._token = batch.next
        with self._changed:
            self._barriers.update(barrier.id for barrier in batch.barriers)
            self._changed.notify_all()

    def _look(self, update: Update) -> None:
        """Print what the object is now, unless that was printed."""
        try:
            now = "gone" if update.removed else self._now(update)
        except DoesNotExist:
            return  # an update that says so follows
        key = (update.type, update.id)
        if self._seen.get(key) != now:
            self._seen[key] = now
            self._narrator.hears(f"{update.type:<4} {update.id:<12} {now}")

    def _now(self, update: Update) -> str:
        match update.type:
            case "vm":
                state = self._client.vm.stat(update.id).state
                # Operations without a task (VBD.add and the like) are over before one can look.
                doing = state.operation if state.operation and state.operation.task else None
                return f"{state.power_state}{f', {doing.name}' if doing else ''}"
            case "vbd":
                return _plugged(self._client.vbd.stat(update.id).state.plugged)
            case "vif":
                return _plugged(self._client.vif.stat(update.id).state.plugged)
            case "task":
                return _told(self._client.task.stat(update.id))
            case _:
                return "recovering" if self._client.host.query().recovering else "ready"


def _plugged(plugged: bool) -> str:  # noqa: FBT001  # two words for two values
    return "plugged" if plugged else "not plugged"


def _told(task: Task) -> str:
    match task.state:
        case Pending():
            return f"{task.operation} of {task.vm} accepted"
        case Completed():
            return f"{task.operation} of {task.vm} completed"
        case Failed(error=error):
            return f"{task.operation} of {task.vm} failed: {error.data['error']}"


class Demo:
    """The story, told by the first client."""

    def __init__(self, host: Host, client: Client, narrator: Narrator, watcher: Watcher) -> None:
        self._host = host
        self._client = client
        self._narrator = narrator
        self._watcher = watcher

    def tell(self) -> None:
        """All of it. Raises NotAsPromised."""
        self._daemon()
        self._define()
        self._start()
        self._suspend()
        self._reboot()
        before = self._domain("web")
        start, queued = self._crash()
        self._restart(start, queued, before)
        self._clear()

    def _daemon(self) -> None:
        narrator = self._narrator
        narrator.chapter("A daemon")
        narrator.says(self._host.start())
        host = self._client.host.query()
        narrator.calls("HOST.query", f"backend {host.backend}, epoch {host.epoch}")
        # Ready is when the sockets answer; the backend is opened beside that.
        _eventually(lambda: not self._client.host.query().recovering, "the backend is open")
        if self._host.stage.slow:
            self._client.debug.trigger("set-latency", ["*", str(ONE_STEP)])
        narrator.says("A second client watches on a connection of its own (to the right).")
        self._watcher.start()

    def _define(self) -> None:
        self._narrator.chapter("Three VMs, each with its devices")
        for vm, disks in zip(self._host.stage.vms(), (2, 1, 1), strict=True):
            self._add(vm, disks)
        self._watcher.caught_up(self._client, "ct")

    def _add(self, vm: Vm, disks: int) -> None:
        client = self._client
        client.vm.add(vm)
        vbds, vif = self._host.stage.devices(vm.id, disks)
        for vbd in vbds:
            client.vbd.add(vbd)
        client.vif.add(vif)
        memory = vm.memory_static_max // MIB
        self._narrator.calls("VM.add", f"{vm.id}: {memory} MiB, {disks} VBD, 1 VIF")

    def _start(self) -> None:
        self._narrator.chapter("Start them: three queues, side by side")
        tasks = [self._call(self._client.vm.start, vm) for vm in ("web", "db", "ct")]
        ended = [self._client.run(task, DEADLINE) for task in tasks]
        steps = " ".join(step.name for step in ended[-1].subtasks)
        self._watcher.caught_up(self._client, "ct")
        self._narrator.says(f"The micro-ops of the last: {steps}")
        self._expect("web", PowerState.RUNNING)
        self._expect("db", PowerState.RUNNING)
        self._expect("ct", PowerState.RUNNING)

    def _suspend(self) -> None:
        if "suspend" not in self._client.host.query().features:
            self._pause()
            return
        self._narrator.chapter("Suspend and resume one")
        self._done(self._call(self._client.vm.suspend, "web"), "web")
        self._expect("web", PowerState.SUSPENDED)
        self._done(self._call(self._client.vm.resume, "web"), "web")
        self._expect("web", PowerState.RUNNING)

    def _pause(self) -> None:
        self._narrator.chapter("Pause one; suspend is refused at once here, with the reason")
        try:
            self._client.run(self._client.vm.suspend("web"), DEADLINE)
        except Unimplemented as refused:
            self._narrator.calls("VM.suspend", f"web -> {refused}")
        self._done(self._call(self._client.vm.pause, "web"), "web")
        self._expect("web", PowerState.PAUSED)
        self._done(self._call(self._client.vm.unpause, "web"), "web")
        self._expect("web", PowerState.RUNNING)

    def _reboot(self) -> None:
        self._narrator.chapter("Reboot one and shut one down, asking the guests")
        before = self._domain("db")
        self._done(self._call(self._client.vm.reboot, "db", timeout=10.0), "db")
        self._expect("db", PowerState.RUNNING)
        self._promise(self._domain("db") != before, "a reboot makes a new domain")
        self._done(self._call(self._client.vm.shutdown, "ct", timeout=10.0), "ct")
        self._expect("ct", PowerState.HALTED)

    def _crash(self) -> tuple[str, str]:
        """SIGKILL in the middle of a start; its task, and one that stood behind it."""
        narrator, client = self._narrator, self._client
        narrator.chapter("Kill the daemon in the middle of a start")
        held = client.vm.delay("ct", 60.0)
        start = self._call(client.vm.start, "ct")
        queued = self._call(client.vm.pause, "ct")
        self._narrator.calls(
            "DEBUG.trigger", " kill-at vbd_plug:after: the start dies with its daemon"
        )
        client.debug.trigger("kill-at", ["vbd_plug:after", "1"])
        self._watcher.caught_up(client, "ct")
        pid = self._host.pid
        # It may be gone before it has answered.
        with (
            suppress(ConnectionFailed, OutcomeUnknown),
            Client(self._host.socket, DEADLINE, reconnect=0.0) as last,
        ):
            last.task.cancel(held)
        self._promise(self._host.end(None) == -signal.SIGKILL, "the daemon is killed")
        narrator.says(click.style(f"kill -9 {pid}", fg="red", bold=True))
        left = self._host.stage.domains()
        narrator.says(f"No daemon. What it has left behind in the hypervisor: {', '.join(left)}")
        self._promise("ct" in left, "a domain is left half built")
        return start, queued

    def _restart(self, start: str, queued: str, before: list[str]) -> None:
        narrator, client = self._narrator, self._client
        narrator.chapter("Start it again")
        narrator.says(self._host.start())
        _eventually(lambda: not client.host.query().recovering, "recovery ends")
        self._watcher.caught_up(client, "ct")
        task = client.task.stat(start)
        narrator.calls("TASK.stat", f"{start}: {_told(task)}, interrupted {task.interrupted}")
        self._promise(task.interrupted, "the start says that it was interrupted")
        self._promise(isinstance(task.state, Completed), "the start was carried on to its end")
        narrator.says("   The start kept its id and was carried on from where the crash cut it.")
        self._expect("ct", PowerState.RUNNING)
        behind = client.task.stat(queued)
        narrator.calls("TASK.stat", f"{queued}: {_told(behind)}")
        assert isinstance(behind.state, Failed)
        narrator.says(f"   {behind.state.error.message}")
        self._promise(behind.state.error.data["begun"] is False, "the pause had not begun")
        self._expect("web", PowerState.RUNNING)
        self._promise(self._domain("web") == before, "web never noticed")
        narrator.says("   It is the very domain that ran before the crash: web never noticed.")

    def _clear(self) -> None:
        narrator, client = self._narrator, self._client
        narrator.chapter("Leave nothing behind")
        tasks = [self._call(client.vm.shutdown, vm) for vm in ("web", "db", "ct")]
        for task in tasks:
            client.run(task, DEADLINE)
        for vm in ("web", "db", "ct"):
            client.vm.remove(vm)
        self._narrator.calls("VM.remove", "web, db, ct")
        self._promise(not client.vm.list(), "no VM is left")
        self._promise(not self._host.stage.domains(), "no domain is left")
        self._watcher.stop()
        client.close()
        status = self._host.end(signal.SIGTERM)
        self._promise(status == 0, f"the daemon ends well at SIGTERM, not with {status}")
        narrator.says("No VM, no domain; the daemon has ended at SIGTERM with status 0.")

    # Calls

    def _call(self, call: Callable[..., str], vm: str, **params: Any) -> str:
        name = call.__name__
        task = call(vm, **params)
        said = "".join(f", {key} {value:g}" for key, value in params.items())
        self._narrator.calls(f"VM.{name}", f"{vm}{said} -> task {task}")
        return task

    def _done(self, task: str, vm: str) -> None:
        self._client.run(task, DEADLINE)
        self._watcher.caught_up(self._client, vm)

    def _expect(self, vm: str, wanted: PowerState) -> None:
        state = self._client.vm.stat(vm).state
        shown = f"{vm}: {state.power_state}, because: {state.reason}"
        self._narrator.calls("VM.stat", shown)
        self._promise(state.power_state is wanted, f"{vm} is {wanted}")
        self._promise(state.attention is None, f"{vm} needs no attention")

    def _domain(self, vm: str) -> list[str]:
        return self._client.vm.stat(vm).state.domain_ids

    def _promise(self, holds: bool, what: str) -> None:  # noqa: FBT001  # an assertion
        if not holds:
            raise NotAsPromised(f"this should be so, and is not: {what}")


def _eventually(what: Callable[[], object], why: str) -> None:
    until = time.monotonic() + DEADLINE
    tick = threading.Event()
    while not what():
        if time.monotonic() > until:
            raise NotAsPromised(f"this did not come within {DEADLINE:g} s: {why}")
        tick.wait(0.005)


def main(arguments: list[str]) -> int:
    """Tell the story; the exit status."""
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--backend", choices=("lxc", "simulator"))
    wanted, rest = parser.parse_known_args(arguments)
    narrator = Narrator()
    stage, why = chosen(wanted.backend, Path(tempfile.mkdtemp(prefix="xenopsd-demo-")))
    if why:
        narrator.says(why)
    host = Host(stage, rest)
    client, watcher = Client(host.socket, DEADLINE), Watcher(host, narrator)
    began = time.monotonic()
    try:
        Demo(host, client, narrator, watcher).tell()
    except KeyboardInterrupt:
        narrator.end("Interrupted; cleaning up.")
        return 130
    except (NotAsPromised, XenopsError, ConnectionFailed) as error:
        narrator.end(click.style(f"Not as promised: {error}", fg="red"))
        return 1
    finally:
        # From here on nothing comes between: whatever was made is removed.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        watcher.stop()
        client.close()
        host.clear()
    narrator.end(f"All of it as promised, in {time.monotonic() - began:.1f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
