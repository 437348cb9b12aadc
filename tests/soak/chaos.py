"""What goes wrong: faults of the simulator, guests with a will of their own, and dying daemons."""

import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from random import Random

from crash.cases import STEPS as RECOVERY
from rigs.daemon import DaemonProcess
from soak.crowd import History

from backends.simulator import debug as simulator
from idl.client import Client, ConnectionFailed
from idl.errors import XenopsError
from xenopsd import killpoints

#: What no step of a client here reaches.
ELSEWHERE = {"vm_pack_layers", "vm_take_layers", "vm_coredump", "vm_hook", "vm_hand_over"}
MICRO_OPS = tuple(sorted(simulator.MICRO_OPS - ELSEWHERE))
#: Where it can be told to kill itself while it works.
POINTS = tuple(
    sorted(p for p in killpoints.POINTS if p.partition(":")[0] not in {"recovery", *ELSEWHERE})
)
GUEST = ("reboot", "halt", "crash", "suspend")
#: What a guest may no longer do that it is asked.
STUBBORN = ("ignore-shutdown", "uncooperative-balloon", "hold-devices")
#: How long an armed kill may take to strike before it is done from outside.
PATIENCE = 2.0
WORKERS = 4


class Chaos:
    """One stroke after another at a daemon; every one leaves a daemon that answers."""

    def __init__(
        self, daemon: DaemonProcess, vms: list[str], dice: Random, history: History
    ) -> None:
        self.daemon, self.vms, self.dice, self.history = daemon, vms, dice, history

    def strike(self) -> None:
        """Anything at all."""
        self._one_of(
            {
                self.harass: 116,
                self.kill: 6,
                self.kill_at: 8,
                self.kill_recovery: 4,
                self.terminate: 3,
                self.reboot_host: 1,
            }
        )

    def harass(self) -> None:
        """Anything that a daemon must live through."""
        self._one_of({self.nudge: 60, self.fault: 40, self.hear: 8, self.resize: 8})

    def nudge(self) -> None:
        """A guest does something by itself, is lost, or no longer does what it is asked."""
        vm, what = self.dice.choice(self.vms), self.dice.choice((*GUEST, *STUBBORN, "lose"))
        knob = [self.dice.choice(["true", "false"])] if what in STUBBORN else []
        self.trigger(what, vm, *knob)

    def fault(self) -> None:
        """A step fails, hangs or is slow."""
        step = self.dice.choice(MICRO_OPS)
        match self.dice.choice(("fail", "fail", "hang", "hang", "deaf", "set-latency")):
            case "set-latency":
                self.trigger("set-latency", step, str(self.dice.choice([0, 0.02, 0.1])))
            case "deaf":
                self.trigger("hang", step, "1", "deaf")
            case what:
                self.trigger(what, step, "1")

    def hear(self) -> None:
        """What was deaf returns at last."""
        self.trigger("undeaf")

    def resize(self) -> None:
        self._ask("resize", lambda c: c.host.set_worker_pool_size(self.dice.randint(1, 16)))

    def kill(self) -> None:
        self.history.note("", "kill")
        self.daemon.kill()
        self.daemon.start()

    def kill_at(self) -> None:
        """It kills itself before or after a step, or while it writes the journal."""
        self.trigger("kill-at", self.dice.choice(POINTS), str(self.dice.randint(1, 3)))
        self._died()
        self.daemon.start()

    def kill_recovery(self) -> None:
        """It dies while it recovers from having died."""
        point = self.dice.choice(RECOVERY)
        self.history.note("", f"kill-recovery {point}")
        self.daemon.kill()
        self.daemon.spawn({"XENOPSD_KILL_AT": f"{point},1"})
        self._died()
        self.daemon.start()

    def terminate(self) -> None:
        self.history.note("", "terminate")
        status = self.daemon.stop(40)
        assert status == 0, f"it ended with {status} at SIGTERM"
        self.daemon.start()

    def reboot_host(self) -> None:
        self.trigger("reboot-host")
        self._died()
        self.daemon.start()

    def calm(self) -> None:
        """No faults any more, and the pool as it was."""
        self.history.note("", "calm")
        with self.daemon.client() as client:
            client.debug.trigger("undeaf", [])
            for step in MICRO_OPS:
                for what in ("fail", "hang", "set-latency"):
                    client.debug.trigger(what, [step, "0"])
            for vm in self.vms:
                with suppress(XenopsError):  # it has no domain
                    for what in STUBBORN:
                        client.debug.trigger(what, [vm, "false"])
            client.host.set_worker_pool_size(WORKERS)

    def living(self) -> None:
        """AssertionError where it has ended, and nobody had it end."""
        assert self.daemon.process is not None
        status = self.daemon.process.poll()
        assert status is None, f"it ended by itself with {status}; its log is {self.daemon.log}"

    def _one_of(self, strokes: dict[Callable[[], None], int]) -> None:
        self.living()
        self.dice.choices(list(strokes), list(strokes.values()))[0]()

    def trigger(self, what: str, *args: str) -> None:
        self._ask(f"{what} {' '.join(args)}", lambda c: c.debug.trigger(what, list(args)))

    def _ask(self, what: str, call: Callable[[Client], None]) -> None:
        """Refused, where there is no such domain; the connection breaks where it was deadly."""
        self.history.note("", what)
        with self.daemon.client() as client, suppress(XenopsError, ConnectionFailed):
            call(client)

    def _died(self) -> None:
        """Wait for a death that is armed; where nothing strikes, strike."""
        assert self.daemon.process is not None
        with suppress(subprocess.TimeoutExpired):
            status = self.daemon.process.wait(PATIENCE)
            assert status == -signal.SIGKILL, f"it was to be killed, and ended with {status}"
        self.daemon.kill()
