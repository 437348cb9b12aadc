"""Removing a container and everything that its lives have left."""

import shutil
import time

from backends.interface import Call, Waiting
from backends.lxc.machine import Machine, processes_end
from backends.lxc.places import Place
from backends.lxc.record import Record
from idl.ids import VmId


class Clearing:
    """What `vm.destroy` does, and `host.leftovers` lists."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def clear(self, call: Call, vm: VmId) -> Waiting | None:
        """Make a VM's container and every leftover go; Waiting while a process cannot die.

        Processes first, the place last: wherever it is cut, the rest is found again.
        """
        machine, place = self._machine, self._machine.domains.place(vm)
        record = machine.domains.kill(vm)
        if not machine.strike(vm, record, self._patience(call)):
            return processes_end()
        marks = self._marks(vm, record)
        for device in self._devices(marks, call.deadline):
            machine.network.unplug(device, deadline=call.deadline)
        self._unmount(call, vm, place)
        machine.storage.layers.drop_incarnations(vm)
        shutil.rmtree(machine.storage.checkpoints(vm), ignore_errors=True)
        for path in self._groups(vm, record):
            if not machine.cgroups.group(path).remove(self._patience(call)):
                return processes_end()
        for given in (link for mark in marks for link in machine.domains.ranges(mark)):
            given.unlink(missing_ok=True)
        _remove(place)
        return None

    def _unmount(self, call: Call, vm: VmId, place: Place) -> None:
        if not place.path.exists():
            return
        disks = place.path / "disks"
        for at in list(disks.iterdir()) if disks.is_dir() else []:
            self._machine.storage.release(call, vm, at)
        self._machine.spawner.run(
            "release_namespaces",
            owner=vm,
            deadline=call.deadline,
            directory=str(place.user_namespace.parent),
            shown=str(place.xsdata),
        )

    def leftovers(self, vm: VmId, living: Record | None, deadline: float) -> list[str]:
        """What bears the VM's mark, without what is of a domain that lives."""
        machine, names = self._machine, self._machine.names
        every = {names.mark(vm)}
        spared = {living.marked + living.incarnation} if living is not None else set()
        found = [
            *(f"interface {d}" for d in self._devices(every, deadline)),
            *(f"layer {name}" for name in machine.storage.layers.of_incarnations(vm)),
            *(f"ids {link.readlink()}" for link in machine.domains.ranges(*every)),
            *(f"group {name}" for name in machine.cgroups.group(names.group(vm)).children()),
        ]
        if living is not None:
            theirs = {f"interface {d}" for d in self._devices(spared, deadline)}
            return sorted(n for n in found if n not in theirs and living.incarnation not in n)
        if machine.storage.checkpoints(vm).exists():
            found.append(f"checkpoints {machine.storage.checkpoints(vm)}")
        place = machine.domains.place(vm).path
        return sorted([*found, *([f"place {place}"] if place.exists() else [])])

    def _devices(self, marks: set[str], deadline: float) -> list[str]:
        network = self._machine.network
        return [d for mark in marks for d in network.devices(mark, deadline=deadline)]

    def _marks(self, vm: VmId, record: Record | None) -> set[str]:
        ours = {self._machine.names.mark(vm)}
        return ours | ({record.marked} if record is not None else set())

    def _groups(self, vm: VmId, record: Record | None) -> set[str]:
        ours = {self._machine.names.group(vm)}
        return ours | ({record.group} if record is not None else set())

    def _patience(self, call: Call) -> float:
        """Until when what can die has died: there is time left for the rest."""
        return max(time.monotonic() + 0.1, min(time.monotonic() + 5.0, call.deadline - 1.0))


def _remove(place: Place) -> None:
    """Never a whole tree: what is still mounted in it is somebody's disk."""
    for name in ("disks", "ns", "xsdata"):
        directory = place.path / name
        if directory.exists():
            for entry in directory.iterdir():
                entry.rmdir() if name == "disks" else entry.unlink()
            directory.rmdir()
    if place.path.exists():
        for entry in place.path.iterdir():
            entry.unlink()
        place.path.rmdir()
