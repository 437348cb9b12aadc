"""The life of a VM on the real daemon: whatever happens in whatever order, it stays sensible.

Operations that succeed, fail, are cancelled or cut by SIGKILL; guests that stop by themselves;
domains that vanish. After each step the world is what the daemon says, and the VM is where the
interface allows it to be.
"""

import os
import tempfile
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from rigs.daemon import DaemonProcess, eventually
from rigs.lab import Lab, check_memory

from backends.simulator.debug import MICRO_OPS as BACKEND
from idl.errors import (
    AlreadyExists,
    Cancelled,
    DeviceIsConnected,
    DoesNotExist,
    HypervisorError,
    Interrupted,
    from_object,
)
from idl.link import ConnectionFailed
from idl.task import Failed
from idl.vbd import Local, Vbd
from idl.vif import Bridge, Vif

#: Where there is no disk to wait for.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
TOTAL = 2**34
CONFIG = f"""
[simulator]
memory_total = {TOTAL}
[deadlines]
short = 0.5
[crash_loop]
window = 86400
[reboot]
delay = 0
"""
SETTINGS = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)

#: operation: (method, arguments, {state before: state after}).
OPERATIONS = {
    "start": ("start", {}, {"halted": "running"}),
    "start paused": ("start", {"paused": True}, {"halted": "paused"}),
    "pause": ("pause", {}, {"running": "paused", "paused": "paused"}),
    "unpause": ("unpause", {}, {"running": "running", "paused": "running"}),
    "suspend": ("suspend", {}, {"running": "suspended"}),
    "resume": ("resume", {}, {"suspended": "running"}),
    "resume paused": ("resume", {"paused": True}, {"suspended": "paused"}),
    "reboot": ("reboot", {}, {"running": "running", "paused": "running"}),
    "clean reboot": ("reboot", {"timeout": 60}, {"running": "running"}),
    "shutdown": (
        "shutdown",
        {},
        dict.fromkeys(["halted", "running", "paused", "suspended"], "halted"),
    ),
    "clean shutdown": (
        "shutdown",
        {"timeout": 60},
        dict.fromkeys(["halted", "running", "suspended"], "halted"),
    ),
    "set_vcpus": ("set_vcpus", {"vcpus": 2}, {"running": "running", "paused": "paused"}),
    "set_xsdata": (
        "set_xsdata",
        {"xsdata": {"a": "b"}},
        {s: s for s in ("halted", "running", "paused", "suspended")},
    ),
}

#: Where a failure or a cancel may leave a VM, beside where it was.
FALLS = {"reboot": {"halted"}, "clean reboot": {"halted", "running"}, "clean shutdown": {"halted"}}
#: Where a crash of the daemon may not leave it: where it was.
DECIDED = {"shutdown", "clean shutdown", "reboot", "clean reboot"}

UP = ["vm_create", "vm_build", "vbd_plug", "vif_plug", "vm_create_device_model", "vm_unpause"]
DOWN = ["vm_pause", "vm_destroy_device_model", "vif_unplug", "vbd_unplug", "vm_destroy"]
ASK = ["vm_request_shutdown", "vm_await_shutdown"]
BACK = ["vm_check_image", "vm_restore", *UP, "vm_spend_image", "vm_drop_image"]
STEPS = {
    "start": UP,
    "start paused": UP,
    "pause": ["vm_pause"],
    "unpause": ["vm_unpause"],
    "suspend": ["vm_save", "vm_commit_image", *DOWN],
    "resume": BACK,
    "resume paused": BACK,
    "reboot": [*DOWN, *UP],
    "clean reboot": [*ASK, *DOWN, *UP],
    "shutdown": DOWN,
    "clean shutdown": [*ASK, *DOWN],
    "set_vcpus": ["vm_set_vcpus", "vm_record"],
    "set_xsdata": ["vm_set_xsdata", "vm_record"],
}

choices = st.integers(0, 2**16)
devices = st.sampled_from(["vbd/a", "vbd/b", "vif/n"])


