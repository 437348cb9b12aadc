"""What a backend is: Protocols, the observations it returns, and what it is given.

A backend carries out micro-ops. Rules that every one keeps, and the conformance suite checks:

- A call blocks its thread until the effect is there, an error is raised (`idl.errors`), or it
  returns `Waiting`: then it is called again with the same arguments when the world changed.
- Every call can be repeated: carried out twice, or found half done after a crash, it ends in
  the same effect. Everything it makes bears the mark (instance, VM, incarnation).
- Events say only that a VM needs attention, never what to do.
- What the backend cannot do is not in `features`, and raises `Unimplemented`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from msgspec import Struct

from idl.host import HostStat
from idl.ids import DeviceId, VmId
from idl.pci import Pci
from idl.vbd import Disk, Vbd
from idl.vif import Vif
from idl.vm import Console, Vm, VmMetrics
from idl.wire import Fact


class Call(Protocol):
    """One attempt at a micro-op, as the executor hands it to the backend."""

    @property
    def micro_op(self) -> str:
        """Its name, as TASK.stat shows it."""

    @property
    def incarnation(self) -> str:
        """The incarnation that it acts for; part of every name that its effect has."""

    @property
    def deadline(self) -> float:
        """Monotonic time past which it is broken off."""

    def checkpoint(self) -> None:
        """A cancel point. Raises `Cancelled`, or `DeadlineExceeded` past the deadline."""

    def pause(self, seconds: float | None) -> None:
        """Block for so long (None: until interrupted); a cancel point all the while."""

    def progress(self, fraction: float) -> None:
        """Say how far it is, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Not done yet: call again after an event of the VM, or `recheck` seconds.

    Past `timeout` seconds since the first call the executor gives up.
    """

    what: str
    timeout: float
    recheck: float = 1.0


class PluggedVbd(Fact, frozen=True, kw_only=True):
    """A VBD in a domain: the medium in it, and whether it was asked to go."""

    medium: Disk | None = None
    detaching: bool = False


class PluggedVif(Fact, frozen=True, kw_only=True):
    """A VIF in a domain: the host's interface, and whether its cable is in."""

    device: str | None = None
    media_present: bool = True


StopReason = Literal["poweroff", "reboot", "crash", "suspend"]


class Domain(Fact, frozen=True, kw_only=True):
    """A domain as it is in the world.

    `vm`, `instance` and `incarnation` are its mark, None where it has none. `stopped` is why
    it runs no more while it still exists. `vcpu_seconds` of 0 in a paused domain is the
    seed's tell that it never ran.
    """

    id: str
    name: str
    vm: str | None = None
    instance: str | None = None
    incarnation: str | None = None
    built: bool = False
    paused: bool = True
    stopped: StopReason | None = None
    vcpu_seconds: float = 0.0
    vcpus: int = 0
    memory_target: int = 0
    memory_actual: int = 0
    memory_limit: int = 0
    uncooperative_balloon: bool = False
    pv_drivers_detected: bool = False
    device_model: bool = False
    consoles: list[Console] = []
    guest_agent: dict[str, Any] = {}
    vbds: dict[DeviceId, PluggedVbd] = {}
    vifs: dict[DeviceId, PluggedVif] = {}
    pcis: list[DeviceId] = []

    @property
    def memory_held(self) -> int:
        """Bytes that nobody else can have: a guest may not have let go of all that it should."""
        return max(self.memory_target, self.memory_actual)


class HostCalls(Protocol):
    """The machine."""

    def boot_id(self) -> str:
        """Another one after each start of the host: then no domain of before is left."""

    def stat(self) -> HostStat:
        """The machine; `memory_free` is filled in by the daemon."""

    def console_data(self) -> str:
        """The hypervisor's log. Raises Unimplemented."""

    def domains(self) -> list[Domain]:
        """Every domain that exists, ours or not. Raises HypervisorError when it cannot be told."""

    def domain(self, vm: VmId) -> Domain | None:
        """The domain that bears our mark for this VM, None when there is none.

        None is proof, not absence from a list: no process, no dying domain.
        """

    def leftovers(self, vm: VmId) -> list[str]:
        """What bears the VM's mark though it has no domain (layers of dead incarnations,
        interfaces, attachments): cleared by `vm.destroy`."""

    def metrics(self, vm: VmId) -> VmMetrics:
        """Counters of a running VM."""


