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
        pcis=[_pci(vm)],
    )


def _pci(vm: str) -> Pci:
    number = int(vm.rpartition("-")[2])
    return Pci(id=f"{vm}/card", address=f"0000:00:{number % 32:02x}.0")


def _add(client: Client, vm: str, dice: Random) -> None:
    client.vm.import_metadata(metadata(vm, dice))


def _add_again(client: Client, vm: str, dice: Random) -> None:
    """The VM without its devices' records, or its configuration put in the place of another."""
    client.vm.add(metadata(vm, dice).vm, replace=dice.random() < 0.8)


def _remove(client: Client, vm: str, _dice: Random) -> None:
    client.run(client.vm.shutdown(vm), 30)
    client.vm.remove(vm)


def _remove_and_import(client: Client, vm: str, dice: Random) -> None:
    """Gone with all it had, suspend image and layers too, and back from what was exported."""
    kept = client.vm.export_metadata(vm)
    if dice.random() < 0.5:
        client.run(client.vm.shutdown(vm), 30)
    client.vm.remove(vm, keep_layers=dice.random() < 0.2)
    client.vm.import_metadata(kept)


def _copy(client: Client, vm: str, _dice: Random) -> None:
    client.vm.import_metadata(client.vm.export_metadata(vm))


def _forget(client: Client, vm: str, _dice: Random) -> None:
    client.run(client.vm.forget(vm), 30)


def _forget_and_adopt(client: Client, vm: str, dice: Random) -> str | None:
    """Its record goes and comes back; its domain runs on, and is taken again or left in doubt."""
    kept = client.vm.export_metadata(vm)
    client.run(client.vm.forget(vm), 30)
    client.vm.import_metadata(kept if dice.random() < 0.5 else metadata(vm, dice))
    domains = client.vm.stat(vm).state.domain_ids
    return client.vm.adopt(vm, domains[0]) if domains and dice.random() < 0.8 else None


def _adopt_foreign(client: Client, vm: str, dice: Random) -> str | None:
    """Any domain that nobody has a record of, which mostly is another VM's."""
    foreign = client.host.list_foreign()
    return client.vm.adopt(vm, dice.choice(foreign).id) if foreign else None


def _set(client: Client, vm: str, dice: Random) -> None:
    client.vm.set(vm, {"name": f"name {dice.randrange(100)}", "vcpus": dice.randint(1, 4)})


def _set_memory(client: Client, vm: str, dice: Random) -> str:
    """Now and then more than the VM may have, or upside down."""
    low, high = (dice.randint(8, 80) * MIB for _ in range(2))
    return client.vm.set_memory_dynamic_range(vm, low, high)


def _set_static(client: Client, vm: str, dice: Random) -> None:
    """Of a running VM it waits for the next start."""
    least, most, static = sorted(dice.randint(8, 80) * MIB for _ in range(3))
    changes = {
        "memory_dynamic_min": least,
        "memory_dynamic_max": most,
        "memory_static_max": static,
        "vcpu_max": dice.randint(1, 6),
    }
    kept = dice.choice([{"vcpus": 1}, {}])
    client.vm.set(vm, {**changes, **kept})


def _read(client: Client, vm: str, _dice: Random) -> None:
    client.vm.metrics(vm)
    client.host.get_diagnostics()
    client.host.get_worker_pool()


def _piece(client: Client, vm: str, dice: Random) -> str:
    """One of the single steps, whether it is its turn or not."""
    calls = (client.vm.create, client.vm.build, client.vm.create_device_model, client.vm.destroy)
    return dice.choice(calls)(vm)


def _plug(client: Client, vm: str, dice: Random) -> str:
    kinds = {"scratch": client.vbd, "extra": client.vbd, "nic1": client.vif, "card": client.pci}
    name, kind = dice.choice(list(kinds.items()))
    if dice.random() < 0.5:
        return kind.plug(f"{vm}/{name}")
    return kind.unplug(f"{vm}/{name}", force=dice.random() < 0.2)


