import json
import subprocess
import sys
import threading

import pytest

from backends.simulator.act import main
from backends.simulator.plugin import Plugin


@pytest.fixture
def act(rig):
    return lambda *args: main(["--world", str(rig.world), *args])


def test_a_process_beside_the_daemon_acts_and_the_daemon_hears(rig):
    rig.start()
    heard = threading.Event()
    rig.backend.watch(lambda vm: heard.set() if vm == "vm1" else None)
    command = [sys.executable, "-m", "backends.simulator.act", "--world", rig.world]
    subprocess.run([*command, "reboot", "vm1"], check=True)
    assert heard.wait(30)
    assert rig.domain.stopped == "reboot"


@pytest.mark.parametrize(
    ("action", "stopped"),
    [("halt", "poweroff"), ("crash", "crash"), ("suspend", "suspend")],
)
def test_guests_act_while_the_daemon_is_down(rig, act, settings, action, stopped):
    rig.start()
    rig.backend.close()
    assert act(action, "vm1") == 0
    again = Plugin().open(settings)
    assert again.host.domain("vm1").stopped == stopped
    again.close()


def test_a_lost_domain_is_gone(rig, act):
    rig.start()
    assert act("lose", "vm1") == 0
    assert rig.domain is None


def test_a_guest_is_made_to_ignore_shutdowns(rig, act):
    rig.start()
    assert act("ignore-shutdown", "vm1", "true") == 0
    call = rig.call("vm_request_shutdown")
    assert rig.backend.vm.request_shutdown(call, rig.vm, "poweroff") is not None
    assert act("ignore-shutdown", "vm1", "false") == 0
    assert rig.backend.vm.request_shutdown(call, rig.vm, "poweroff") is None


def test_it_shows_the_domain(rig, act, capsys):
    rig.start()
    assert act("show", "vm1") == 0
    assert json.loads(capsys.readouterr().out)["vm"] == "vm1"


@pytest.mark.parametrize("action", ["show", "halt", "lose", "ignore-shutdown"])
def test_what_is_not_there_is_told(act, capsys, action):
    assert act(action, "vm9") == 1
    assert "vm9" in capsys.readouterr().err


def test_a_world_that_is_not_there_is_told(tmp_path, capsys):
    assert main(["--world", str(tmp_path / "none"), "show", "vm1"]) == 1
    assert "none" in capsys.readouterr().err


def test_the_host_reboots_only_while_no_daemon_is_up(rig, act, settings, capsys):
    rig.start(rig.disk)
    boot = rig.backend.host.boot_id()
    rig.backend.watch(lambda vm: None)
    assert act("reboot-host") == 1
    assert "daemon is up" in capsys.readouterr().err
    rig.backend.close()
    assert act("reboot-host") == 0
    again = Plugin().open(settings)
    assert again.host.boot_id() != boot
    assert again.host.domain("vm1") is None
    assert rig.plugged() == []
    again.close()