class Life(RuleBasedStateMachine):
    """One VM; `state` and `plugged` are what it has to be."""

    lab: Lab

    @initialize(born=st.sampled_from(["halted", "running", "running", "paused", "suspended"]))
    def make(self, born):
        self.deadly = 0
        self.id = self.lab.vm(disks=0, nics=0, vcpu_max=4, on_crash=["start"])
        self.state = "halted"
        self.recorded = set()
        self.plugged = set()
        if born == "halted":
            return
        self.add("vbd/a")
        self.add("vif/n")
        for name in ["start paused"] if born == "paused" else ["start", "suspend"]:
            if name != "suspend" or born == "suspended":
                self.carry_out(name, self.begin(name))

    def teardown(self):
        if hasattr(self, "id"):
            self.lab.disarm()
            self.lab.remove(self.id)

    # What is done to it

    def pick(self, choice):
        """An operation that this state allows, and seldom one that it does not."""
        allowed = sorted(name for name in OPERATIONS if self.state in OPERATIONS[name][2])
        if self.state == "halted":
            allowed += ["start"] * 6
        names = sorted(OPERATIONS) if choice % 8 == 7 else allowed
        return names[choice // 8 % len(names)]

    def pick_step(self, choice):
        name = self.pick(choice)
        steps = STEPS[name]
        return name, steps[choice // 256 % len(steps)]

    @rule(choice=choices)
    def operate(self, choice):
        name = self.pick(choice)
        self.carry_out(name, self.begin(name))

    @rule(choice=choices)
    def operate_and_fail(self, choice):
        name, micro_op = self.pick_step(choice)
        if micro_op in BACKEND:
            self.lab.trigger("fail", micro_op, 1)
        self.carry_out(name, self.begin(name), HypervisorError)
        self.lab.disarm()

    @rule(choice=choices, n=st.integers(1, 25))
    def operate_and_cancel(self, choice, n):
        name = self.pick(choice)
        tag = f"{self.id}-tag"
        self.lab.trigger("set-cancel-trigger", tag, n)
        self.carry_out(name, self.begin(name, debug_info=tag), Cancelled)

    @rule(choice=choices)
    def operate_and_hang(self, choice):
        name, micro_op = self.pick_step(choice)
        if micro_op in BACKEND:
            self.lab.trigger("hang", micro_op, 1)
        lab = self.lab
        task = self.begin(name)

        def there():
            found = lab.client.task.stat(task)
            return found.ended or (found.subtasks and found.subtasks[-1].name == micro_op)

        eventually(there)
        hard = lab.client.vm.shutdown(self.id)
        lab.end(task)
        lab.run(hard)
        lab.disarm()
        self.state = "halted"
        self.plugged = set()

    @precondition(lambda self: self.deadly < 1)
    @rule(choice=choices, when=st.sampled_from(["before", "after", "append", "end"]))
    def operate_and_die(self, choice, when):
        self.deadly += 1
        lab = self.lab
        name, micro_op = self.pick_step(choice)
        point = f"{micro_op}:{when}" if when in ("before", "after") else f"journal:{when}"
        n = 1 + choice // 4096 if when == "append" else 1
        lab.client.debug.trigger("kill-at", [point, str(n)])
        task = lab.new_id("task")
        try:
            self.begin(name, task=task)
            found = lab.end(task)
            lab.client.debug.trigger("kill-at", ["vm_create:before", "1000000000"])
        except ConnectionFailed:
            lab.daemon.wait()
            lab.client.close()
            lab.daemon.start()
            lab.daemon.recovered()
            found = lab.end(task)
        after = OPERATIONS[name][2].get(self.state)
        allowed = {self.state if after is None else after}
        if isinstance(found.state, Failed) and after is not None:
            error = from_object(found.state.error)
            assert isinstance(error, Interrupted), error
            # What a crash cuts in its shutdown or reboot is carried on, once it has begun.
            if name not in DECIDED or not error.begun:
                allowed = {self.state, *FALLS.get(name, ())}
        self.settle(name, allowed)

    def begin(self, name, **more):
        method, args, _ = OPERATIONS[name]
        return getattr(self.lab.client.vm, method)(self.id, **args, **more)

    def carry_out(self, name, task, excuse=None):
        found = self.lab.end(task)
        after = OPERATIONS[name][2].get(self.state)
        if not isinstance(found.state, Failed):
            assert after is not None, f"{name} of a VM that is {self.state} is refused"
            self.settle(name, {after})
            return
        error = from_object(found.state.error)
        if after is None:
            assert type(error).__name__ == "BadPowerState" or isinstance(error, Cancelled), error
            self.settle(None, {self.state})
        else:
            assert excuse is not None, error
            assert isinstance(error, excuse), error
            self.settle(name, {self.state, *FALLS.get(name, ()), *self.half(name, found)})

    def half(self, name, found):
        """Where an operation has come all the same whose end was not without fault."""
        return {OPERATIONS[name][2][self.state]} if found.subtasks else set()

    def settle(self, name, allowed):
        """The VM is in one of these states; which of its devices are in it follows."""
        before, self.state = self.state, self.lab.sensible(self.id, *allowed)
        if self.state in ("halted", "suspended"):
            if self.state == "halted" or before != "suspended":
                self.was_plugged = set(self.plugged) if self.state == "suspended" else set()
            self.plugged = set()
        elif before == "suspended":
            self.plugged = set(self.was_plugged)
        elif before == "halted" or (name in ("reboot", "clean reboot") and self.rebooted()):
            self.plugged = set(self.recorded)

    def rebooted(self):
        return self.shown() != self.plugged

    # Devices

    @rule(device=devices)
    def add(self, device):
        kind, _, name = device.partition("/")
        id = f"{self.id}/{name}"
        with pytest.raises(AlreadyExists) if device in self.recorded else nullcontext():
            if kind == "vbd":
                base = Local(path="/images/base")
                self.lab.client.vbd.add(Vbd(id=id, backend=base, persistent=name == "a"))
            else:
                self.lab.client.vif.add(Vif(id=id, backend=Bridge(name="xenbr0")))
        self.recorded.add(device)

    @rule(device=devices)
    def remove(self, device):
        kind, _, name = device.partition("/")
        remove = partial(getattr(self.lab.client, kind).remove, f"{self.id}/{name}")
        # What a suspended VM had plugged, its image is connected to.
        connected = device in (self.was_plugged if self.state == "suspended" else self.plugged)
        if connected or device not in self.recorded:
            with pytest.raises(DeviceIsConnected if connected else DoesNotExist):
                remove()
            return
        remove()
        self.recorded.remove(device)

    @rule(device=devices, fault=st.sampled_from([None, "fail", "cancel"]), n=st.integers(1, 3))
    def plug_or_unplug(self, device, fault, n):
        if device not in self.recorded:
            return
        kind, _, name = device.partition("/")
        wanted = "unplug" if device in self.plugged else "plug"
        tag = f"{self.id}-tag"
        if fault == "fail":
            self.lab.trigger("fail", f"{kind}_{wanted}", 1)
        elif fault == "cancel":
            self.lab.trigger("set-cancel-trigger", tag, n)
        call = getattr(getattr(self.lab.client, kind), wanted)
        found = self.lab.end(call(f"{self.id}/{name}", debug_info=tag))
        self.lab.disarm()
        if not isinstance(found.state, Failed):
            self.plugged ^= {device}
            return
        error = type(from_object(found.state.error)).__name__
        refused = {"BadPowerState"} if self.state in ("halted", "suspended") else set()
        if self.state == "paused" and wanted == "unplug":
            refused.add("DeviceDetachRejected")
        excuse = {"fail": {"HypervisorError"}, "cancel": {"Cancelled"}}.get(fault, set())
        assert error in refused | excuse

    # What happens by itself

    @rule(act=st.sampled_from(["halt", "reboot", "crash", "suspend", "lose"]))
    def stop_by_itself(self, act):
        if self.state != "running":
            return
        old = self.lab.stat(self.id).state.incarnation
        self.lab.trigger(act, self.id)
        if act == "lose":
            # Nobody is told of that; whoever acts next finds out.
            self.lab.end(self.lab.client.vm.pause(self.id))

        def over():
            state = self.lab.stat(self.id).state
            return state.incarnation != old and state.operation is None

        eventually(over)
        self.plugged = set()
        if act == "reboot":
            self.plugged = set(self.recorded)
        else:
            self.state = "halted"

    @precondition(lambda self: self.deadly < 1)
    @rule()
    def restart(self):
        self.deadly += 1
        self.lab.restart()

    @rule(many=st.lists(choices, min_size=2, max_size=6), cancel=st.integers(0, 5))
    def burst(self, many, cancel):
        """Many at once, one of them cancelled: nobody knows where it ends, but sensibly."""
        names = sorted(OPERATIONS)
        tasks = [self.begin(names[choice % len(names)]) for choice in many]
        self.lab.client.task.cancel(tasks[cancel % len(tasks)])
        for task in tasks:
            self.lab.end(task)
        self.was_plugged = self.plugged | self.recorded
        self.state = self.lab.sensible(self.id)
        self.plugged = self.shown()
        if self.state == "suspended":
            extra = self.lab.client.vm.export_metadata(self.id).extra
            kinds = {d.partition("/")[2]: d for d in self.recorded}
            self.was_plugged = {kinds[d.partition("/")[2]] for d in extra["image"]["plugged"]}

    # What always holds

    def shown(self):
        client = self.lab.client
        return {
            *(
                f"vbd/{d.id.partition('/')[2]}"
                for d in client.vbd.list(self.id)
                if d.state.plugged
            ),
            *(
                f"vif/{d.id.partition('/')[2]}"
                for d in client.vif.list(self.id)
                if d.state.plugged
            ),
        }

    @invariant()
    def is_sensible(self):
        if not hasattr(self, "id"):
            return
        assert self.lab.sensible(self.id) == self.state
        assert self.shown() == self.plugged
        check_memory(self.lab.daemon, self.lab.client, TOTAL)
        assert self.lab.client.host.get_diagnostics().quarantined == []


@pytest.fixture(scope="module")
def lab():
    with tempfile.TemporaryDirectory(prefix="xenopsd-", dir=MEMORY) as name:
        config = Path(name) / "config.toml"
        config.write_text(CONFIG)
        daemon = DaemonProcess(Path(name) / "d", "--config", str(config))
        daemon.start()
        daemon.recovered()
        found = Lab(daemon)
        try:
            yield found
        finally:
            found.client.close()
            daemon.kill()


def test_a_vm_is_always_sensible(lab):
    class LifeOnLab(Life):
        pass

    LifeOnLab.lab = lab
    run_state_machine_as_test(LifeOnLab, settings=SETTINGS)