def _extra_disk(client: Client, vm: str, dice: Random) -> None:
    if dice.random() < 0.5:
        overlay = dice.random() < 0.5
        disk = Local(path=f"/images/{vm}-extra", overlay=overlay)
        client.vbd.add(Vbd(id=f"{vm}/extra", backend=disk))
    else:
        client.vbd.remove(f"{vm}/extra")


def _extra_nic(client: Client, vm: str, dice: Random) -> None:
    if dice.random() < 0.5:
        client.vif.add(Vif(id=f"{vm}/nic2", backend=Bridge(name="xenbr1")))
    else:
        client.vif.remove(f"{vm}/nic{dice.choice([1, 2])}")


def _card(client: Client, vm: str, dice: Random) -> None:
    if dice.random() < 0.7:
        client.pci.add(_pci(vm))
    else:
        client.pci.remove(f"{vm}/card")


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


def _cancel_at_point(client: Client, vm: str, dice: Random) -> str:
    """Turned round between two steps of a start or a reboot."""
    client.debug.trigger("set-cancel-trigger", [vm, str(dice.randint(1, 9))])
    return dice.choice([client.vm.start, client.vm.reboot])(vm, debug_info=vm)


def _announce(client: Client, vm: str, dice: Random) -> None:
    client.updates.refresh_vm(vm)
    barrier = dice.randrange(10**6)
    client.updates.inject_barrier(vm, barrier)
    client.updates.remove_barrier(barrier)


def _destroy_task(client: Client, vm: str, dice: Random) -> None:
    task = client.vm.delay(vm, 0.0)
    client.task.wait(task, dice.random())
    client.task.destroy(task)


#: Each step by its name, with how often it is taken.
STEPS: dict[str, tuple[int, Step]] = {
    "add": (8, _add),
    "add again": (1, _add_again),
    "remove": (2, _remove),
    "remove and import": (2, _remove_and_import),
    "export and import": (2, _copy),
    "forget": (1, _forget),
    "forget and adopt": (2, _forget_and_adopt),
    "adopt foreign": (2, _adopt_foreign),
    "set": (4, _set),
    "set static memory": (2, _set_static),
    "start": (14, lambda c, vm, dice: c.vm.start(vm, paused=dice.random() < 0.2)),
    "shutdown": (3, lambda c, vm, dice: c.vm.shutdown(vm)),
    "shutdown clean": (4, lambda c, vm, dice: c.vm.shutdown(vm, 0.5, dice.random() < 0.5)),
    "reboot": (4, lambda c, vm, dice: c.vm.reboot(vm, 0.5, dice.random() < 0.5)),
    "suspend": (5, lambda c, vm, dice: c.vm.suspend(vm)),
    "resume": (5, lambda c, vm, dice: c.vm.resume(vm, paused=dice.random() < 0.2)),
    "pause": (3, lambda c, vm, dice: c.vm.pause(vm)),
    "unpause": (5, lambda c, vm, dice: c.vm.unpause(vm)),
    "single step": (3, _piece),
    "set vcpus": (3, lambda c, vm, dice: c.vm.set_vcpus(vm, dice.randint(1, 5))),
    "set memory": (4, _set_memory),
    "set xsdata": (2, lambda c, vm, dice: c.vm.set_xsdata(vm, {"n": str(dice.random())})),
    "delay": (1, lambda c, vm, dice: c.vm.delay(vm, dice.random() / 5)),
    "plug": (9, _plug),
    "extra disk": (2, _extra_disk),
    "extra nic": (2, _extra_nic),
    "card": (2, _card),
    "disc": (2, _disc),
    "configure nic": (4, _configure),
    "cancel": (4, _cancel),
    "cancel at a point": (2, _cancel_at_point),
    "read": (2, _read),
    "announce": (1, _announce),
    "destroy task": (1, _destroy_task),
}
