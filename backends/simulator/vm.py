"""Micro-ops on simulated domains."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from backends.interface import Call, Waiting
from backends.simulator import guest
from backends.simulator import image as images
from backends.simulator.machine import MicroOps, micro_op
from backends.simulator.record import Record
from idl.errors import (
    AlreadyExists,
    BadPowerState,
    DoesNotExist,
    DomainNotBuilt,
    ImageInvalid,
    InvalidParameter,
    InvalidVcpus,
)
from idl.ids import VmId
from idl.vbd import Vbd
from idl.vif import Vif
from idl.vm import Vm

#: How long a guest gets to acknowledge, in seconds; to stop, it gets what the caller gives it.
ACKNOWLEDGE = 60.0
STOP = 86400.0


class VmOps(MicroOps):
    """`backends.interface.VmCalls`."""

    def accepts(self, vm: Vm) -> None:
        """Every type of guest is as simulated as the other."""

    @micro_op
    def create(self, call: Call, vm: Vm, memory: int) -> None:
        machine = self.machine
        with machine.world.hold(vm.id, make=True) as held:
            found = held.record
            if found is None:
                record = guest.created(
                    vm,
                    id=machine.world.allot_domain_id(),
                    instance=machine.instance,
                    incarnation=call.incarnation,
                    memory=memory,
                    now=machine.now(),
                )
                held.write(record)
            elif not machine.bears_our_mark(found, vm.id) or found.incarnation != call.incarnation:
                raise AlreadyExists(kind="domain", id=found.id)

    @micro_op
    def adopt(self, call: Call, vm: Vm, domain: str) -> None:
        machine = self.machine
        places = {place for place, record in machine.world.places() if record.id == domain}
        with ExitStack() as stack:
            # In order: two adoptions that cross do not wait for each other.
            held = {
                place: stack.enter_context(machine.world.hold(place, make=place == vm.id))
                for place in sorted({*places, vm.id})
            }
            here, there = held.pop(vm.id), list(held.values())
            found = here.record or next((other.record for other in there if other.record), None)
            if found is None:
                raise DoesNotExist(kind="domain", id=domain)
            if found.id != domain:
                raise AlreadyExists(kind="domain", id=found.id)
            record = guest.adopted(
                found, vm.id, instance=machine.instance, incarnation=call.incarnation
            )
            self._enter(record, call.incarnation)
            here.write(record)
            # Cut here the domain stands in two places; repeated, it leaves the elder one.
            for other in there:
                other.write(None)

    def _enter(self, record: Record, incarnation: str) -> None:
        """Note every device of an adopted domain as plugged."""
        for id in record.vbds:
            self.machine.ledger.enter("vbd", id, incarnation)
        for id in record.vifs:
            self.machine.ledger.enter("vif", id, incarnation)
        for id in record.pcis:
            self.machine.ledger.enter("pci", id, incarnation)

    @micro_op
    def build(
        self,
        call: Call,
        vm: Vm,
        vbds: Sequence[Vbd],
        vifs: Sequence[Vif],
    ) -> None:
        def edit(record: Record) -> Record:
            guest.require_live(record, vm.id)
            if record.built:
                return record
            for vbd in vbds:
                if not vbd.persistent:
                    self.machine.layers.drop_suspended(vbd)
            return guest.built(record, vm)

        self.machine.change(call, vm.id, edit)

    @micro_op
    def create_device_model(self, call: Call, vm: Vm) -> None:
        def edit(record: Record) -> Record:
            if not record.built:
                raise DomainNotBuilt(id=vm.id)
            if record.device_model or record.guest != "hvm":
                return record
            return replace(record, device_model=True)

        self.machine.change(call, vm.id, edit)

    @micro_op
    def destroy_device_model(self, call: Call, vm: Vm) -> None:
        def edit(record: Record) -> Record:
            return replace(record, device_model=False) if record.device_model else record

        self.machine.change_if_any(call, vm.id, edit)

    @micro_op
    def destroy(self, call: Call, vm: Vm) -> Waiting | None:
        # The domain first: cut here, what is left has no domain and shows as leftovers.
        self.machine.drop(vm.id)
        self.machine.ledger.clear(vm.id)
        self.machine.layers.drop_incarnations(vm.id)
        return None

    @micro_op
    def pause(self, call: Call, vm: Vm) -> None:
        def edit(record: Record) -> Record:
            guest.require_live(record, vm.id)
            if not record.built:
                raise DomainNotBuilt(id=vm.id)
            return record if record.paused else guest.paused(record, self.machine.now())

        self.machine.change(call, vm.id, edit)

    @micro_op
    def unpause(self, call: Call, vm: Vm) -> None:
        def edit(record: Record) -> Record:
            _require_ready(record, vm)
            if record.restored:
                # Before the record: cut in between, the repetition finds them moved.
                for layer in _layers(record):
                    self.machine.layers.resume(vm.id, layer)
            return guest.unpaused(record, self.machine.now())

        self.machine.change(call, vm.id, edit)

    @micro_op
    def request_shutdown(
        self, call: Call, vm: Vm, reason: Literal["poweroff", "reboot"]
    ) -> Waiting | None:
        def edit(record: Record) -> Record:
            if not record.built or record.stopped is not None:
                return record
            return guest.asked(record, reason, self.machine.now())

        asked = self.machine.change_if_any(call, vm.id, edit)
        if asked is None:
            return None
        if _may_stop(asked):
            return Waiting(what=f"the guest to acknowledge {reason}", timeout=ACKNOWLEDGE)
        self.machine.tell(vm.id)
        return None

    @micro_op
    def await_shutdown(self, call: Call, vm: Vm) -> Waiting | None:
        found = self.machine.domain(vm.id)
        if found is None or found.incarnation != call.incarnation or not _may_stop(found):
            return None
        return Waiting(what="the guest to stop", timeout=STOP)

    @micro_op
    def save(self, call: Call, vm: Vm, image: Path) -> None:
        stopped = self._stop_to_save(call, vm, image)
        try:
            # Before the image: once that is complete, no destroy may find them.
            for layer in _layers(stopped):
                self.machine.layers.suspend(vm.id, layer)
            call.progress(0.5)
            images.write(image, stopped)
        except BaseException:
            self._run_on(call, vm)
            raise

    def _stop_to_save(self, call: Call, vm: Vm, image: Path) -> Record:
        def edit(record: Record) -> Record:
            if record.stopped == "suspend":
                return record
            _require_ready(record, vm)
            return guest.stopped(record, "suspend", self.machine.now())

        images.require_writable(image)
        return self.machine.change(call, vm.id, edit)

    @micro_op
    def resume_saved(self, call: Call, vm: Vm) -> None:
        self._run_on(call, vm)

    def _run_on(self, call: Call, vm: Vm) -> None:
        def edit(record: Record) -> Record:
            if record.stopped != "suspend":
                return record
            for layer in _layers(record):
                self.machine.layers.resume(vm.id, layer)
            return guest.resumed(record, self.machine.now())

        self.machine.change(call, vm.id, edit)

    @micro_op
    def check_image(self, call: Call, vm: Vm, image: Path) -> None:
        _image_of(vm, image)

    @micro_op
    def drop_image(self, call: Call, vm: Vm, image: Path) -> None:
        images.drop(image)

    @micro_op
    def restore(self, call: Call, vm: Vm, image: Path) -> None:
        saved = _image_of(vm, image)

        def edit(record: Record) -> Record:
            guest.require_live(record, vm.id)
            if record.built and not record.restored:
                actual = "paused" if record.paused else "running"
                raise BadPowerState(id=vm.id, actual=actual, expected=["halted"])
            return record if record.restored else guest.restored(record, saved)

        self.machine.change(call, vm.id, edit)

    @micro_op
    def coredump(self, call: Call, vm: Vm, path: Path) -> None:
        found = self.machine.domain(vm.id)
        if found is None or found.incarnation != call.incarnation:
            raise DoesNotExist(kind="domain", id=vm.id)
        images.dump(path, found)

    @micro_op
    def set_vcpus(self, call: Call, vm: Vm, vcpus: int) -> None:
        def edit(record: Record) -> Record:
            _require_ready(record, vm)
            if not 1 <= vcpus <= vm.vcpu_max:
                raise InvalidVcpus(requested=vcpus, maximum=vm.vcpu_max)
            return replace(record, vcpus=vcpus)

        self.machine.change(call, vm.id, edit)

    @micro_op
    def set_memory(self, call: Call, vm: Vm, target: int) -> None:
        def edit(record: Record) -> Record:
            guest.require_live(record, vm.id)
            if not 1 <= target <= record.memory_limit:
                reason = f"{target} bytes are not within 1 to {record.memory_limit}"
                raise InvalidParameter(name="target", reason=reason)
            return guest.ballooned(record, target)

        self.machine.change(call, vm.id, edit)

    @micro_op
    def set_xsdata(self, call: Call, vm: Vm, xsdata: Mapping[str, str]) -> None:
        def edit(record: Record) -> Record:
            return replace(record, xsdata=dict(xsdata))

        self.machine.change(call, vm.id, edit)

    @micro_op
    def remove(self, call: Call, vm: VmId, vbds: Sequence[Vbd] | None) -> None:
        machine = self.machine
        if vbds is None:
            machine.layers.drop_all(vm)
        for vbd in vbds or ():
            machine.layers.drop(vbd.id)
        with machine.world.hold(vm) as held:
            if held.record is None:
                held.unlink()
                machine.ledger.forget(vm)

    @micro_op
    def hand_over(self, call: Call, vm: VmId, parcel: Path) -> None:
        machine = self.machine
        with machine.world.hold(vm) as held:
            if held.record is not None:
                raise AlreadyExists(kind="domain", id=held.record.id)
            machine.layers.pack(vm, parcel, timeout=call.deadline - time.monotonic())
            held.unlink()
            machine.ledger.forget(vm)

    @micro_op
    def take_over(self, call: Call, vm: VmId, parcel: Path) -> None:
        self.machine.layers.unpack(vm, parcel, timeout=call.deadline - time.monotonic())


def _image_of(vm: Vm, image: Path) -> Record:
    saved = images.read(image)
    if saved.vm != vm.id:
        raise ImageInvalid(path=str(image), reason=f"it is of VM {saved.vm}")
    return saved


def _require_ready(record: Record, vm: Vm) -> None:
    guest.require_live(record, vm.id)
    if not record.built or (record.guest == "hvm" and not record.device_model):
        raise DomainNotBuilt(id=vm.id)


def _may_stop(record: Record) -> bool:
    return record.built and record.stopped is None


def _layers(record: Record) -> list[str]:
    return [vbd.layer for vbd in record.vbds.values() if vbd.layer is not None]
