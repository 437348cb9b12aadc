"""Every operation on a VM with one of everything: where it begins, and where it may end."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rigs.lab import Lab, disk

from idl.pci import Pci
from idl.vbd import Local
from idl.vif import Rate

MIB = 2**20
BASE = Local(path="/images/base", overlay=True)


def furnished(lab: Lab, state: str, **fields: Any) -> str:
    """A VM with two disks, a throw-away one, a CD drive, two interfaces and a PCI device."""
    id = lab.vm(
        disks=2,
        nics=2,
        vcpu_max=4,
        vcpus=2,
        memory_static_max=256 * MIB,
        vbds=lambda vm: [
            disk(vm, "scratch", BASE, persistent=False),
            disk(vm, "cd", Local(path="/images/one.iso"), type="cdrom", mode="ro"),
        ],
        pcis=lambda vm: [Pci(id=f"{vm}/gpu", address="0000:00:1f.6")],
        **fields,
    )
    if state == "shell":
        lab.run(lab.client.vm.create(id))
    elif state == "built":
        lab.run(lab.client.vm.create(id))
        lab.run(lab.client.vm.build(id))
    elif state != "halted":
        lab.run(lab.client.vm.start(id, paused=state == "paused"))
        if state == "suspended":
            lab.run(lab.client.vm.suspend(id))
    return id


@dataclass(frozen=True)
class Scenario:
    """An operation: `method` of the VM (or of one of its devices) in a state, and the states
    that it may leave the VM in, the one of its success first."""

    name: str
    method: str
    before: str
    ends: tuple[str, ...]
    args: tuple[tuple[str, Any], ...] = ()
    device: str = ""
    prepare: Callable[[Lab, str], None] = lambda _lab, _id: None

    def vm(self, lab: Lab) -> str:
        """A VM as it is before."""
        id = furnished(lab, self.before)
        self.prepare(lab, id)
        return id

    def call(self, lab: Lab, id: str, debug_info: str = "") -> str:
        """The task."""
        subject = f"{id}/{self.device}" if self.device else id
        task: str = lab.client.call(
            self.method, id=subject, **dict(self.args), debug_info=debug_info
        )
        return task


def _unplugged(method: str, device: str) -> Callable[[Lab, str], None]:
    def prepare(lab: Lab, id: str) -> None:
        lab.run(lab.client.call(method, id=f"{id}/{device}"))

    return prepare


def _ignoring(lab: Lab, id: str) -> None:
    lab.trigger("ignore-shutdown", id, "true")


def _vm(name: str, method: str, before: str, *ends: str, **args: Any) -> Scenario:
    return Scenario(name, f"VM.{method}", before, ends, tuple(args.items()))


def _device(
    method: str, device: str, prepare: Callable[[Lab, str], None] | None = None, **args: Any
) -> Scenario:
    more = {} if prepare is None else {"prepare": prepare}
    return Scenario(method, method, "running", ("running",), tuple(args.items()), device, **more)


SCENARIOS = [
    _vm("start", "start", "halted", "running", "halted"),
    _vm("start paused", "start", "halted", "paused", "halted", paused=True),
    _vm("hard shutdown", "shutdown", "running", "halted", "running"),
    _vm("hard shutdown of a paused VM", "shutdown", "paused", "halted", "paused"),
    _vm("hard shutdown of a suspended VM", "shutdown", "suspended", "halted", "suspended"),
    _vm("clean shutdown", "shutdown", "running", "halted", "running", timeout=30),
    Scenario(
        "shutdown by force",
        "VM.shutdown",
        "running",
        ("halted", "running"),
        (("timeout", 0.05), ("force", True)),
        prepare=_ignoring,
    ),
    _vm("hard reboot", "reboot", "running", "running", "halted"),
    _vm("clean reboot", "reboot", "running", "running", "halted", timeout=30),
    _vm("pause", "pause", "running", "paused", "running"),
    _vm("unpause", "unpause", "paused", "running", "paused"),
    _vm("suspend", "suspend", "running", "suspended", "running"),
    _vm("resume", "resume", "suspended", "running", "suspended"),
    _vm("resume paused", "resume", "suspended", "paused", "suspended", paused=True),
    _vm("set_vcpus", "set_vcpus", "running", "running", vcpus=3),
    _vm(
        "set_memory_dynamic_range",
        "set_memory_dynamic_range",
        "running",
        "running",
        minimum=64 * MIB,
        maximum=128 * MIB,
    ),
    _vm("set_xsdata", "set_xsdata", "running", "running", xsdata={"a": "b"}),
    _vm("delay", "delay", "running", "running", seconds=0.01),
    _vm("create", "create", "halted", "shell", "halted"),
    _vm("build", "build", "shell", "built", "shell"),
    _vm("create_device_model", "create_device_model", "built", "paused", "built"),
    _vm("destroy", "destroy", "running", "halted", "running"),
    _device("VBD.plug", "disk1", _unplugged("VBD.unplug", "disk1")),
    _device("VBD.unplug", "disk1"),
    _device("VBD.insert", "cd", backend={"type": "local", "path": "/images/two.iso"}),
    _device("VBD.eject", "cd"),
    _device("VIF.plug", "nic1", _unplugged("VIF.unplug", "nic1")),
    _device("VIF.unplug", "nic1"),
    _device("VIF.move", "nic1", backend={"type": "bridge", "name": "xenbr1"}),
    _device("VIF.set_carrier", "nic1", carrier=False),
    _device("VIF.set_rate", "nic1", rate={"kbps": Rate(kbps=10).kbps}),
    _device("PCI.plug", "gpu", _unplugged("PCI.unplug", "gpu")),
    _device("PCI.unplug", "gpu"),
]

NAMES = [scenario.name for scenario in SCENARIOS]

#: Left on purpose by a toolstack that sequences micro-ops itself.
SHELLS = frozenset({"shell", "built"})


def ended_in(lab: Lab, scenario: Scenario, id: str) -> str:
    """The state that the VM was left in, which is one that the operation may leave it in."""
    if SHELLS & set(scenario.ends):
        domain = lab.domain(id)
        assert lab.stat(id).state.attention is None
        if domain is not None and not domain.get("device_model"):
            found = "built" if domain.get("built") else "shell"
            assert found in scenario.ends
            return found
    return lab.sensible(id, *scenario.ends)


def usable(lab: Lab, id: str) -> None:
    """Whatever has been: the VM can be shut down, started and shut down again."""
    lab.run(lab.client.vm.shutdown(id))
    assert lab.sensible(id) == "halted"
    lab.run(lab.client.vm.start(id))
    assert lab.sensible(id) == "running"
    lab.run(lab.client.vm.shutdown(id))
    assert lab.sensible(id) == "halted"
