"""One micro-op -> one effect: the backend's call, or the daemon's own record.

The only place where the planner's values meet the world. Everything here can be repeated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog
from msgspec.structs import replace

from backends.interface import Backend, Call, Waiting
from idl.errors import BadPowerState, DeadlineExceeded, DoesNotExist, HookFailed, XenopsError
from idl.ids import DeviceId, VmId
from idl.metadata import Metadata
from idl.pci import Pci
from idl.vbd import Vbd
from idl.vif import Vif
from idl.vm import Vm
from journal.store import Store
from xenopsd import hooks, microop
from xenopsd.execution import BackendCall
from xenopsd.inventory import Entry
from xenopsd.microop import MicroOp
from xenopsd.record import VmExtra, advanced, altered

log = structlog.get_logger(__name__)

D = TypeVar("D", Vbd, Vif, Pci)


@dataclass(frozen=True, slots=True)
class Performer:
    """What micro-ops need of the daemon. `make_room` says what to do about memory that is
    short: how much may be had now (bytes), or None while others are being squeezed."""

    backend: Backend
    store: Store
    instance: str
    boot: str
    wall: Callable[[], float]
    reserve: Callable[[VmId, int, int], int | None]
    release: Callable[[VmId], None]
    grow: Callable[[VmId, int], None]
    resized: Callable[[VmId, int], None]
    forget: Callable[[Entry], None]
    memory_timeout: float = 20.0
    #: Raises OwnedByAnother where the VM is another instance's by now.
    confirm: Callable[[VmId], None] = lambda vm: None  # noqa: ARG005
    #: Has another instance record the VM.
    hand_over: Callable[[Metadata, microop.VmHandOver], None] = lambda meta, op: None  # noqa: ARG005
    #: Looks at the host again: what is foreign has changed.
    restock: Callable[[], None] = lambda: None

    def perform(self, entry: Entry, op: MicroOp, call: BackendCall) -> Waiting | None:
        """Have one micro-op's effect.

        Raises what the backend raises, StoreUnwritable, HookFailed.
        """
        return self._effect(entry, entry.metadata(), op, call)

    def advance(self, entry: Entry, op: MicroOp, incarnation: str | None, at: float) -> None:
        """Take into the running record what a micro-op has changed of it, now or in a former
        life. Not with the effect: a call that was written off must change nothing here.
        """
        if entry.meta is None or isinstance(op, microop.VmRemoveRecord):
            return
        entry.extra = advanced(
            entry.extra,
            op,
            incarnation=incarnation,
            vm=entry.meta.vm,
            boot=self.boot,
            now=at,
        )

    def _effect(  # noqa: PLR0911, PLR0912, PLR0915, C901  # one arm a micro-op
        self, entry: Entry, meta: Metadata, op: MicroOp, call: BackendCall
    ) -> Waiting | None:
        vm = entry.extra.running or meta.vm
        backend = self.backend
        match op:
            case microop.VmHook():
                self._hook(vm, op, call)
            case microop.VmDelay(seconds=seconds):
                return Waiting("delay", timeout=seconds, recheck=seconds)
            case microop.VmCreate():
                return self._create(vm, call)
            case microop.VmBuild():
                backend.vm.build(call, vm, meta.vbds, meta.vifs)
            case microop.VmCreateDeviceModel():
                backend.vm.create_device_model(call, vm)
            case microop.VmDestroyDeviceModel():
                backend.vm.destroy_device_model(call, vm)
            case microop.VmDestroy():
                waiting = backend.vm.destroy(call, vm)
                if waiting is None:
                    self.release(entry.id)
                return waiting
            case microop.VmPause(if_running=if_running):
                self._pause(entry.id, vm, call, if_running=if_running)
            case microop.VmUnpause():
                self._unpause(entry.id, vm, call)
            case microop.VmRequestShutdown(reason=reason):
                return backend.vm.request_shutdown(call, vm, reason)
            case microop.VmAwaitShutdown():
                return backend.vm.await_shutdown(call, vm)
            case microop.VmSave(image=image):
                backend.vm.save(call, vm, Path(image))
            case microop.VmResumeSaved():
                backend.vm.resume_saved(call, vm)
            case microop.VmCheckImage(image=image):
                backend.vm.check_image(call, vm, Path(image))
            case microop.VmRestore(image=image):
                backend.vm.restore(call, vm, Path(image))
            case microop.VmCommitImage() | microop.VmSpendImage() | microop.VmUnspendImage():
                self._write_extra(entry, op, call)
            case microop.VmDropImage(image=image):
                # Forgotten before it is removed: a record of an image that is gone would be
                # a suspended VM that cannot be resumed.
                self._write_extra(entry, op, call)
                backend.vm.drop_image(call, vm, Path(image))
            case microop.VmCoredump(path=path):
                backend.vm.coredump(call, vm, Path(path))
            case microop.VmAdopt(domain=domain):
                backend.vm.adopt(call, vm, domain)
                self._adopted(entry.id)
            case microop.VmPreserve():
                pass
            case microop.VmSetVcpus(vcpus=vcpus):
                backend.vm.set_vcpus(call, vm, vcpus)
            case microop.VmSetMemory(target=target):
                self._set_memory(vm, call, target)
            case microop.VmSetXsdata(xsdata=xsdata):
                backend.vm.set_xsdata(call, vm, xsdata)
            case microop.VmRecord():
                self._record(entry, meta, op)
            case microop.VmRemoveLayers(vbds=vbds):
                some = None if vbds is None else [vbd for vbd in meta.vbds if vbd.id in vbds]
                backend.vm.remove(call, entry.id, some)
            case microop.VmPackLayers(parcel=parcel):
                backend.vm.hand_over(call, entry.id, Path(parcel))
            case microop.VmTakeLayers(parcel=parcel):
                backend.vm.take_over(call, entry.id, Path(parcel))
            case microop.VmHandOver():
                self.hand_over(meta, op)
            case microop.VmRemoveDevice(id=id):
                self._write_meta(entry, without(meta, id))
            case microop.VmRemoveRecord():
                self.store.remove(entry.id)
                self.forget(entry)
            case microop.VbdPlug(id=id):
                return backend.vbd.plug(call, vm, _required(meta.vbds, id))
            case microop.VbdUnplug(id=id, force=force):
                if vbd := _device(meta.vbds, id):
                    return backend.vbd.unplug(call, vm, vbd, force=force)
            case microop.VbdInsert(id=id, backend=medium):
                return backend.vbd.insert(call, vm, _required(meta.vbds, id), medium)
            case microop.VbdEject(id=id):
                backend.vbd.eject(call, vm, _required(meta.vbds, id))
            case microop.VifPlug(id=id):
                backend.vif.plug(call, vm, _required(meta.vifs, id))
            case microop.VifUnplug(id=id, force=force):
                if vif := _device(meta.vifs, id):
                    return backend.vif.unplug(call, vm, vif, force=force)
            case microop.VifConfigure(id=id, field=field, value=value):
                changed = altered(_required(meta.vifs, id), {field: value})
                backend.vif.configure(call, vm, changed, field)
            case microop.PciPlug(id=id):
                backend.pci.plug(call, vm, _required(meta.pcis, id))
            case microop.PciUnplug(id=id, force=force):
                if pci := _device(meta.pcis, id):
                    return backend.pci.unplug(call, vm, pci, force=force)
        return None

    def _set_memory(self, vm: Vm, call: Call, target: int) -> None:
        """Reserved before the balloon is let out; a target that was not set is not reserved."""
        self.grow(vm.id, target)
        try:
            self.backend.vm.set_memory(call, vm, target)
        except XenopsError:
            self._measured(vm.id)
            raise
        self.resized(vm.id, target)

    def _adopted(self, vm: VmId) -> None:
        """Its memory is this VM's from now on, and it is nobody's stranger any more."""
        self._measured(vm)
        self.restock()

    def _measured(self, vm: VmId) -> None:
        """Reserve what its domain has. Raises XenopsError."""
        domain = self.backend.host.domain(vm)
        if domain is not None:
            self.resized(vm, domain.memory_held)

    def _pause(self, id: VmId, vm: Vm, call: BackendCall, *, if_running: bool) -> None:
        if if_running and self._runs_no_more(id):
            return
        try:
            self.backend.vm.pause(call, vm)
        except (BadPowerState, DoesNotExist):
            # It may have stopped since, or have been killed by who did not wait for it.
            if not (if_running and self._runs_no_more(id)):
                raise

    def _runs_no_more(self, vm: VmId) -> bool:
        domain = self.backend.host.domain(vm)
        return domain is None or domain.stopped is not None

    def _unpause(self, id: VmId, vm: Vm, call: BackendCall) -> None:
        try:
            self.backend.vm.unpause(call, vm)
        except BadPowerState:
            # Repeated after a crash: it may have run and stopped, which a check will see to.
            domain = self.backend.host.domain(id)
            if domain is None or domain.stopped is None:
                raise

    def _create(self, vm: Vm, call: BackendCall) -> Waiting | None:
        # An instance that was stopped while the VM changed hands must not run it.
        self.confirm(vm.id)
        granted = self.reserve(vm.id, vm.memory_dynamic_min, vm.memory_dynamic_max)
        if granted is None:
            return Waiting("memory", timeout=self.memory_timeout, recheck=0.1)
        self.backend.vm.create(call, vm, granted)
        return None

    def _hook(self, vm: Vm, op: microop.VmHook, call: BackendCall) -> None:
        occasion = hooks.Occasion(
            hook=op.hook, vm=vm.id, uuid=vm.uuid, reason=op.reason, instance=self.instance
        )
        try:
            with call.interruption() as interrupt:
                hooks.run(
                    Path(op.script), occasion, deadline=call.deadline, interrupt=interrupt
                )
        except hooks.HookStopped:
            call.checkpoint()
            raise HookFailed(hook=op.hook, status=-15, output="it was stopped") from None
        except (HookFailed, DeadlineExceeded) as error:
            if not op.tolerant:
                raise
            log.warning("hook_failed", vm=vm.id, hook=op.hook, error=str(error))

    def _write_extra(self, entry: Entry, op: MicroOp, call: BackendCall) -> None:
        """The running record as it is after `op`, durably."""
        extra: VmExtra = advanced(
            entry.extra,
            op,
            incarnation=call.incarnation,
            vm=entry.metadata().vm,
            boot=self.boot,
            now=self.wall(),
        )
        self.store.write(entry.id, "extra", extra, durable=True)
        entry.recorded = extra

    def _record(self, entry: Entry, meta: Metadata, op: microop.VmRecord) -> None:
        if op.object == entry.id:
            self._write_meta(entry, replace(meta, vm=altered(meta.vm, op.changes)))
            return
        changed = replace(
            meta,
            vbds=[altered(d, op.changes) if d.id == op.object else d for d in meta.vbds],
            vifs=[altered(d, op.changes) if d.id == op.object else d for d in meta.vifs],
            pcis=[altered(d, op.changes) if d.id == op.object else d for d in meta.pcis],
        )
        self._write_meta(entry, changed)

    def _write_meta(self, entry: Entry, meta: Metadata) -> None:
        self.store.write(entry.id, "config", meta, durable=True)
        entry.meta = meta


def without(meta: Metadata, id: DeviceId) -> Metadata:
    """Metadata less one device."""
    return replace(
        meta,
        vbds=[d for d in meta.vbds if d.id != id],
        vifs=[d for d in meta.vifs if d.id != id],
        pcis=[d for d in meta.pcis if d.id != id],
    )


def _device(devices: list[D], id: DeviceId) -> D | None:
    return next((device for device in devices if device.id == id), None)


def _required(devices: list[D], id: DeviceId) -> D:
    device = _device(devices, id)
    assert device is not None, f"planned for {id}, which has no record"
    return device

