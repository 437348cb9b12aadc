"""A simulator on a world of its own, and calls to make on it."""

import threading
import time
from dataclasses import dataclass, field

import pytest

from backends.interface import Settings
from backends.simulator.plugin import Options, Plugin
from idl.errors import Cancelled, DeadlineExceeded
from idl.vbd import Local, Vbd
from idl.vif import Bridge, Vif
from idl.vm import Vm

LIMIT = 30.0

VM = Vm(id="vm1", vcpu_max=2)
DISK = Vbd(id="vm1/disk", position=0, backend=Local(path="/base"))
VOLATILE = Vbd(
    id="vm1/tmp", position=1, backend=Local(path="/base", overlay=True), persistent=False
)
VIF = Vif(id="vm1/eth0", position=0, backend=Bridge(name="br0"))


@dataclass
class Attempt:
    """A call; `cancel` wakes it."""

    micro_op: str
    incarnation: str = "i1"
    deadline: float = field(default_factory=lambda: time.monotonic() + LIMIT)
    pauses: list[float | None] = field(default_factory=list)
    under_way: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self):
        self.cancelled.set()

    def checkpoint(self):
        if self.cancelled.is_set():
            raise Cancelled(task=self.micro_op)
        if time.monotonic() > self.deadline:
            raise DeadlineExceeded(what=self.micro_op, seconds=LIMIT)

    def pause(self, seconds):
        self.pauses.append(seconds)
        self.under_way.set()
        left = max(0.0, self.deadline - time.monotonic())
        self.cancelled.wait(left if seconds is None else min(seconds, left))
        self.checkpoint()

    def progress(self, fraction):
        assert 0 <= fraction <= 1


@dataclass
class Rig:
    """A simulator and its world, with one VM to try things on."""

    backend: object
    world: object
    vm: Vm = VM
    disk: Vbd = DISK
    volatile: Vbd = VOLATILE
    vif: Vif = VIF

    def call(self, micro_op, incarnation="i1"):
        return Attempt(micro_op, incarnation)

    def build(self, *vbds, incarnation="i1"):
        vm, backend = self.vm, self.backend
        backend.vm.create(self.call("vm_create", incarnation), vm, vm.memory_static_max)
        for vbd in vbds:
            backend.vbd.plug(self.call("vbd_plug", incarnation), vm, vbd)
        backend.vm.build(self.call("vm_build", incarnation), vm, vbds, [])
        backend.vm.create_device_model(self.call("vm_create_device_model", incarnation), vm)

    def start(self, *vbds, incarnation="i1"):
        self.build(*vbds, incarnation=incarnation)
        self.backend.vm.unpause(self.call("vm_unpause", incarnation), self.vm)

    def destroy(self, incarnation="i1"):
        self.backend.vm.destroy(self.call("vm_destroy", incarnation), self.vm)

    @property
    def domain(self):
        return self.backend.host.domain(self.vm.id)

    def layers(self):
        directory = self.world / "layers" / self.vm.id
        return sorted(path.name for path in directory.iterdir()) if directory.exists() else []

    def plugged(self):
        directory = self.world / "plugged" / "default" / self.vm.id
        return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


@pytest.fixture
def settings(tmp_path):
    return Settings(instance="default", state_dir=tmp_path, run_dir=tmp_path, options=Options())


@pytest.fixture
def rig(settings, tmp_path):
    backend = Plugin().open(settings)
    yield Rig(backend=backend, world=tmp_path / "simulator")
    backend.close()


@pytest.fixture
def attempt():
    return Attempt
