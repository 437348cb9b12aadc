"""The simulator: what a toolstack is tested against, and the default where nothing else is.

Its world is a directory (the option `world`, by default `STATE/simulator`), which outlives the
daemon as real domains do. Its layout is in docs/simulator-world.md; `backends.simulator.act`
acts in it from outside.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import msgspec

from backends.interface import Available, Backend, Settings, Unavailable
from backends.simulator.debug import Triggers
from backends.simulator.devices import PciOps, VbdOps, VifOps
from backends.simulator.events import Listener
from backends.simulator.faults import Faults
from backends.simulator.host import HostOps
from backends.simulator.layers import Layers
from backends.simulator.ledger import Ledger
from backends.simulator.machine import Machine
from backends.simulator.vm import VmOps
from backends.simulator.world import EVENTS, LAYERS, PLUGGED, prepare
from idl.errors import HypervisorError
from idl.ids import VmId

FEATURES = frozenset(
    {
        "guest:hvm",
        "guest:pv",
        "guest:pvh",
        "guest:container",
        "suspend",
        "vbd_hotplug",
        "vbd_force_unplug",
        "vif_hotplug",
        "pci",
        "vcpu_hotplug",
        "balloon",
        "guest_agent",
    }
)


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section of the configuration. All of it counts when the world is opened."""

    world: Annotated[
        str | None,
        msgspec.Meta(
            description="directory of the world; null: STATE/simulator", extra={"live": False}
        ),
    ] = None
    memory_total: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            le=2**62,
            description="memory that the host seems to have",
            extra={"live": False, "unit": "bytes"},
        ),
    ] = 16 * 2**40


class Simulator:
    """`backends.interface.Backend`."""

    name = "simulator"
    features = FEATURES
    lacking: Mapping[str, str] = MappingProxyType({})

    def __init__(self, machine: Machine, options: Options) -> None:
        self._machine = machine
        self._triggers = Triggers(machine)
        self._listener: Listener | None = None
        self.host = HostOps(machine, options.memory_total)
        self.vm = VmOps(machine)
        self.vbd = VbdOps(machine)
        self.vif = VifOps(machine)
        self.pci = PciOps(machine)

    def watch(self, needs_attention: Callable[[VmId], None]) -> None:
        """Tell of guests that acted by themselves, here or by a process beside the daemon."""
        self._machine.tell = needs_attention
        fifo = self._machine.world.path / EVENTS / self._machine.instance
        try:
            self._listener = Listener(fifo, needs_attention)
        except OSError as error:
            raise HypervisorError(call="watch", reason=str(error)) from error

    def interrupt(self, vm: VmId) -> None:
        """Nothing to do: what blocks here, blocks in the executor's own `Call.pause`, which
        wakes on its cancel and deadline. A deaf call is deaf to this too."""

    def kill(self, vm: VmId) -> None:
        """The domain goes, as by kill -9; what was plugged stays behind for `vm.destroy`."""
        try:
            self._machine.drop(vm)
        except OSError as error:
            raise HypervisorError(call="kill", reason=str(error)) from error
        self._machine.tell(vm)

    def debug(self, cmd: str, args: Sequence[str]) -> None:
        """See `backends.simulator.debug`."""
        self._triggers.pull(cmd, args)

    def close(self) -> None:
        """Let go of the world, and of the calls that are deaf."""
        self._machine.faults.undeaf()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._machine.ledger.close()
        self._machine.world.close()


class Plugin:
    """`backends.interface.Plugin`."""

    options = Options

    def probe(self) -> Available | Unavailable:
        """It runs anywhere; any real hypervisor comes before it."""
        return Available(rank=0)

    def open(self, settings: Settings) -> Backend:
        """Open the world, made where it is missing. Raises HypervisorError."""
        options: Options = settings.options
        path = Path(options.world) if options.world else settings.state_dir / "simulator"
        try:
            world = prepare(path)
            ledger = Ledger(path / PLUGGED / settings.instance)
        except OSError as error:
            raise HypervisorError(call="open", reason=str(error)) from error
        machine = Machine(
            instance=settings.instance,
            world=world,
            ledger=ledger,
            layers=Layers(path / LAYERS),
            faults=Faults(),
            now=time.time,
            tell=lambda vm: None,  # noqa: ARG005  # nobody watches yet
        )
        return Simulator(machine, options)
