"""Guests for the simulator: nothing is needed for them."""

from pathlib import Path
from typing import Literal

from backends.interface import Backend, Settings
from backends.simulator.plugin import Options
from idl.pci import Pci
from idl.vbd import Disk, Local, Vbd
from idl.vif import Bridge, Vif
from idl.vm import Container, Guest, Hvm, Pv, Pvh, Vm

GUESTS: dict[str, Guest] = {
    "hvm": Hvm(),
    "pv": Pv(kernel="/boot/vmlinuz"),
    "pvh": Pvh(kernel="/boot/vmlinuz"),
    "container": Container(),
}


class Guests:
    """What the suite needs to know of a backend beside its interface."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def close(self) -> None:
        """Nothing is left of them."""

    def settings(self, instance: str) -> Settings:
        """For an instance of the one host that the suite runs on."""
        state = self._directory / instance
        options = Options(world=str(self._directory / "world"))
        return Settings(instance=instance, state_dir=state, run_dir=state, options=options)

    def guest_type(self) -> str:
        """The one that most tests use."""
        return "hvm"

    def vm(self, id: str, guest: str) -> Vm:
        """A VM with two vCPUs at most, whose guest boots and obeys."""
        return Vm(id=id, guest=GUESTS[guest], vcpu_max=2, memory_static_max=2**28)

    def boot(self, vm: Vm) -> list[Vbd]:
        """The VBDs without which it does not boot."""
        return []

    def disk(self, vm: Vm, name: str, position: int) -> Vbd:
        """A disk of its own."""
        path = f"/images/{vm.id}-{name}"
        return Vbd(id=f"{vm.id}/{name}", position=position, backend=Local(path=path))

    def volatile(self, vm: Vm, name: str, position: int) -> Vbd:
        """A disk that is thrown away at each start."""
        return Vbd(
            id=f"{vm.id}/{name}",
            position=position,
            backend=Local(path="/images/base", overlay=True),
            persistent=False,
        )

    def layered(self, vm: Vm, name: str, position: int) -> Vbd:
        """A disk over a shared base, whose writes persist."""
        base = Local(path="/images/base", overlay=True)
        return Vbd(id=f"{vm.id}/{name}", position=position, backend=base)

    def drive(self, vm: Vm, name: str, position: int) -> Vbd:
        """A CD drive with a medium in it."""
        disk = self.medium("one")
        return Vbd(id=f"{vm.id}/{name}", position=position, type="cdrom", mode="ro", backend=disk)

    def medium(self, name: str) -> Disk:
        """A CD."""
        return Local(path=f"/images/{name}.iso")

    def vif(self, vm: Vm, name: str, position: int) -> Vif:
        """An interface on a bridge that exists."""
        return Vif(id=f"{vm.id}/{name}", position=position, backend=Bridge(name="xenbr0"))

    def pci(self, vm: Vm, name: str) -> Pci:
        """A device of the host that may be given away."""
        return Pci(id=f"{vm.id}/{name}", address="0000:00:1f.6")

    def up(self, backend: Backend, vm: Vm) -> bool:
        """Whether the guest has booted so far that it lets go of devices."""
        domain = backend.host.domain(vm.id)
        return domain is not None and domain.vcpu_seconds > 0

    def act(
        self, backend: Backend, vm: Vm, reason: Literal["poweroff", "reboot", "crash"]
    ) -> None:
        """Let the guest stop by itself."""
        backend.debug({"poweroff": "halt"}.get(reason, reason), [vm.id])
