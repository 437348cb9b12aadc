"""Fixtures of the conformance suite: every backend that is available here, opened, with guests.

A backend joins by its entry point and a module `guests/BACKEND.py` beside this file, with a
class `Guests` like the simulator's.
"""

import importlib.util
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends import registry
from backends.interface import Available, Backend, Domain, Waiting
from idl.errors import Cancelled, DeadlineExceeded
from idl.vbd import Vbd
from idl.vm import Vm

#: How long anything may take here, in seconds.
LIMIT = 60.0


class Attempt:
    """A call as the executor would make it: it can be cancelled, and has a deadline."""

    def __init__(self, micro_op: str, incarnation: str, seconds: float = LIMIT) -> None:
        self.micro_op = micro_op
        self.incarnation = incarnation
        self.deadline = time.monotonic() + seconds
        self.fractions: list[float] = []
        self._cancelled = threading.Event()
        self.paused = threading.Event()

    def cancel(self) -> None:
        self._cancelled.set()

    def checkpoint(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled(task=self.micro_op)
        if time.monotonic() > self.deadline:
            raise DeadlineExceeded(what=self.micro_op, seconds=LIMIT)

    def pause(self, seconds: float | None) -> None:
        self.paused.set()
        left = max(0.0, self.deadline - time.monotonic())
        self._cancelled.wait(left if seconds is None else min(seconds, left))
        self.checkpoint()

    def progress(self, fraction: float) -> None:
        assert 0 <= fraction <= 1
        self.fractions.append(fraction)


def eventually(what: Callable[[], bool], seconds: float = LIMIT) -> None:
    """Wait for something that comes by itself."""
    deadline = time.monotonic() + seconds
    nothing = threading.Event()
    while not what():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        nothing.wait(0.01)


class Subject:
    """A VM under test in one incarnation: each method is one micro-op, waited out."""

    def __init__(self, backend: Backend, guests: Any, vm: Vm, incarnation: str) -> None:
        self.backend = backend
        self.guests = guests
        self.vm = vm
        self.incarnation = incarnation
        self.memory = vm.memory_static_max
        self.boot = guests.boot(vm)

    def again(self) -> "Subject":
        """The same VM in another incarnation."""
        return Subject(self.backend, self.guests, self.vm, str(uuid.uuid4()))

    def call(self, micro_op: str, seconds: float = LIMIT) -> Attempt:
        return Attempt(micro_op, self.incarnation, seconds)

    def done(self, carry_out: Callable[[], Waiting | None]) -> None:
        eventually(lambda: carry_out() is None)

    def check_image(self, image: Path) -> None:
        self.backend.vm.check_image(self.call("vm_check_image"), self.vm, image)

    def drop_image(self, image: Path) -> None:
        self.backend.vm.drop_image(self.call("vm_drop_image"), self.vm, image)

    @property
    def domain(self) -> Domain | None:
        return self.backend.host.domain(self.vm.id)

    @property
    def alive(self) -> Domain:
        found = self.domain
        assert found is not None, "the domain should be there"
        return found

    @property
    def leftovers(self) -> list[str]:
        return self.backend.host.leftovers(self.vm.id)

    def create(self) -> None:
        self.backend.vm.create(self.call("vm_create"), self.vm, self.memory)

    def build(self, *vbds: Vbd) -> None:
        call = self.call("vm_build")
        self.backend.vm.build(call, self.vm, [*self.boot, *vbds], [])

    def create_device_model(self) -> None:
        self.backend.vm.create_device_model(self.call("vm_create_device_model"), self.vm)

    def destroy_device_model(self) -> None:
        self.backend.vm.destroy_device_model(self.call("vm_destroy_device_model"), self.vm)

    def destroy(self) -> None:
        self.done(lambda: self.backend.vm.destroy(self.call("vm_destroy"), self.vm))

    def adopt(self, domain: str) -> None:
        self.backend.vm.adopt(self.call("vm_adopt"), self.vm, domain)

    def pause(self) -> None:
        self.backend.vm.pause(self.call("vm_pause"), self.vm)

    def unpause(self) -> None:
        self.backend.vm.unpause(self.call("vm_unpause"), self.vm)

    def request_shutdown(self, reason: Any) -> Waiting | None:
        call = self.call("vm_request_shutdown")
        return self.backend.vm.request_shutdown(call, self.vm, reason)

    def await_shutdown(self) -> Waiting | None:
        return self.backend.vm.await_shutdown(self.call("vm_await_shutdown"), self.vm)

    def save(self, image: Path) -> None:
        self.backend.vm.save(self.call("vm_save"), self.vm, image)

    def resume_saved(self) -> None:
        self.backend.vm.resume_saved(self.call("vm_resume_saved"), self.vm)

    def restore(self, image: Path) -> None:
        self.backend.vm.restore(self.call("vm_restore"), self.vm, image)

    def set_vcpus(self, vcpus: int) -> None:
        self.backend.vm.set_vcpus(self.call("vm_set_vcpus"), self.vm, vcpus)

    def set_memory(self, target: int) -> None:
        self.backend.vm.set_memory(self.call("vm_set_memory"), self.vm, target)

    def set_xsdata(self, xsdata: dict[str, str]) -> None:
        self.backend.vm.set_xsdata(self.call("vm_set_xsdata"), self.vm, xsdata)

    def remove(self, *vbds: Vbd) -> None:
        call = self.call("vm_remove_layers")
        self.backend.vm.remove(call, self.vm.id, [*self.boot, *vbds])

    def hand_over(self, parcel: Path) -> None:
        self.backend.vm.hand_over(self.call("vm_pack_layers"), self.vm.id, parcel)

    def take_over(self, parcel: Path) -> None:
        self.backend.vm.take_over(self.call("vm_take_layers"), self.vm.id, parcel)

    def plug(self, vbd: Vbd) -> None:
        self.done(lambda: self.backend.vbd.plug(self.call("vbd_plug"), self.vm, vbd))

    def unplug(self, vbd: Vbd, *, force: bool = False) -> None:
        call = self.call("vbd_unplug")
        self.done(lambda: self.backend.vbd.unplug(call, self.vm, vbd, force=force))

    def insert(self, vbd: Vbd, medium: Any) -> None:
        call = self.call("vbd_insert")
        self.done(lambda: self.backend.vbd.insert(call, self.vm, vbd, medium))

    def eject(self, vbd: Vbd) -> None:
        self.backend.vbd.eject(self.call("vbd_eject"), self.vm, vbd)

    def plug_vif(self, vif: Any) -> None:
        self.backend.vif.plug(self.call("vif_plug"), self.vm, vif)

    def unplug_vif(self, vif: Any, *, force: bool = False) -> None:
        call = self.call("vif_unplug")
        self.done(lambda: self.backend.vif.unplug(call, self.vm, vif, force=force))

    def configure(self, vif: Any, field: str) -> None:
        self.backend.vif.configure(self.call("vif_configure"), self.vm, vif, field)

    def plug_pci(self, pci: Any) -> None:
        self.backend.pci.plug(self.call("pci_plug"), self.vm, pci)

    def unplug_pci(self, pci: Any, *, force: bool = False) -> None:
        call = self.call("pci_unplug")
        self.done(lambda: self.backend.pci.unplug(call, self.vm, pci, force=force))

    def built(self, *vbds: Vbd) -> "Subject":
        """Up to the point where it could run."""
        self.create()
        for vbd in (*self.boot, *vbds):
            self.plug(vbd)
        self.build(*vbds)
        self.create_device_model()
        return self

    def started(self, *vbds: Vbd) -> "Subject":
        """Running, with a guest that has booted."""
        self.built(*vbds)
        self.unpause()
        eventually(lambda: self.guests.up(self.backend, self.vm))
        return self


def _names() -> list[str]:
    answers = registry.probe()
    return sorted(name for name, found in answers.items() if isinstance(found, Available))


@pytest.fixture(params=_names())
def backend_name(request):
    return request.param


@pytest.fixture
def guests(backend_name, tmp_path):
    path = Path(__file__).with_name("guests") / f"{backend_name}.py"
    spec = importlib.util.spec_from_file_location(f"conformance_guests_{backend_name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.Guests(tmp_path)
    yield found
    found.close()


@pytest.fixture
def open_backend(backend_name, guests) -> Iterator[Callable[..., Backend]]:
    """Open the backend (again): for an instance, on the one host of this test."""
    opened: list[Backend] = []

    def open_one(instance: str = "conformance") -> Backend:
        opened.append(registry.load(backend_name).open(guests.settings(instance)))
        return opened[-1]

    yield open_one
    for backend in opened:
        backend.close()


@pytest.fixture
def backend(open_backend) -> Backend:
    return open_backend()


@pytest.fixture
def needs(backend) -> Callable[[str], None]:
    """Skip the test, and say so, unless the backend has a feature."""

    def need(feature: str) -> None:
        if feature not in backend.features:
            print(f"skipped for {backend.name}: no {feature}")
            pytest.skip(f"{backend.name} has no {feature}")

    return need


@pytest.fixture
def subject(backend, guests) -> Iterator[Subject]:
    """A VM that does not exist yet; nothing of it is left afterwards."""
    vm = guests.vm(f"conformance-{uuid.uuid4().hex[:8]}", guests.guest_type())
    subject = Subject(backend, guests, vm, str(uuid.uuid4()))
    yield subject
    subject.destroy()
    assert subject.domain is None
    assert subject.leftovers == []
    subject.remove()


@pytest.fixture
def subject_of(guests) -> Callable[..., Subject]:
    """Any VM on any opened backend; cleared by the test itself."""

    def make(backend: Backend, vm: Vm) -> Subject:
        return Subject(backend, guests, vm, str(uuid.uuid4()))

    return make


@pytest.fixture(name="eventually")
def eventually_fixture() -> Callable[..., None]:
    return eventually


@pytest.fixture
def attention(backend) -> Callable[[str], None]:
    """Wait until the backend says that a VM needs attention."""
    changed = threading.Condition()
    told: list[str] = []

    def needs_attention(vm: str) -> None:
        with changed:
            told.append(vm)
            changed.notify_all()

    backend.watch(needs_attention)

    def wait(vm: str) -> None:
        with changed:
            assert changed.wait_for(lambda: vm in told, LIMIT), f"no event of {vm}"

    return wait