class VmCalls(Protocol):
    """Micro-ops on a domain. `vm` is the configuration to use."""

    def accepts(self, vm: Vm) -> None:
        """Whether this backend can run such a VM. Raises Unimplemented or InvalidParameter."""

    def create(self, call: Call, vm: Vm, memory: int) -> None:
        """Make an empty, paused domain with `memory` bytes as its target."""

    def build(self, call: Call, vm: Vm, vbds: Sequence[Vbd], vifs: Sequence[Vif]) -> None:
        """Fill it with memory and kernel."""

    def create_device_model(self, call: Call, vm: Vm) -> None:
        """Start the device model where the guest needs one, else nothing."""

    def destroy_device_model(self, call: Call, vm: Vm) -> None:
        """Stop it; nothing when there is none."""

    def destroy(self, call: Call, vm: Vm) -> Waiting | None:
        """Remove the domain and every leftover of the VM's dead incarnations.

        Nothing when there is none. Layers that persist and suspend images stay."""

    def pause(self, call: Call, vm: Vm) -> None:
        """Stop the vCPUs. Raises DomainNotBuilt; DoesNotExist without a domain."""

    def unpause(self, call: Call, vm: Vm) -> None:
        """Let the vCPUs run. Raises DomainNotBuilt; DoesNotExist without a domain."""

    def request_shutdown(
        self, call: Call, vm: Vm, reason: Literal["poweroff", "reboot"]
    ) -> Waiting | None:
        """Ask the guest to stop; done when it has acknowledged (or cannot)."""

    def await_shutdown(self, call: Call, vm: Vm) -> Waiting | None:
        """Done when the domain runs no more."""

    def save(self, call: Call, vm: Vm, image: Path) -> None:
        """Stop the guest and write it to the image, complete and fsynced when this returns.

        The domain then runs no more (`stopped` is "suspend") but exists. Raises
        FailedToSuspend. Refuses to overwrite what is no image (ImageInvalid).
        """

    def resume_saved(self, call: Call, vm: Vm) -> None:
        """Undo `save`: the stopped domain runs on where it was; the image is no longer true."""

    def check_image(self, call: Call, vm: Vm, image: Path) -> None:
        """Raises ImageInvalid unless it is this VM's, complete and undamaged."""

    def drop_image(self, call: Call, vm: Vm, image: Path) -> None:
        """Remove an image, and what a save that was cut left of it; nothing when there is none.

        What is no image is let be.
        """

    def restore(self, call: Call, vm: Vm, image: Path) -> None:
        """Fill a created domain from the image; it stays paused."""

    def coredump(self, call: Call, vm: Vm, path: Path) -> None:
        """Write what is left of a crashed guest there, whole or not at all; replaces an older
        one."""

    def set_vcpus(self, call: Call, vm: Vm, vcpus: int) -> None:
        """Change the number of vCPUs online."""

    def set_memory(self, call: Call, vm: Vm, target: int) -> None:
        """Set the balloon target, in bytes."""

    def set_xsdata(self, call: Call, vm: Vm, xsdata: Mapping[str, str]) -> None:
        """Replace the guest-visible pairs."""

    def adopt(self, call: Call, vm: Vm, domain: str) -> None:
        """Have the domain with this id bear our mark for this VM, and the call's incarnation
        (its own where it has one). Its devices are the VM's of the same names. It runs on.

        Raises DoesNotExist without such a domain, AlreadyExists where the VM has another one,
        Unimplemented.
        """

    def remove(self, call: Call, vm: VmId, vbds: Sequence[Vbd] | None) -> None:
        """Drop every layer of these VBDs, which are in no domain (None: of whatever VBD of the
        VM); with the VM halted, also what else is kept of it. Nothing where there is none."""

    def hand_over(self, call: Call, vm: VmId, parcel: Path) -> None:
        """Move every layer of a VM without a domain into the directory `parcel`, for another
        instance with this backend; what else is kept of the VM goes."""

    def take_over(self, call: Call, vm: VmId, parcel: Path) -> None:
        """Move what is in a parcel to its place, and remove the parcel; what was there goes.
        Nothing where there is no parcel."""


