"""The units of systemd: systemd understands them, and they say what the daemon expects."""

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xenopsd.config import load
from xenopsd.places import places, readonly_socket_path, socket_path
from xenopsd.startup import activated

UNITS = Path(__file__).parents[2] / "packaging/systemd"
SOCKETS = ("xenopsd@.socket", "xenopsd-ro@.socket")


def unit(name: str) -> configparser.ConfigParser:
    """A unit; its keys keep their case."""
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]  # as documented
    parsed.read_string((UNITS / name).read_text())
    return parsed


def verified(directory: Path, change: tuple[str, str] = ("", "")) -> str:
    """What systemd finds wrong with the units of an instance, the daemon being installed."""
    program = Path(sys.executable).with_name("xenopsd")
    for source in UNITS.iterdir():
        text = source.read_text().replace("ExecStart=xenopsd", f"ExecStart={program}")
        (directory / source.name).write_text(text.replace(*change) if change[0] else text)
    instances = [path.name.replace("@.", "@blue-1.") for path in UNITS.iterdir()]
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(directory / one) for one in instances)],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{directory}:"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    said = [line for line in (found.stdout + found.stderr).splitlines() if "xenopsd" in line]
    return "\n".join([*said, *(["it failed"] if found.returncode else [])])


has_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd is not installed"
)


@has_systemd
def test_systemd_understands_them(tmp_path):
    assert verified(tmp_path) == ""


@has_systemd
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(("KillMode=process", "KillMode=proces"), id="a value"),
        pytest.param(("WatchdogSec=", "WatchdogSecs="), id="a key"),
        pytest.param(("ListenStream=/run", "ListenStream=run"), id="a path"),
    ],
)
def test_a_mistake_in_them_is_found(tmp_path, change):
    assert verified(tmp_path, change) != ""


def test_the_sockets_are_where_clients_look_and_have_their_names():
    run = places({}, root=True).run
    listed = {unit(name)["Socket"]["FileDescriptorName"]: unit(name)["Socket"] for name in SOCKETS}
    assert listed["rw"]["ListenStream"] == str(socket_path(run, "%i"))
    assert listed["ro"]["ListenStream"] == str(readonly_socket_path(run, "%i"))
    assert {one["SocketMode"] for one in listed.values()} == {"0660"}
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "2", "LISTEN_FDNAMES": ":".join(listed)}
    assert activated(environ, 1) == {"rw": 3, "ro": 4}


def test_both_sockets_belong_to_the_service():
    service = unit("xenopsd@.service")
    assert service["Service"]["Sockets"].split() == [name.replace("@", "@%i") for name in SOCKETS]
    assert service["Install"]["Also"] == service["Service"]["Sockets"]
    assert unit("xenopsd-ro@.socket")["Socket"]["Service"] == "xenopsd@%i.service"


def test_the_end_of_the_daemon_is_not_that_of_vms():
    service = unit("xenopsd@.service")["Service"]
    assert service["KillMode"] == "process"
    assert service["RuntimeDirectoryPreserve"] == "yes"
    assert service["RuntimeDirectory"] == places({}, root=True).run.name
    # Draining, and what else it does at its end.
    assert int(service["TimeoutStopSec"]) > load({}, {}, None, None).deadlines.drain + 5
