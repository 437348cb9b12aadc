import signal
import subprocess
import sys
import threading

import pytest

from backends.simulator.world import prepare
from idl.errors import (
    BadPowerState,
    DoesNotExist,
    HypervisorError,
    InvalidParameter,
    Unimplemented,
)


@pytest.mark.parametrize(
    ("cmd", "args", "named"),
    [
        pytest.param("fail", [], "micro_op", id="no micro-op"),
        pytest.param("fail", ["vm_create"], "count", id="no count"),
        pytest.param("fail", ["vm_create", "-1"], "count", id="less than none"),
        pytest.param("fail", ["vm_fly", "1"], "micro_op", id="no such micro-op"),
        pytest.param("fail", ["vm_create", "1", "2"], "args", id="too many"),
        pytest.param("hang", ["vm_create", "many"], "count", id="no number"),
        pytest.param("hang", ["vm_create", "1", "blind"], "deaf", id="not deaf"),
        pytest.param("set-latency", ["*", "nan"], "seconds", id="not a number"),
        pytest.param("set-latency", ["*", "-1"], "seconds", id="before the beginning"),
        pytest.param("set-latency", ["*", "inf"], "seconds", id="for ever"),
        pytest.param("undeaf", ["x"], "args", id="undeaf takes none"),
        pytest.param("ignore-shutdown", ["vm1", "perhaps"], "value", id="neither"),
        pytest.param("reboot", [], "vm", id="which VM"),
        pytest.param("reboot-host", ["now"], "args", id="reboot-host takes none"),
    ],
)
def test_arguments_are_checked_and_named(rig, cmd, args, named):
    rig.start()
    with pytest.raises(InvalidParameter) as refused:
        rig.backend.debug(cmd, args)
    assert refused.value.name == named


@pytest.mark.parametrize("cmd", ["reboot", "halt", "crash", "suspend", "lose"])
def test_a_vm_without_a_domain_does_nothing(rig, cmd):
    with pytest.raises(DoesNotExist) as refused:
        rig.backend.debug(cmd, ["vm1"])
    assert (refused.value.kind, refused.value.id) == ("domain", "vm1")


def test_what_it_does_not_know_is_unimplemented(rig):
    with pytest.raises(Unimplemented) as refused:
        rig.backend.debug("kill-at", [])
    assert (refused.value.what, refused.value.backend) == ("kill-at", "simulator")


def test_a_paused_guest_does_not_reboot_by_itself(rig):
    rig.build()
    with pytest.raises(BadPowerState):
        rig.backend.debug("reboot", ["vm1"])


def test_a_fault_reaches_the_micro_op_before_its_effect(rig):
    rig.backend.debug("fail", ["vm_create", "1"])
    with pytest.raises(HypervisorError):
        rig.build()
    assert rig.domain is None
    rig.build()


def test_a_lost_domain_leaves_what_was_plugged_and_says_nothing(rig):
    told = []
    rig.backend.watch(told.append)
    rig.start(rig.disk, rig.volatile)
    rig.backend.debug("lose", ["vm1"])
    assert rig.domain is None
    assert told == []
    left = ["tmp@i1.json", "vbd:disk@i1", "vbd:tmp@i1"]
    assert rig.backend.host.leftovers("vm1") == left
    rig.destroy()
    assert rig.backend.host.leftovers("vm1") == []


def test_guests_that_act_and_domains_that_are_killed_are_told_of(rig):
    told = []
    rig.backend.watch(told.append)
    rig.start()
    rig.backend.debug("crash", ["vm1"])
    assert told == ["vm1"]
    rig.backend.kill("vm1")
    assert told == ["vm1", "vm1"]


def test_an_uncooperative_balloon_gives_in_when_told_to(rig):
    rig.start()
    rig.backend.debug("uncooperative-balloon", ["vm1", "true"])
    rig.backend.vm.set_memory(rig.call("vm_set_memory"), rig.vm, 2**20)
    assert rig.domain.uncooperative_balloon
    assert rig.domain.memory_actual > 2**20
    rig.backend.debug("uncooperative-balloon", ["vm1", "false"])
    assert rig.domain.memory_actual == 2**20


def test_a_deaf_call_has_its_effect_late(rig):
    rig.backend.debug("hang", ["vm_create", "1", "deaf"])
    call = rig.call("vm_create")
    thread = threading.Thread(target=rig.backend.vm.create, args=(call, rig.vm, 1))
    thread.start()
    call.cancel()
    rig.backend.interrupt("vm1")
    thread.join(0.05)
    assert thread.is_alive()
    assert rig.domain is None
    rig.backend.debug("undeaf", [])
    thread.join()
    assert rig.domain is not None


REBOOT = """
import sys
from pathlib import Path
from backends.interface import Settings
from backends.simulator.plugin import Options, Plugin
state = Path(sys.argv[1])
Plugin().open(
    Settings(instance="default", state_dir=state, run_dir=state, options=Options())
).debug("reboot-host", [])
"""


def test_a_host_that_reboots_takes_the_daemon_with_it(rig, tmp_path):
    rig.start(rig.disk, rig.volatile)
    boot = rig.backend.host.boot_id()
    rig.backend.close()
    ended = subprocess.run([sys.executable, "-c", REBOOT, tmp_path], check=False)
    assert ended.returncode == -signal.SIGKILL
    world = prepare(rig.world)
    assert world.boot_id() != boot
    assert list(world.records()) == []
    world.close()
    assert rig.plugged() == []
    assert rig.layers() == ["tmp@i1.json"]
