"""Hooks: the administrator's scripts, before and after, with arguments and a deadline."""

import os
import time
from pathlib import Path

import pytest
from rigs.daemon import eventually
from rigs.scenarios import usable

from idl.errors import Cancelled, DeadlineExceeded, HookFailed

HOOKS = [
    "vm-pre-start", "vm-post-start", "vm-pre-shutdown", "vm-post-shutdown", "vm-pre-reboot",
    "vm-pre-suspend", "vm-post-suspend", "vm-pre-resume", "vm-post-resume",
]  # fmt: skip


class Hooked:
    """A daemon with a directory of hooks."""

    def __init__(self, start, directory, more=""):
        self.directory = directory / "hooks"
        self.directory.mkdir()
        self.told = directory / "told"
        self.told.touch()
        self.lab = start(f'[hooks]\ndirectory = "{self.directory}"\n{more}')

    def script(self, hook, name, body, mode=0o755):
        path = self.directory / hook / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(mode)
        return path

    def tells(self, hook, name="10-tell"):
        line = f"$XENOPSD_HOOK {name} $XENOPSD_VM $XENOPSD_INSTANCE $XENOPSD_REASON [$*]"
        self.script(hook, name, f'echo "{line}" >> {self.told}')

    def heard(self):
        lines = self.told.read_text().splitlines()
        self.told.write_text("")
        return lines


@pytest.fixture
def hooked(start, directory):
    found = Hooked(start, directory)
    for hook in HOOKS:
        found.tells(hook)
    return found


def test_scripts_run_before_and_after_with_their_arguments(hooked):
    lab = hooked.lab
    id = lab.vm()
    uuid = lab.stat(id).config.uuid

    def said(hook, reason):
        return f"{hook} 10-tell {id} default {reason} [-vmuuid {uuid} -reason {reason}]"

    vm = lab.client.vm
    task = lab.run(vm.start(id))
    names = [s.name for s in task.subtasks]
    assert names[0] == names[-1] == "vm_hook"
    assert hooked.heard() == [said("vm-pre-start", "none"), said("vm-post-start", "none")]
    lab.run(vm.suspend(id))
    assert hooked.heard() == [said(f"vm-{w}-suspend", "suspend") for w in ("pre", "post")]
    lab.run(vm.resume(id))
    assert hooked.heard() == [said("vm-pre-resume", "none"), said("vm-post-resume", "none")]
    lab.run(vm.reboot(id))
    assert hooked.heard()[0] == said("vm-pre-reboot", "hard")
    lab.run(vm.reboot(id, timeout=30))
    assert hooked.heard()[0] == said("vm-pre-reboot", "clean")
    lab.run(vm.shutdown(id, timeout=30))
    assert hooked.heard()[0] == said("vm-pre-shutdown", "clean")
    lab.run(vm.start(id))
    hooked.heard()
    lab.run(vm.shutdown(id))
    assert hooked.heard() == [said("vm-pre-shutdown", "hard"), said("vm-post-shutdown", "hard")]
    assert lab.sensible(id) == "halted"


def test_scripts_run_in_the_order_of_their_names(hooked):
    for name in ("20-b", "05-a", "90-c"):
        hooked.tells("vm-pre-start", name)
    (hooked.directory / "vm-pre-start" / ".hidden").write_text("no script")
    hooked.lab.run(hooked.lab.client.vm.start(hooked.lab.vm()))
    heard = [line.split()[1] for line in hooked.heard() if "pre-start" in line]
    assert heard == ["05-a", "10-tell", "20-b", "90-c"]


FAILING = [
    ("vm-pre-start", "halted", "start", {}, "halted"),
    ("vm-post-start", "halted", "start", {}, "halted"),
    ("vm-pre-suspend", "running", "suspend", {}, "running"),
    ("vm-pre-resume", "suspended", "resume", {}, "suspended"),
    ("vm-pre-shutdown", "running", "shutdown", {"timeout": 30}, "running"),
    ("vm-pre-reboot", "running", "reboot", {}, "running"),
]


def brought(lab, state):
    id = lab.vm()
    if state != "halted":
        lab.run(lab.client.vm.start(id))
    if state == "suspended":
        lab.run(lab.client.vm.suspend(id))
    return id


@pytest.mark.parametrize(
    ("hook", "before", "operation", "args", "after"), FAILING, ids=[h for h, *_ in FAILING]
)
def test_a_script_that_fails_stops_the_operation(hooked, hook, before, operation, args, after):
    lab = hooked.lab
    id = brought(lab, before)
    bad = hooked.script(hook, "50-bad", "echo some words; echo and more >&2; exit 3")
    error = lab.failure(getattr(lab.client.vm, operation)(id, **args), HookFailed)
    assert (error.hook, error.status) == (hook, 3)
    assert error.output == "some words\nand more"
    assert error.micro_op == "vm_hook"
    assert lab.sensible(id) == after
    bad.unlink()
    lab.run(getattr(lab.client.vm, operation)(id, **args))
    usable(lab, id)


