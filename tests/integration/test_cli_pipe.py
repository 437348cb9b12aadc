"""`xenops` in a pipe, against the real daemon: what it prints, and how it ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rigs.daemon import eventually

from xenopsd.cli.failure import BUSY, FAILED, NOT_FOUND, UNREACHABLE, USAGE

XENOPS = Path(sys.executable).with_name("xenops")
DEADLINE = 30.0

#: No deadline ends a hang here.
PATIENT = "[deadlines]\nshort = 3000\n"


def run(path: Path, *args: object, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(XENOPS), *map(str, args)],
        env={**os.environ, "XENOPS_SOCKET": str(path), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


@pytest.fixture
def xenops(lab):
    """Runs xenops against the shared daemon; it must end well."""

    def ran(*args: object, **env: str) -> str:
        found = run(lab.daemon.socket, *args, **env)
        assert found.returncode == 0, found.stderr
        assert "\x1b" not in found.stdout + found.stderr
        return found.stdout

    return ran


def failed(lab, code: int, *args: object) -> str:
    """What it says when it ends so."""
    found = run(lab.daemon.socket, *args)
    assert found.returncode == code, found
    assert "Traceback" not in found.stderr
    return found.stderr


# Exit codes


def test_ends_with_what_went_wrong_and_the_next_step(lab):
    id = lab.running()
    said = failed(lab, FAILED, "start", id)
    assert said == (
        f"xenops: VM {id} is running; this needs it halted.\n"
        f"  next: xenops show {id}; there is nothing to do\n"
    )
    said = failed(lab, FAILED, "remove", id)
    assert f"next: xenops shutdown {id} --timeout 60\n" in said
    said = failed(lab, NOT_FOUND, "start", "nobody")
    assert "next: xenops list\n" in said
    assert "Usage: xenops start" in failed(lab, USAGE, "start")
    assert "next: xenops task list --all" in failed(lab, NOT_FOUND, "task", "show", "none")


def test_is_busy_where_waiting_was_not_enough(lab):
    id = lab.running()
    lab.trigger("ignore-shutdown", id, "true")
    said = failed(lab, BUSY, "shutdown", id, "--timeout", "0.1")
    assert f"next: xenops shutdown {id}, which does not ask the guest" in said
    assert "took longer than 0 s" in failed(
        lab, BUSY, "wait", id, "--for", "halted", "--timeout", 0
    )
    assert lab.power_state(id) == "running"


@pytest.mark.parametrize("closed", ["list >&-", "list 2>&-", "remove {id} <&-"])
def test_a_closed_stream_is_no_fault(lab, closed: str):
    command = f"exec {XENOPS} {closed.format(id=lab.vm())}"
    env = {**os.environ, "XENOPS_SOCKET": str(lab.daemon.socket)}
    found = subprocess.run(
        ["sh", "-c", command], env=env, capture_output=True, timeout=DEADLINE, check=False
    )
    assert (found.returncode, found.stderr) == (0, b"")


def test_a_full_disk_is_told(lab):
    command = f"exec {XENOPS} call HOST.query >/dev/full"
    env = {**os.environ, "XENOPS_SOCKET": str(lab.daemon.socket)}
    found = subprocess.run(
        ["sh", "-c", command], env=env, capture_output=True, timeout=DEADLINE, check=False
    )
    assert found.returncode == FAILED
    assert found.stderr == b"xenops: No space left on device\n"


def test_tells_that_nobody_answers(tmp_path):
    found = run(tmp_path / "none.sock", "list")
    assert (found.returncode, "start xenopsd" in found.stderr) == (UNREACHABLE, True)


def test_a_release_to_nobody_is_told(lab):
    id = lab.vm()
    said = failed(lab, FAILED, "release", id, "blue")
    assert "xenops: Parameter instance: no instance blue answers at " in said
    assert "; start it first.\n" in said
    assert lab.power_state(id) == "halted"


def test_a_forgotten_vm_gets_its_domain_back(lab, xenops):
    id = lab.running()
    kept = lab.client.vm.export_metadata(id)
    domain = lab.stat(id).state.domain_ids[0]
    xenops("forget", "--yes", id)
    assert domain in xenops("foreign")
    lab.client.vm.import_metadata(kept)
    assert "nine" in failed(lab, NOT_FOUND, "adopt", id, "nine")
    xenops("adopt", id, domain)
    assert lab.stat(id).state.reason == "adopted"


# Waiting


def test_an_operation_is_silent_and_waits(lab, xenops):
    id = lab.vm()
    assert xenops("start", id) == ""
    assert lab.power_state(id) == "running"
    assert xenops("wait", id, "--for", "agent", "--timeout", DEADLINE) == ""
    assert xenops("shutdown", id) == ""
    assert xenops("wait", id, "--for", "halted") == ""


def test_no_wait_prints_the_task(lab, xenops):
    id = lab.vm()
    task = xenops("start", id, "--no-wait").strip()
    assert xenops("task", "wait", task) == ""
    assert json.loads(xenops("task", "show", task, "-o", "json"))["state"]["type"] == "completed"


# Printing


def test_a_pipe_gets_plain_columns(lab, xenops):
    id = lab.running(name="Web")
    lines = [line.split() for line in xenops("list").splitlines()]
    assert lines[0] == ["VM", "STATE", "GUEST", "VCPUS", "MEMORY", "OPERATION"]
    assert [id, "running", "hvm", "1", "256", "MiB", "-"] in lines
    assert f"{id:<{len(id)}}  Web" in xenops("list", "-c", "vm,name")
    assert id in xenops("list", "-o", "name").splitlines()
    assert id in [record["id"] for record in json.loads(xenops("list", "-o", "json"))]
    assert f"- id: {id}\n" in xenops("list", "-o", "yaml")
    assert "There is no column FOO; choose from VM," in failed(lab, USAGE, "list", "-c", "foo")


# Records


def test_fields_are_set_and_edited(lab, xenops):
    id = lab.running(vcpu_max=2)
    found = run(lab.daemon.socket, "set", id, "memory=512M", "vcpus=1", "name=a b")
    assert found.returncode == 0
    assert "From the next start on: memory_static_max" in found.stderr
    config = lab.stat(id).config
    assert (config.memory_dynamic_min, config.vcpus, config.name) == (512 << 20, 1, "a b")
    assert "foo: unknown field" in failed(lab, USAGE, "set", id, "foo=1")
    xenops("edit", id, EDITOR="sed -i 's/^name: .*/name: edited/'")
    assert lab.stat(id).config.name == "edited"


def test_a_record_travels_as_a_file(lab, xenops, tmp_path):
    id = lab.vm(disks=1, nics=1, name="carried")
    file = tmp_path / "vm.json"
    xenops("export", id, file)
    xenops("remove", id)
    assert xenops("import", file) == f"{id}\n"
    assert lab.stat(id).config.name == "carried"
    assert [one.id for one in lab.client.vif.list(id)] == [f"{id}/nic0"]
    assert "exists already" in failed(lab, FAILED, "import", file)
    assert xenops("import", "--replace", file) == f"{id}\n"
    assert "name: carried" in xenops("export", id, "-o", "yaml")


# Devices


def test_disks_come_and_go(lab, xenops):
    id = lab.running()
    assert xenops("disk", "add", id, "/images/x,persistent=false", "--plug") == f"{id}/disk1\n"
    assert f"{id}/disk1  1         yes" in xenops("disk", "list", id)
    xenops("disk", "unplug", f"{id}/disk1")
    xenops("disk", "remove", f"{id}/disk1")
    xenops("disk", "add", id, "--cdrom", "--name", "cd", "--plug")
    xenops("disk", "insert", f"{id}/cd", "/images/a.iso")
    assert "/images/a.iso" in xenops("disk", "list", id, "-c", "device,medium")
    xenops("disk", "eject", f"{id}/cd")
    assert "/images/a.iso" not in xenops("disk", "list", id, "-c", "device,medium")
    assert "its medium cannot be changed" in failed(lab, FAILED, "disk", "eject", f"{id}/disk0")


def test_interfaces_come_move_and_go(lab, xenops):
    id = lab.running()
    nic = xenops("nic", "add", id, "br1,mtu=9000", "--plug").strip()
    xenops("nic", "move", nic, "br2")
    xenops("nic", "set", nic, "--rate", "1000,5", "--carrier", "down", "--locking", "192.0.2.1")
    config = lab.client.vif.stat(nic).config
    assert (config.backend.name, config.rate.kbps, config.carrier) == ("br2", 1000, False)
    assert config.locking_mode.ipv4 == ["192.0.2.1"]
    xenops("nic", "unplug", nic)
    xenops("nic", "remove", nic)
    assert nic not in xenops("nic", "list")


def test_pci_devices_are_recorded(lab, xenops):
    id = lab.vm()
    device = xenops("pci", "add", id, "0000:03:00.0", "--name", "gpu").strip()
    assert "0000:03:00.0" in xenops("pci", "list", id)
    xenops("pci", "remove", device)
    assert "address" in failed(lab, USAGE, "pci", "add", id, "somewhere")


# Why


def test_explain_tells_what_goes_on_and_what_would_be_done(shared):
    lab = shared(PATIENT)
    id = lab.vm()
    lab.trigger("hang", "vm_build", 1)
    task = lab.client.vm.start(id)
    lab.began(task, "vm_build")
    said = " ".join(run(lab.daemon.socket, "explain", id).stdout.split())
    assert f"{id} is halted. It has never been started here." in said
    assert f"VM.start (task {task}) is at the head of its queue. vm_build of {id} is with" in said
    assert "vm_build was about to be done" in said
    assert "its next start would carry the operation on" in said
    shown = run(lab.daemon.socket, "queue", "show", id).stdout.splitlines()
    assert re.match(rf"1 +VM.start +{task} +running +vm_build,", shown[1])
    lab.client.task.cancel(task)
    lab.end(task)


def test_explain_prints_the_table_of_recovery(xenops):
    said = xenops("explain", "--table")
    assert "settle: do nothing" in said.splitlines()[-1]


def test_attention_tells_the_commands_that_settle_it(start):
    lab = start()
    good, bad = lab.running(), lab.vm()
    (lab.daemon.state_dir / "vm" / bad / "config.json").write_text("torn")
    lab.restart()
    said = run(lab.daemon.socket, "attention").stdout
    assert re.search(rf"^{bad}: .*config.json", said)
    assert f"\n  xenops forget {bad}" in said
    assert good not in said
    assert "Its record cannot be read" in run(lab.daemon.socket, "explain", bad).stdout
    assert run(lab.daemon.socket, "forget", bad).returncode == 0
    assert run(lab.daemon.socket, "attention").stdout == "Nothing needs you.\n"


def test_a_domain_in_doubt_is_settled_by_what_attention_says(start):
    lab = start()
    id = lab.running()
    domain = lab.daemon.state_dir / "simulator" / "domains" / f"{id}.json"
    stranger = domain.read_bytes()
    lab.run(lab.client.vm.reboot(id))
    lab.daemon.kill()
    domain.write_bytes(stranger)
    lab.restart()
    said = run(lab.daemon.socket, "attention").stdout
    adopt = re.search(rf"^  xenops (adopt {id} \d+)  ", said, re.MULTILINE)
    assert adopt
    assert run(lab.daemon.socket, *adopt[1].split()).returncode == 0
    assert run(lab.daemon.socket, "attention").stdout == "Nothing needs you.\n"


def test_a_backend_that_is_away_is_told_once_for_all(start):
    lab = start()
    first, second = lab.vm(), lab.vm()
    lab.daemon.kill()
    world, aside = lab.daemon.state_dir / "simulator", lab.daemon.state_dir / "aside"
    world.rename(aside)
    world.write_text("no directory")
    lab.daemon.start()
    eventually(lambda: "2 VMs wait" in run(lab.daemon.socket, "attention").stdout)
    said = run(lab.daemon.socket, "attention").stdout
    assert said.startswith("backend: the backend cannot be reached: ")
    assert f"xenops forget {first}" not in said
    world.unlink()
    aside.rename(world)
    eventually(lambda: run(lab.daemon.socket, "attention").stdout == "Nothing needs you.\n")
    assert lab.power_state(second) == "halted"


def test_a_bundle_has_what_the_daemon_tells_and_no_secrets(lab, xenops, tmp_path):
    id = lab.vm()
    xenops("set", id, "guest.kernel=/k", "guest.cmdline=password=swordfish")
    xenops("set", id, 'xsdata={"secret": "swordfish"}')
    file = Path(xenops("diag", "bundle", tmp_path / "b.tar.gz").strip())
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(file) as tar:
        said = {name: tar.extractfile(name).read() for name in tar.getnames()}
    assert json.loads(said["xenopsd/query.json"])["backend"] == "simulator"
    assert id in [record["id"] for record in json.loads(said["xenopsd/vms.json"])]
    assert not [name for name, text in said.items() if b"swordfish" in text]


def test_a_bundle_is_made_without_a_daemon(tmp_path):
    file = tmp_path / "b.tar.gz"
    found = run(tmp_path / "none.sock", "diag", "bundle", file)
    assert found.returncode == 0
    assert "not in it: query: The daemon at" in found.stderr
    with tarfile.open(file) as tar:
        assert "xenopsd/query.error" in tar.getnames()


# The interface


def test_describe_reads_what_is_served(lab, xenops):
    assert "VM.shutdown" in xenops("describe")
    assert "force       boolean, default false" in xenops("describe", "vm.shutdown")
    assert "memory_static_max" in xenops("describe", "Vm")
    assert "next: xenops describe" in failed(lab, NOT_FOUND, "describe", "nothing")


def test_metrics_and_foreign_domains_are_listed(lab, xenops):
    id = lab.running()
    assert id in xenops("metrics", "-o", "name").splitlines()
    assert json.loads(xenops("metrics", id, "-o", "json"))[0]["id"] == id
    assert xenops("foreign").split() == ["DOMAIN", "NAME", "WHY"]


def test_events_go_on_over_a_crash_and_end_with_a_token(start):
    lab = start()
    with following(lab) as events:
        first = lab.vm()
        until(events, first)
        lab.restart()
        second = lab.vm()
        until(events, second)
        events.send_signal(signal.SIGINT)
        _rest, said = events.communicate(timeout=DEADLINE)
        assert events.returncode == 0
    assert re.search(r"go on with: xenops events --since \S+\n$", said)


@pytest.mark.parametrize("ending", [signal.SIGHUP, signal.SIGTERM], ids=lambda one: one.name)
def test_events_end_with_a_token_when_the_terminal_is_gone(lab, ending: signal.Signals):
    with following(lab) as events:
        until(events, lab.vm())
        until(events, lab.vm())
        events.send_signal(ending)
        _rest, said = events.communicate(timeout=DEADLINE)
    assert (events.returncode, "go on with: xenops events --since" in said) == (0, True)


@contextmanager
def following(lab) -> "Iterator[subprocess.Popen[str]]":
    """`xenops events --all`; it does not outlive the test."""
    command = [str(XENOPS), "events", "--all"]
    env = {**os.environ, "XENOPS_SOCKET": str(lab.daemon.socket)}
    with subprocess.Popen(command, env=env, stdout=-1, stderr=-1, text=True) as events:
        try:
            yield events
        finally:
            events.kill()


def until(process: "subprocess.Popen[str]", wanted: str) -> None:
    """Read its lines up to the one that has this."""
    late = threading.Timer(DEADLINE, process.kill)
    late.start()
    try:
        assert any(wanted in line for line in process.stdout), f"{wanted} never came"
    finally:
        late.cancel()


def test_what_is_added_to_a_halted_vm_is_plugged_when_it_starts(lab, xenops):
    id = lab.vm(disks=0, nics=0)
    for kind, spec in (("disk", "/images/x.raw"), ("nic", "br0"), ("pci", "0000:05:00.0")):
        found = run(lab.daemon.socket, kind, "add", id, spec, "--plug")
        assert (found.returncode, found.stdout) == (0, f"{id}/{kind}0\n")
        assert f"Its VM is halted: {id}/{kind}0 is plugged when that is started." in found.stderr
    xenops("start", id)
    assert "yes" in xenops("disk", "list", id)
    assert xenops("disk", "add", id, "/images/y.raw", "--plug") == f"{id}/disk1\n"
    assert lab.client.vbd.stat(f"{id}/disk1").state.plugged


def test_events_since_a_token(lab, xenops):
    token = lab.client.updates.last_id()
    id = lab.vm(disks=0, nics=0)
    found = run(lab.daemon.socket, "events", "--since", token, "--no-follow")
    assert f"vm    {id}" in found.stdout
    assert "go on with: xenops events --since " in found.stderr


# Completion


def words(path: Path, *typed: str) -> list[str]:
    found = run(path, "_complete", len(typed) - 1, "--", *typed)
    assert (found.returncode, found.stderr) == (0, "")
    return [line.split("\t")[1] for line in found.stdout.splitlines()]


def test_names_are_completed(lab):
    id = lab.running(id=lab.new_id("tab"))
    path = lab.daemon.socket
    assert words(path, "show", "tab") == [id]
    assert words(path, "disk", "unplug", "tab") == [f"{id}/disk0"]
    assert words(path, "nic", "move", f"{id}/") == [f"{id}/nic0"]
    assert words(path, "set", id, "vcpu") == ["vcpu_max=", "vcpus="]
    assert words(path, "list", "--output", "=", "js") == ["json"]
    assert "VM.shutdown" in words(path, "call", "VM.s")


def test_a_tab_without_a_daemon_offers_nothing(tmp_path):
    assert words(tmp_path / "none.sock", "show", "") == []


def test_a_tab_does_not_hang_on_a_daemon_that_does(directory):
    path = directory / "deaf.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        # It would take longer than `run` waits, were it to wait as other commands do.
        assert words(path, "show", "") == []


def test_a_tab_knows_the_socket_on_its_line(lab):
    id = lab.vm(id=lab.new_id("tab"))
    nowhere = lab.daemon.socket.with_name("none.sock")
    typed = ("--socket", str(lab.daemon.socket), "show", id)
    assert words(nowhere, *typed) == [id]
