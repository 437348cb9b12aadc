"""The life of real containers through the daemon: what guests do by themselves, and policy."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rigs.container import DEAF
from rigs.containers import ContainerHost, container_host
from rigs.daemon import eventually

from backends.lxc.cgroup import Cgroups
from backends.lxc.metering import device
from idl.errors import FailedToAcknowledge, FailedToShutdown, HypervisorError
from idl.vbd import Local, Vbd, VbdQos
from idl.vm import Action, Container, PowerState


@pytest.fixture(scope="module")
def host() -> Iterator[ContainerHost]:
    # No crash comes too soon after its start here.
    with container_host("reboot.delay = 0.1\ncrash_loop.window = 0.001\n") as found:
        yield found


@pytest.fixture
def web(host, request) -> Iterator[str]:
    """A VM of its own for each test, not started."""
    id = f"web-{abs(hash(request.node.name)) % 10**8}"
    yield id
    if host.client.vm.exists(id):
        host.run(host.client.vm.shutdown(id))
        host.client.vm.remove(id)


def halted(host: ContainerHost, id: str, reason: str) -> None:
    eventually(
        lambda: host.state(id).power_state is PowerState.HALTED, deadline=30.0, why="halted"
    )
    assert host.state(id).reason == reason
    group = host.names.group(id)
    assert not any((tree.base / group).exists() for tree in Cgroups.found().hierarchies)
    assert not (host.daemon.run_dir / "lxc" / "default" / id).exists()


def reborn(host: ContainerHost, id: str, before: str | None) -> None:
    """Running, and in another incarnation."""

    def other() -> bool:
        state = host.state(id)
        return state.incarnation not in (None, before)

    eventually(other, deadline=60.0, why="another incarnation runs")
    host.init(id)


def test_a_guest_that_powers_off_is_halted(host, web):
    host.start(web)
    host.init(web).obey("poweroff")
    halted(host, web, "guest shut down")


def test_a_guest_that_reboots_is_another_incarnation(host, web):
    host.start(web)
    before = host.state(web)
    host.init(web).obey("reboot")
    reborn(host, web, before.incarnation)
    assert host.state(web).domain_ids != before.domain_ids


def test_a_guest_without_the_init_named_does_not_start(host, web):
    host.add(web, guest=Container(init=["/bin/nothere"]))
    with pytest.raises(HypervisorError, match=r'No such file .* exec "/bin/nothere"'):
        host.run(host.client.vm.start(web))
    halted(host, web, "")


def test_a_guest_whose_init_is_quick_has_started(host, web):
    host.add(web, guest=Container(init=["/bin/sh", "-c", "exit 3"]))
    host.run(host.client.vm.start(web))
    halted(host, web, "crashed")


def test_what_a_guest_said_before_its_crash_is_kept(host, web):
    init = ["/bin/sh", "-c", "echo the reason; exit 3"]
    host.add(web, guest=Container(init=init), on_crash=[Action.COREDUMP])
    host.run(host.client.vm.start(web))
    halted(host, web, "crashed")
    core = host.daemon.state_dir / "cores" / f"{web}.core"
    assert "the reason" in json.loads(core.read_text())["said"]


def test_a_guest_that_crashes_is_halted(host, web):
    host.start(web)
    host.init(web).obey("crash")
    halted(host, web, "crashed")


def test_a_guest_whose_init_is_killed_has_crashed(host, web):
    host.start(web)
    os.kill(host.init(web).pid, signal.SIGKILL)
    halted(host, web, "crashed")


@pytest.mark.parametrize(
    ("act", "field"), [("crash", "on_crash"), ("poweroff", "on_shutdown"), ("reboot", "on_reboot")]
)
def test_policy_starts_it_again(host, web, act, field):
    host.add(web, **{field: [Action.START]})
    host.run(host.client.vm.start(web))
    before = host.state(web).incarnation
    init = host.init(web)
    init.obey(act)
    reborn(host, web, before)


def test_a_reboot_from_outside_is_clean(host, web):
    host.start(web)
    host.init(web)
    before = host.state(web).incarnation
    host.run(host.client.vm.reboot(web, timeout=30.0))
    reborn(host, web, before)


def test_a_clean_shutdown_is_acknowledged(host, web):
    host.start(web)
    host.init(web)
    host.run(host.client.vm.shutdown(web, timeout=30.0))
    halted(host, web, "shut down")


def test_a_guest_that_hears_nothing_is_not_shut_down_cleanly(host, web):
    host.add(web, guest=Container(init=DEAF))
    host.run(host.client.vm.start(web))
    with pytest.raises((FailedToAcknowledge, FailedToShutdown)):
        host.run(host.client.vm.shutdown(web, timeout=1.0))
    assert host.state(web).power_state is PowerState.RUNNING
    host.run(host.client.vm.shutdown(web, timeout=1.0, force=True))
    halted(host, web, "shut down")


def test_pause_stops_the_heart(host, web):
    host.start(web)
    init = host.init(web)
    host.run(host.client.vm.pause(web))
    beats = init.beats()
    used = host.group(web).cpu_seconds()
    assert host.state(web).power_state is PowerState.PAUSED
    assert (init.beats(), host.group(web).cpu_seconds()) == (beats, used)
    host.run(host.client.vm.unpause(web))
    eventually(lambda: init.beats() > beats, deadline=30.0, why="it beats on")


def test_a_paused_start_runs_nothing(host, web):
    host.add(web)
    host.run(host.client.vm.start(web, paused=True))
    assert host.state(web).power_state is PowerState.PAUSED
    assert host.group(web).pids() == []
    host.run(host.client.vm.unpause(web))
    host.init(web)


def test_a_program_that_is_no_init_may_end(host, web):
    host.start(web, "exit 0")
    halted(host, web, "guest shut down")


@pytest.mark.parametrize("form", ["tar", "squashfs"])
def test_a_root_from_an_image_keeps_what_is_written(host, web, form):
    path = host.images.tar if form == "tar" else host.images.squashfs
    host.add(web, root=Local(path=str(path), format=form))
    host.run(host.client.vm.start(web))
    init = host.init(web)
    # As its own root: the host's is nobody there.
    within = ["nsenter", "-t", str(init.pid), "-U", "-m", "-S", "0", "-G", "0"]
    subprocess.run([*within, "/bin/sh", "-c", "echo here >/kept"], check=True, timeout=30)
    host.run(host.client.vm.reboot(web, timeout=30.0))
    assert (host.init(web).root / "kept").read_text() == "here\n"


def test_xsdata_is_seen_within(host, web):
    host.add(web, xsdata={"a": "1"})
    host.run(host.client.vm.start(web))
    seen = host.init(web).root / "dev" / "xsdata" / "xsdata.json"
    assert seen.read_text() == '{"a":"1"}\n'
    host.run(host.client.vm.set_xsdata(web, {"b": "2"}))
    assert seen.read_text() == '{"b":"2"}\n'


def test_memory_is_changed_while_it_runs(host, web):
    host.add(web, memory_dynamic_min=16 << 20)
    host.run(host.client.vm.start(web))
    host.init(web)
    host.run(host.client.vm.set_memory_dynamic_range(web, 16 << 20, 32 << 20))
    eventually(lambda: host.state(web).memory_target == 32 << 20, deadline=30.0)
    eventually(lambda: 0 < host.state(web).memory_actual <= 32 << 20, deadline=30.0)


def test_containers_outlive_the_daemon(host, web):
    host.start(web)
    init, before = host.init(web), host.state(web)
    host.daemon.kill()
    beats = init.beats()
    eventually(lambda: init.beats() > beats, deadline=30.0, why="it beats without the daemon")
    host.daemon.start()
    host.daemon.recovered()
    after = host.state(web)
    assert (after.incarnation, after.domain_ids) == (before.incarnation, before.domain_ids)
    init.obey("poweroff")
    halted(host, web, "guest shut down")


def test_one_that_ended_while_the_daemon_was_down_is_told_truly(host, web):
    host.start(web)
    init = host.init(web)
    host.daemon.kill()
    init.obey("crash")
    eventually(lambda: not Path(f"/proc/{init.pid}").exists(), deadline=30.0)
    host.daemon.start()
    host.daemon.recovered()
    halted(host, web, "crashed")


def test_a_limit_of_a_disk_is_in_force_and_its_figures_are_told(host, web):
    if device(host.daemon.state_dir) is None:
        pytest.skip("the state directory is on no disk")
    limit = 64 << 20
    host.add(web)
    disk = host.images.kept / f"{web}-disk"
    disk.mkdir()
    host.run(host.client.vm.start(web))
    init = host.init(web)
    local = Local(path=str(disk), format="directory")
    host.client.vbd.add(Vbd(id=f"{web}/data", backend=local, qos=VbdQos(write_bytes=limit)))
    host.run(host.client.vbd.plug(f"{web}/data"))
    within = ["nsenter", "-t", str(init.pid), "-U", "-m", "-S", "0", "-G", "0", "/bin/sh", "-c"]
    script = "dd if=/dev/zero of=/mnt/data/x bs=1M count=4 && sync"
    subprocess.run([*within, script], check=True, timeout=60)
    names = ("blkio.throttle.write_bps_device", "io.max")
    found = [
        p.read_text() for n in names for p in Path("/sys/fs/cgroup").rglob(n) if web in str(p)
    ]
    assert any(str(limit) in text for text in found)
    disks = {f"{web}/root", f"{web}/data"}

    def sampled() -> bool:
        return {*host.client.vm.metrics(web)[0].disks} == disks

    eventually(sampled, deadline=60.0, why="it has been sampled")