@pytest.mark.parametrize(
    ("hook", "operation", "state"),
    [
        ("vm-pre-shutdown", "shutdown", "halted"),
        ("vm-post-shutdown", "shutdown", "halted"),
        ("vm-post-suspend", "suspend", "suspended"),
    ],
)
def test_some_scripts_may_not_stop_the_operation(hooked, hook, operation, state):
    lab = hooked.lab
    id = lab.running()
    hooked.script(hook, "50-bad", "exit 3")
    lab.run(getattr(lab.client.vm, operation)(id))
    assert lab.sensible(id) == state


def test_status_one_is_no_failure(hooked):
    hooked.script("vm-pre-start", "50-objects", "exit 1")
    id = hooked.lab.running()
    assert hooked.lab.sensible(id) == "running"


def test_a_script_that_cannot_be_executed_is_told(hooked):
    hooked.script("vm-pre-start", "50-no", "true", mode=0o644)
    id = hooked.lab.vm()
    error = hooked.lab.failure(hooked.lab.client.vm.start(id), HookFailed)
    assert error.status == 126
    assert hooked.lab.sensible(id) == "halted"


def sleeper(hooked, hook="vm-pre-start"):
    """A script that never ends, and tells the process that it is."""
    pid = hooked.directory.parent / "pid"
    hooked.script(hook, "50-sleep", f"sleep 3600 &\necho $! > {pid}.new\nmv {pid}.new {pid}\nwait")
    return pid


def dead(pid):
    return not Path(f"/proc/{pid.read_text().strip()}").exists()


def test_a_script_past_its_deadline_is_killed_with_its_children(start, directory):
    hooked = Hooked(start, directory, "[deadlines]\nhook = 0.5\n")
    pid = sleeper(hooked)
    lab = hooked.lab
    id = lab.vm()
    error = lab.failure(lab.client.vm.start(id), DeadlineExceeded)
    assert "vm-pre-start" in error.what
    assert error.seconds == pytest.approx(0.5, abs=0.2)
    assert lab.sensible(id) == "halted"
    eventually(lambda: dead(pid))


def test_a_script_is_stopped_by_a_cancel(hooked):
    pid = sleeper(hooked)
    lab = hooked.lab
    id = lab.vm()
    task = lab.client.vm.start(id)
    eventually(pid.exists)
    begin = time.monotonic()
    lab.client.task.cancel(task)
    lab.failure(task, Cancelled)
    assert time.monotonic() - begin < 30
    eventually(lambda: dead(pid))
    assert lab.sensible(id) == "halted"


def test_a_script_is_stopped_by_a_hard_shutdown(hooked):
    pid = sleeper(hooked)
    lab = hooked.lab
    id = lab.vm()
    task = lab.client.vm.start(id)
    eventually(pid.exists)
    lab.run(lab.client.vm.shutdown(id))
    lab.failure(task, Cancelled)
    eventually(lambda: dead(pid))
    assert lab.sensible(id) == "halted"


def test_scripts_hold_no_worker(hooked, pool_size):
    gate = hooked.directory.parent / "gate"
    os.mkfifo(gate)
    slow = [hooked.lab.vm(name="slow") for _ in range(pool_size)]
    body = f'case "$XENOPSD_VM" in {"|".join(slow)}) read x < {gate};; esac'
    hooked.script("vm-pre-start", "50-wait", body)
    lab = hooked.lab
    tasks = [lab.client.vm.start(id) for id in slow]
    for task in tasks:
        lab.began(task, "vm_hook")
    other = lab.running()
    assert lab.sensible(other) == "running"
    with gate.open("w") as opened:
        for task in tasks:
            assert not lab.client.task.stat(task).ended
        opened.write("go\n" * len(tasks))
        opened.flush()
        for task in tasks:
            lab.client.task.cancel(task)
            lab.end(task)


def test_a_guests_own_reboot_runs_the_scripts_of_a_start(hooked):
    lab = hooked.lab
    id = lab.running(on_crash=["shutdown"], on_shutdown=["shutdown"])
    hooked.heard()
    lab.trigger("halt", id)
    eventually(lambda: lab.power_state(id) == "halted")
    lab.run(lab.client.vm.start(id))
    assert [line.split()[0] for line in hooked.heard()][-2:] == ["vm-pre-start", "vm-post-start"]
