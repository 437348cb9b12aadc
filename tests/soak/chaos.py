"""What goes wrong: faults of the simulator, guests with a will of their own, and dying daemons."""

import subprocess
from collections.abc import Callable
from contextlib import suppress
from random import Random

from crash.cases import STEPS as RECOVERY
from rigs.daemon import DaemonProcess
from soak.crowd import History

from idl.client import Client, ConnectionFailed
from idl.errors import XenopsError

MICRO_OPS = (
    "vm_create",
    "vm_build",
    "vm_create_device_model",
    "vm_unpause",
    "vm_destroy",
    "vm_save",
    "vm_restore",
    "vm_request_shutdown",
    "vbd_plug",
    "vbd_unplug",
    "vif_plug",
    "vif_unplug",
)
GUEST = ("reboot", "halt", "crash", "suspend")
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
        strokes: dict[Callable[[], None], int] = {
            self.nudge: 60,
            self.fault: 40,
            self.hear: 8,
            self.resize: 8,
            self.kill: 6,
            self.kill_at: 8,
            self.kill_recovery: 4,
            self.terminate: 3,
            self.reboot_host: 1,
        }
        self.dice.choices(list(strokes), list(strokes.values()))[0]()

    def nudge(self) -> None:
        """A guest does something by itself, or no longer what it is asked."""
        vm, what = (
            self.dice.choice(self.vms),
            self.dice.choice((*GUEST, "ignore-shutdown", "lose")),
        )
        self.trigger(
            what, vm, *([self.dice.choice(["true", "false"])] if "ignore" in what else [])
        )

    def mild(self) -> None:
        """A guest does something by itself."""
        self.trigger(self.dice.choice(GUEST), self.dice.choice(self.vms))

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
        self._ask("resize", lambda c: c.host.set_worker_pool_size(self.dice.randint(1, 12)))

    def kill(self) -> None:
        self.history.note("", "kill")
        self.daemon.kill()
        self.daemon.start()

    def kill_at(self) -> None:
        """It kills itself before or after a step, or while it writes the journal."""
        moments = [f"{op}:{when}" for op in MICRO_OPS for when in ("before", "after")]
        point = self.dice.choice([*moments, "journal:append", "journal:end"])
        self.trigger("kill-at", point, str(self.dice.randint(1, 3)))
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
                with suppress(XenopsError):
                    client.debug.trigger("ignore-shutdown", [vm, "false"])
            client.host.set_worker_pool_size(WORKERS)

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
            self.daemon.process.wait(PATIENCE)
        self.daemon.kill()