class VbdCalls(Protocol):
    """Micro-ops on a VBD of a domain."""

    def plug(self, call: Call, vm: Vm, vbd: Vbd) -> Waiting | None:
        """Attach, activate and connect; what takes minutes (unpacking) is waited for."""

    def unplug(self, call: Call, vm: Vm, vbd: Vbd, *, force: bool) -> Waiting | None:
        """Disconnect, deactivate, detach; done once it was seen gone; nothing if it is not there.

        Raises DeviceDetachRejected at once from a guest that is paused or not up yet.
        """

    def insert(self, call: Call, vm: Vm, vbd: Vbd, medium: Disk) -> Waiting | None:
        """Put a medium into the drive."""

    def eject(self, call: Call, vm: Vm, vbd: Vbd) -> None:
        """Take it out."""


class VifCalls(Protocol):
    """Micro-ops on a VIF of a domain."""

    def plug(self, call: Call, vm: Vm, vif: Vif) -> None:
        """Make the interface, put it on its bridge, connect; locking holds before it passes."""

    def unplug(self, call: Call, vm: Vm, vif: Vif, *, force: bool) -> Waiting | None:
        """As for a VBD."""

    def configure(self, call: Call, vm: Vm, vif: Vif, field: str) -> None:
        """Make a plugged VIF's `field` (backend, carrier, locking_mode, ipv4, ipv6, rate) be
        what the given configuration says."""


class PciCalls(Protocol):
    """Micro-ops on a passed-through device of a domain."""

    def plug(self, call: Call, vm: Vm, pci: Pci) -> None:
        """Bind and assign."""

    def unplug(self, call: Call, vm: Vm, pci: Pci, *, force: bool) -> Waiting | None:
        """As for a VBD."""


class Backend(Protocol):
    """A hypervisor, opened for one instance."""

    @property
    def name(self) -> str:
        """As in `--backend`."""

    @property
    def features(self) -> frozenset[str]:
        """What it can do: a subset of `idl.host.FEATURES`."""

    @property
    def lacking(self) -> Mapping[str, str]:
        """Features that it has on other hosts and not on this one, and why."""

    @property
    def host(self) -> HostCalls: ...
    @property
    def vm(self) -> VmCalls: ...
    @property
    def vbd(self) -> VbdCalls: ...
    @property
    def vif(self) -> VifCalls: ...
    @property
    def pci(self) -> PciCalls: ...

    def watch(self, needs_attention: Callable[[VmId], None]) -> None:
        """From now on tell of VMs that need to be looked at, from any thread, never blocking."""

    def interrupt(self, vm: VmId) -> None:
        """Break the call under way for this VM, from another thread: it raises soon."""

    def kill(self, vm: VmId) -> None:
        """Kill the VM's domain out of band; safe beside any call, and when there is none."""

    def debug(self, cmd: str, args: Sequence[str]) -> None:
        """DEBUG.trigger. Raises Unimplemented, InvalidParameter."""

    def close(self) -> None:
        """Let go of the hypervisor; every domain stays as it is."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a backend is opened with. `options` is its section of the configuration, of the
    plugin's `options` type; beneath the directories `disks` and `kernels` alone may lie what
    clients name."""

    instance: str
    state_dir: Path
    run_dir: Path
    options: Any
    disks: Sequence[Path] = ()
    kernels: Sequence[Path] = ()


@dataclass(frozen=True, slots=True)
class Available:
    """The backend can run here; the highest rank is the default."""

    rank: int


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The backend cannot run here, and why."""

    reason: str


class Plugin(Protocol):
    """What an entry point of the group `xenopsd.backends` names."""

    @property
    def options(self) -> type[Struct]:
        """The keys of its section in the configuration file, each with a default."""

    def probe(self) -> Available | Unavailable:
        """Whether it can run on this machine; quick, and without an effect."""

    def open(self, settings: Settings) -> Backend:
        """Open it. Raises HypervisorError."""
