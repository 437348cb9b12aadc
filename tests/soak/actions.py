"""What a toolstack does to a VM: each takes a client, a VM's id and the dice.

Any of them may be refused, and most are now and then: what counts is that nothing breaks.
"""

from collections.abc import Callable
from random import Random
from typing import TypeAlias

from idl.client import Client
from idl.metadata import Metadata
from idl.pci import Pci
from idl.vbd import Local, Vbd
from idl.vif import Bridge, IpConfiguration, Rate, Vif
from idl.vm import Action, Vm

MIB = 2**20
#: Answers a task's id, or None where the call is no operation.
Step: TypeAlias = Callable[[Client, str, Random], str | None]


def metadata(vm: str, dice: Random) -> Metadata:
    """A VM with a disk, one that each start resets, a drive, two interfaces and a PCI device."""
    number = int(vm.rpartition("-")[2])
    disks = (
        Vbd(id=f"{vm}/root", backend=Local(path=f"/images/{vm}")),
        Vbd(id=f"{vm}/scratch", backend=Local(path="/images/base"), persistent=False),
        Vbd(id=f"{vm}/drive", type="cdrom", mode="ro"),
    )
    return Metadata(
        vm=Vm(
            id=vm,
            memory_static_max=64 * MIB,
            memory_dynamic_min=32 * MIB,
            vcpu_max=4,
            on_crash=[dice.choice([Action.SHUTDOWN, Action.START])],
        ),
        vbds=list(disks),
        vifs=[Vif(id=f"{vm}/nic{n}", backend=Bridge(name="xenbr0")) for n in range(2)],
        pcis=[Pci(id=f"{vm}/card", address=f"0000:00:{number % 32:02x}.0")],
    )


def _add(client: Client, vm: str, dice: Random) -> None:
    client.vm.import_metadata(metadata(vm, dice))


def _remove(client: Client, vm: str, _dice: Random) -> None:
    client.run(client.vm.shutdown(vm), 30)
    client.vm.remove(vm)


def _copy(client: Client, vm: str, _dice: Random) -> None:
    client.vm.import_metadata(client.vm.export_metadata(vm))


def _set(client: Client, vm: str, dice: Random) -> None:
    client.vm.set(vm, {"name": f"name {dice.randrange(100)}", "vcpus": dice.randint(1, 4)})


def _set_memory(client: Client, vm: str, dice: Random) -> str:
    """Now and then more than the VM may have, or upside down."""
    low, high = (dice.randint(8, 80) * MIB for _ in range(2))
    return client.vm.set_memory_dynamic_range(vm, low, high)


def _forget_and_adopt(client: Client, vm: str, dice: Random) -> str | None:
    """Its record goes and comes back; its domain runs on, and is taken again or left in doubt."""
    kept = client.vm.export_metadata(vm)
    client.run(client.vm.forget(vm), 30)
    client.vm.import_metadata(kept)
    domains = client.vm.stat(vm).state.domain_ids
    return client.vm.adopt(vm, domains[0]) if domains and dice.random() < 0.8 else None


def _metrics(client: Client, vm: str, _dice: Random) -> None:
    client.vm.metrics(vm)
    client.host.list_foreign()


def _plug_disk(client: Client, vm: str, dice: Random) -> str:
    turn = dice.choice([client.vbd.plug, client.vbd.unplug])
    return turn(f"{vm}/scratch")


def _plug_nic(client: Client, vm: str, dice: Random) -> str:
    turn = dice.choice([client.vif.plug, client.vif.unplug])
    return turn(f"{vm}/nic1")


def _extra_disk(client: Client, vm: str, dice: Random) -> None:
    if dice.random() < 0.5:
        client.vbd.add(Vbd(id=f"{vm}/extra", backend=Local(path=f"/images/{vm}-extra")))
    else:
        client.vbd.remove(f"{vm}/extra")


def _disc(client: Client, vm: str, dice: Random) -> str:
    if dice.random() < 0.5:
        return client.vbd.insert(f"{vm}/drive", Local(path="/images/disc"))
    return client.vbd.eject(f"{vm}/drive")


def _configure(client: Client, vm: str, dice: Random) -> str:
    nic = f"{vm}/nic0"
    match dice.randrange(4):
        case 0:
            return client.vif.move(nic, Bridge(name=f"xenbr{dice.randrange(3)}"))
        case 1:
            return client.vif.set_carrier(nic, dice.random() < 0.5)
        case 2:
            return client.vif.set_rate(nic, Rate(kbps=dice.randint(1, 10_000)))
        case _:
            return client.vif.set_ipv4_configuration(nic, IpConfiguration(type="dhcp"))


def _cancel(client: Client, vm: str, dice: Random) -> None:
    operation = client.vm.stat(vm).state.operation
    if operation and operation.task and dice.random() < 0.7:
        client.task.cancel(operation.task)


#: Each step by its name, with how often it is taken.
STEPS: dict[str, tuple[int, Step]] = {
    "add": (8, _add),
    "remove": (2, _remove),
    "export and import": (2, _copy),
    "set": (4, _set),
    "start": (14, lambda c, vm, dice: c.vm.start(vm, paused=dice.random() < 0.2)),
    "shutdown": (3, lambda c, vm, dice: c.vm.shutdown(vm)),
    "shutdown clean": (4, lambda c, vm, dice: c.vm.shutdown(vm, 0.5, dice.random() < 0.5)),
    "reboot": (4, lambda c, vm, dice: c.vm.reboot(vm, 0.5, dice.random() < 0.5)),
    "suspend": (5, lambda c, vm, dice: c.vm.suspend(vm)),
    "resume": (5, lambda c, vm, dice: c.vm.resume(vm)),
    "pause": (3, lambda c, vm, dice: c.vm.pause(vm)),
    "unpause": (5, lambda c, vm, dice: c.vm.unpause(vm)),
    "set vcpus": (2, lambda c, vm, dice: c.vm.set_vcpus(vm, dice.randint(1, 5))),
    "set memory": (3, _set_memory),
    "forget and adopt": (2, _forget_and_adopt),
    "metrics and foreign": (2, _metrics),
    "set xsdata": (2, lambda c, vm, dice: c.vm.set_xsdata(vm, {"n": str(dice.random())})),
    "delay": (1, lambda c, vm, dice: c.vm.delay(vm, dice.random() / 5)),
    "plug disk": (4, _plug_disk),
    "plug nic": (4, _plug_nic),
    "extra disk": (2, _extra_disk),
    "disc": (2, _disc),
    "configure nic": (4, _configure),
    "cancel": (4, _cancel),
}
