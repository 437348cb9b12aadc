"""Micro-ops on containers."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
from msgspec.structs import replace

from backends.interface import Call, Waiting
from backends.lxc import acknowledgement, config
from backends.lxc.apart import locks
from backends.lxc.cgroup import MemoryInUse
from backends.lxc.clearing import Clearing
from backends.lxc.layers import LAYERS
from backends.lxc.machine import Machine, MicroOps, micro_op
from backends.lxc.places import Place
from backends.lxc.record import ContainerVbd, Life, Record, stopped
from backends.lxc.starting import Starting
from backends.lxc.suspend import Suspension
from idl.errors import (
    AlreadyExists,
    DoesNotExist,
    DomainNotBuilt,
    HypervisorError,
    InvalidParameter,
    InvalidVcpus,
    Unimplemented,
)
from idl.ids import VmId, name_of
from idl.vbd import Vbd
from idl.vif import Vif
from idl.vm import Container, Vm

#: How long a guest gets to acknowledge, in seconds; to stop, it gets what the caller gives it.
ACKNOWLEDGE = 60.0
STOP = 86400.0

#: How long the console of one that has ended gets to leave what it said, in seconds.
LAST_WORDS = 1.0

#: The file of xsdata within the directory that the guest sees at /dev/xsdata.
XSDATA = "xsdata.json"


class VmOps(MicroOps):
    """`backends.interface.VmCalls`."""

    def __init__(self, machine: Machine, suspension: Suspension) -> None:
        super().__init__(machine)
        self._suspension = suspension
        self._clearing = Clearing(machine)
        self._starting = Starting(machine)

    def accepts(self, vm: Vm) -> None:
        """Containers. Raises Unimplemented, InvalidParameter."""
        if not isinstance(vm.guest, Container):
            kind = type(vm.guest).__name__.lower()
            raise Unimplemented(what=f"guest type {kind}", backend="lxc")
        config.require(vm)

    @micro_op
    def create(self, call: Call, vm: Vm, memory: int) -> None:
        self.accepts(vm)
        machine = self.machine
        found = machine.record(vm.id)
        if found is not None:
            if found.incarnation != call.incarnation:
                raise AlreadyExists(kind="domain", id=found.id)
            return
        mark = machine.names.mark(vm.id, call.incarnation)
        place = machine.domains.place(vm.id)
        if place.path.exists() and place.incarnation != call.incarnation:
            waiting = self._clearing.clear(call, vm.id)
            if waiting is not None:
                raise HypervisorError(call=call.micro_op, reason=f"waiting for {waiting.what}")
        place.claim(call.incarnation)
        first_id = machine.first_id_for(mark) if not _guest(vm).privileged else 0
        machine.spawner.run(
            "hold_namespaces",
            owner=vm.id,
            deadline=call.deadline,
            directory=str(place.user_namespace.parent),
            first_id=first_id or None,
            shown=str(place.xsdata),
        )
        # Last: what there is without a record is a leftover.
        machine.domains.create(
            Record(
                id=machine.domains.allot_domain_id(),
                name=vm.name or vm.id,
                vm=vm.id,
                instance=machine.instance,
                incarnation=call.incarnation,
                created=time.time(),
                first_id=first_id,
                group=machine.names.group(vm.id, call.incarnation),
                marked=machine.names.mark(vm.id),
                state=str(machine.storage.state),
                memory_target=memory,
                memory_limit=max(memory, vm.memory_static_max),
            )
        )

    @micro_op
    def build(self, call: Call, vm: Vm, vbds: Sequence[Vbd], vifs: Sequence[Vif]) -> None:
        record, _ = self.machine.require_live(call, vm.id)
        if record.built:
            return
        if not any(vbd.position == 0 and vbd.backend is not None for vbd in vbds):
            raise InvalidParameter(
                name="vbds",
                reason=f"{vm.id} has none at position 0: its root file system; add one",
            )
        self._write_xsdata(self.machine.place(record), vm.xsdata)
        self.machine.storage.layers.drop_suspended(vm.id)
        guest = _guest(vm)
        self.machine.change(
            call,
            vm.id,
            lambda found: replace(
                found,
                built=True,
                vcpus=vm.vcpus,
                init=guest.init,
                environment=guest.environment,
                hostname=guest.hostname or vm.id,
                nesting=guest.nesting,
                scheduler=vm.scheduler,
                platform=vm.platform,
            ),
        )

    @micro_op
    def create_device_model(self, call: Call, vm: Vm) -> None:
        """Containers have none. Raises DoesNotExist, DomainNotBuilt."""
        if not self.machine.require(call, vm.id).built:
            raise DomainNotBuilt(id=vm.id)

    @micro_op
    def destroy_device_model(self, call: Call, vm: Vm) -> None:
        """Containers have none."""

    @micro_op
    def destroy(self, call: Call, vm: Vm) -> Waiting | None:
        return self._clearing.clear(call, vm.id)

    @micro_op
    def pause(self, call: Call, vm: Vm) -> None:
        record, life = self._require_built(call, vm)
        if life.populated:
            self.machine.group(record).freeze(call.deadline)

    @micro_op
    def unpause(self, call: Call, vm: Vm) -> None:
        record, life = self._require_built(call, vm)
        if record.restored:
            self._suspension.begin(call, record)
        if life.populated:
            self.machine.group(record).thaw(call.deadline)
        else:
            self._starting.start(call, record)

    def _require_built(self, call: Call, vm: Vm) -> tuple[Record, Life]:
        if not self.machine.require(call, vm.id).built:
            raise DomainNotBuilt(id=vm.id)
        return self.machine.require_live(call, vm.id)

    @micro_op
    def request_shutdown(
        self, call: Call, vm: Vm, reason: Literal["poweroff", "reboot"]
    ) -> Waiting | None:
        record = self.machine.record_for(call, vm.id)
        if record is None or not record.built:
            return None
        life = self.machine.life(record)
        if stopped(record, life) is not None:
            return None
        waiting = Waiting(what=f"the guest to acknowledge {reason}", timeout=ACKNOWLEDGE)
        if not life.populated or life.frozen:
            return waiting
        self.machine.change(call, vm.id, lambda found: replace(found, asked=reason))
        wished = record.platform.get(config.SIGNALS[reason])
        group = self.machine.group(record)
        init = acknowledgement.first_process(self.machine.place(record), group)
        if init is None:
            return waiting
        with init:
            init.ask(reason, None if wished is None else str(wished))
            return None if init.acknowledged() else waiting

    @micro_op
    def await_shutdown(self, call: Call, vm: Vm) -> Waiting | None:
        record = self.machine.record_for(call, vm.id)
        if record is None or not record.built:
            return None
        if stopped(record, self.machine.life(record)) is not None:
            return None
        return Waiting(what="the guest to stop", timeout=STOP)

    @micro_op
    def save(self, call: Call, vm: Vm, image: Path) -> None:
        self._suspension.save(call, vm, image)

    @micro_op
    def resume_saved(self, call: Call, vm: Vm) -> None:
        self._suspension.resume_saved(call, vm.id)

    @micro_op
    def check_image(self, call: Call, vm: Vm, image: Path) -> None:
        self._suspension.check(call, vm, image)

    @micro_op
    def drop_image(self, call: Call, vm: Vm, image: Path) -> None:
        self._suspension.drop(call, vm, image)

    @micro_op
    def restore(self, call: Call, vm: Vm, image: Path) -> None:
        self._suspension.restore(call, vm, image)
        record = self.machine.require(call, vm.id)
        self._write_xsdata(self.machine.place(record), vm.xsdata)

    @micro_op
    def coredump(self, call: Call, vm: Vm, path: Path) -> None:
        """What is known of it, as JSON: a container's memory is its processes', which are gone."""
        record = self.machine.require(call, vm.id)
        life, place = self.machine.life(record), self.machine.place(record)
        if not life.populated:
            # Its end follows the container's at once; what it said last is there then.
            locks.await_release(str(place.console_server), LAST_WORDS)
        left = {
            "record": record,
            "life": life,
            "said": _lines(place.said),
            "log": _lines(place.log)[-100:],
        }
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_bytes(msgspec.json.format(msgspec.json.encode(left)) + b"\n")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @micro_op
    def set_vcpus(self, call: Call, vm: Vm, vcpus: int) -> None:
        record, _ = self._require_built(call, vm)
        if not 1 <= vcpus <= vm.vcpu_max:
            raise InvalidVcpus(requested=vcpus, maximum=vm.vcpu_max)
        self.machine.group(record).set_cpus(self.machine.cpus(record, vcpus))
        self.machine.change(call, vm.id, lambda found: replace(found, vcpus=vcpus))

    @micro_op
    def set_memory(self, call: Call, vm: Vm, target: int) -> None:
        record, _ = self.machine.require_live(call, vm.id)
        if not 1 <= target <= record.memory_limit:
            reason = f"{target} bytes are not within 1 to {record.memory_limit}"
            raise InvalidParameter(name="target", reason=reason)
        # What it does not give back shows as memory that it has beyond its target.
        with suppress(MemoryInUse):
            self.machine.group(record).set_memory(target)
        self.machine.change(call, vm.id, lambda found: replace(found, memory_target=target))

    @micro_op
    def set_xsdata(self, call: Call, vm: Vm, xsdata: Mapping[str, str]) -> None:
        record = self.machine.require(call, vm.id)
        self._write_xsdata(self.machine.place(record), xsdata)

    def _write_xsdata(self, place: Place, xsdata: Mapping[str, str]) -> None:
        partial = place.xsdata / f".{XSDATA}"
        partial.write_bytes(msgspec.json.encode(dict(xsdata)) + b"\n")
        partial.chmod(0o644)
        partial.replace(place.xsdata / XSDATA)

    @micro_op
    def adopt(self, call: Call, vm: Vm, domain: str) -> None:
        machine, ours = self.machine, self.machine.domains.place(vm.id)
        found = machine.record(vm.id)
        if found is not None:
            if found.id != domain:
                raise AlreadyExists(kind="domain", id=found.id)
            return
        for place in machine.domains.places():
            there = machine.domains.read(place)
            if there is not None and there.id == domain and place != ours:
                break
        else:
            if domain.startswith("/"):
                raise Unimplemented(what="adopting a container of others", backend="lxc")
            raise DoesNotExist(kind="domain", id=domain)
        # Before the domain: adopted without its layers it would start on empty ones.
        machine.storage.layers.adopt(vm.id, Path(there.state) / LAYERS / there.vm)
        record = machine.domains.adopt(vm.id, place, lambda old: _adopted(old, machine, vm.id))
        machine.watch.add(vm.id, machine.place(record))

    @micro_op
    def remove(self, call: Call, vm: VmId, vbds: Sequence[Vbd] | None) -> None:
        storage = self.machine.storage
        if vbds is None:
            storage.layers.drop_all(vm)
        for vbd in vbds or ():
            storage.layers.drop(vbd.id)

    @micro_op
    def hand_over(self, call: Call, vm: VmId, parcel: Path) -> None:
        found = self.machine.record(vm)
        if found is not None:
            raise AlreadyExists(kind="domain", id=found.id)
        self.machine.storage.layers.pack(vm, parcel, timeout=call.deadline - time.monotonic())

    @micro_op
    def take_over(self, call: Call, vm: VmId, parcel: Path) -> None:
        self.machine.storage.layers.unpack(vm, parcel, timeout=call.deadline - time.monotonic())


def _adopted(record: Record, machine: Machine, vm: VmId) -> Record:
    return replace(
        record,
        vm=vm,
        instance=machine.instance,
        state=str(machine.storage.state),
        vbds={f"{vm}/{name_of(id)}": _renamed(vbd, vm) for id, vbd in record.vbds.items()},
        vifs={f"{vm}/{name_of(id)}": vif for id, vif in record.vifs.items()},
    )


def _renamed(vbd: ContainerVbd, vm: VmId) -> ContainerVbd:
    if vbd.config is None:
        return vbd
    return replace(vbd, config=replace(vbd.config, id=f"{vm}/{name_of(vbd.config.id)}"))


def _guest(vm: Vm) -> Container:
    assert isinstance(vm.guest, Container), "accepted"
    return vm.guest


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.exists() else []
