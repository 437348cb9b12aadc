"""Micro-ops on the disks of containers."""

from pathlib import PurePosixPath

from msgspec.structs import replace

from backends import positions
from backends.interface import Call, Waiting
from backends.lxc import metering
from backends.lxc.machine import MicroOps, micro_op
from backends.lxc.record import ContainerVbd, Life, Record, stopped
from idl.errors import (
    DeviceDetachRejected,
    DeviceNotConnected,
    MediaNotEjectable,
    StorageError,
)
from idl.ids import DeviceId, name_of
from idl.vbd import Disk, Vbd
from idl.vm import Vm

#: Where a container sees a disk that says nothing about it: beneath this, by its name.
DEFAULT = PurePosixPath("/mnt")


class VbdOps(MicroOps):
    """`backends.interface.VbdCalls`."""

    @micro_op
    def plug(self, call: Call, vm: Vm, vbd: Vbd) -> Waiting | None:
        record, life = self.machine.require_live(call, vm.id)
        taken = {held.position: id for id, held in record.vbds.items()}
        there = record.vbds.get(vbd.id)
        if there is not None:
            position = there.position
        else:
            position = positions.free(taken, vbd.position, kind="vbd")
        waiting = self._connect(call, record, life, vbd, root=position == 0)
        if waiting is not None or there is not None:
            return waiting
        held = ContainerVbd(
            medium=vbd.backend,
            position=position,
            target=target(vbd, position),
            type=vbd.type,
            unpluggable=vbd.unpluggable,
            config=vbd,
            device=self._device(record, vbd),
        )
        self._put(call, vm, vbd.id, held)
        if life.populated:
            group = self.machine.group(record)
            metering.meter(group, [*record.vbds.values(), held])
        return None

    def _device(self, record: Record, vbd: Vbd) -> str | None:
        """The disk that it lies on: with a layer, the layer's."""
        if vbd.backend is None:
            return None
        layer = self.machine.storage.layers.path(vbd, record.incarnation)
        at = self.machine.place(record).disk(vbd.id)
        return metering.device(layer if layer.exists() else at)

    @micro_op
    def unplug(self, call: Call, vm: Vm, vbd: Vbd, *, force: bool) -> Waiting | None:
        record = self.machine.record_for(call, vm.id)
        if record is None:
            return None
        held = record.vbds.get(vbd.id)
        if held is not None:
            life = self.machine.life(record)
            runs = stopped(record, life) is None
            if runs and not force:
                _require_removable(life, vbd.id, held)
            if life.populated and held.position != 0:
                self._disconnect(call, record, vbd.id, force=force)
        # Also of one that was plugged half: it is not in the record yet.
        self.machine.storage.release(call, vm.id, self.machine.place(record).disk(vbd.id))
        if held is not None:
            self._put(call, vm, vbd.id, None)
        return None

    @micro_op
    def insert(self, call: Call, vm: Vm, vbd: Vbd, medium: Disk) -> Waiting | None:
        record, life = self.machine.require_live(call, vm.id)
        held = _drive(record, vbd.id)
        if held.medium not in (None, medium):
            self._take_out(call, record, life, vbd.id)
            self._put(call, vm, vbd.id, replace(held, medium=None))
        loaded = replace(vbd, backend=medium)
        waiting = self._connect(call, record, life, loaded, root=held.position == 0)
        if waiting is None:
            self._put(call, vm, vbd.id, replace(held, medium=medium))
        return waiting

    @micro_op
    def eject(self, call: Call, vm: Vm, vbd: Vbd) -> None:
        record, life = self.machine.require_live(call, vm.id)
        held = _drive(record, vbd.id)
        self._take_out(call, record, life, vbd.id)
        self._put(call, vm, vbd.id, replace(held, medium=None))

    def _take_out(self, call: Call, record: Record, life: Life, id: DeviceId) -> None:
        if life.populated:
            self._disconnect(call, record, id, force=False)
        self.machine.storage.release(call, record.vm, self.machine.place(record).disk(id))

    def _connect(
        self, call: Call, record: Record, life: Life, vbd: Vbd, *, root: bool
    ) -> Waiting | None:
        """Mount it on the host, and in the container if that runs. Done already: nothing."""
        if vbd.backend is None:
            return None
        place, storage = self.machine.place(record), self.machine.storage
        at = place.disk(vbd.id)
        found = storage.prepare(
            call,
            vbd,
            at=at,
            user_namespace=None if record.privileged else place.user_namespace,
            first_id=record.first_id,
            running=life.populated,
        )
        if isinstance(found, Waiting):
            return found
        if life.populated and not root:
            try:
                storage.attach(
                    call,
                    record.vm,
                    at=at,
                    init=self.machine.init(record),
                    target=target(vbd, 1),
                )
            except StorageError:
                if vbd.id not in record.vbds:
                    storage.release(call, record.vm, at)
                raise
        return None

    def _disconnect(self, call: Call, record: Record, id: DeviceId, *, force: bool) -> None:
        self.machine.storage.detach(
            call,
            id,
            at=self.machine.place(record).disk(id),
            init=self.machine.init(record),
            force=force,
            spare=[vbd.target for other, vbd in record.vbds.items() if other != id],
        )

    def _put(self, call: Call, vm: Vm, id: DeviceId, held: ContainerVbd | None) -> None:
        def edit(record: Record) -> Record:
            others = {other: vbd for other, vbd in record.vbds.items() if other != id}
            return replace(record, vbds=others if held is None else {**others, id: held})

        self.machine.change(call, vm.id, edit)


def target(vbd: Vbd, position: int) -> str:
    """Where the container sees it."""
    if position == 0:
        return "/"
    return vbd.mount.path if vbd.mount is not None else str(DEFAULT / name_of(vbd.id))


def _drive(record: Record, id: DeviceId) -> ContainerVbd:
    if id not in record.vbds:
        raise DeviceNotConnected(id=id)
    if record.vbds[id].type == "disk":
        raise MediaNotEjectable(id=id)
    return record.vbds[id]


def _require_removable(life: Life, id: DeviceId, held: ContainerVbd) -> None:
    if not held.unpluggable:
        raise DeviceDetachRejected(id=id, reason="it is configured as not unpluggable")
    if not life.populated or life.frozen:
        raise DeviceDetachRejected(id=id, reason="it is paused or not up yet")
    if held.position == 0:
        reason = "it is the root file system of a container that runs; shut it down first"
        raise DeviceDetachRejected(id=id, reason=reason)
