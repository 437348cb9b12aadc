"""The daemon as a service: what its manager hears of it."""

import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rigs.daemon import DaemonProcess, eventually
from rigs.manager import Manager, manager

from idl.client import Client
from idl.errors import PermissionDenied
from idl.vm import Vm


@pytest.fixture
def listening() -> Iterator[Manager]:
    """The service manager."""
    with manager() as found:
        yield found


@pytest.fixture
def daemon() -> Iterator[DaemonProcess]:
    """Not started yet; its configuration is the file `config.toml` of its directory."""
    with tempfile.TemporaryDirectory(prefix="xo-") as name:
        directory = Path(name)
        (directory / "config.toml").write_text("workers = 2\n")
        made = DaemonProcess(directory, "--config", str(directory / "config.toml"))
        yield made
        made.kill()


def reload(daemon: DaemonProcess, text: str) -> None:
    (daemon.directory / "config.toml").write_text(text)
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)


def test_the_status_is_kept_true(daemon, listening):
    daemon.start(listening.environ)
    listening.has("READY")
    with daemon.client() as client:
        client.vm.add(Vm(id="one"))
        listening.status("1 VMs, 0 operations")
        client.vm.remove("one")
        listening.status("0 VMs, 0 operations")
    assert daemon.stop() == 0
    assert listening.has("STOPPING")["STATUS"] == "stopping"


def test_a_reload_takes_what_is_live_and_names_what_is_not(daemon, listening):
    daemon.start(listening.environ)
    listening.has("READY")
    for _ in range(2):  # the second one must not believe that the first one took it all
        reload(daemon, "workers = 3\njobs = 9\n[tasks]\nkeep = 5\n")
        assert int(listening.has("RELOADING")["MONOTONIC_USEC"]) > 0
        assert listening.has("READY")["STATUS"].endswith("restart needed for jobs, tasks.keep")
    assert '"restart_needed":["jobs","tasks.keep"]' in daemon.log.read_text()
    with daemon.client() as client:
        eventually(lambda: client.host.get_worker_pool().size == 3)
    reload(daemon, "workers = 3\n")
    listening.has("RELOADING")
    assert "restart" not in listening.has("READY")["STATUS"]


@pytest.mark.parametrize("bad", ["wrokers = 3\n", "[simulator]\nwordl = '/'\n", "= ="])
def test_a_broken_file_keeps_the_old_configuration_and_says_so(daemon, listening, bad):
    daemon.start(listening.environ)
    listening.has("READY")
    reload(daemon, bad)
    listening.has("RELOADING")
    status = listening.has("READY")["STATUS"]
    assert "the configuration is refused and the old one goes on: " in status
    with daemon.client() as client:
        assert client.host.get_worker_pool().size == 2


def test_the_watchdog_hears_that_it_lives(daemon, listening):
    daemon.start({**listening.environ, "WATCHDOG_USEC": "2000000"})
    for _ in range(5):
        listening.has("WATCHDOG")


def test_a_watchdog_of_another_process_hears_nothing(daemon, listening):
    watchdog = {"WATCHDOG_USEC": "400000", "WATCHDOG_PID": "1"}
    daemon.start({**listening.environ, **watchdog})
    with daemon.client() as client:
        client.vm.add(Vm(id="one"))
    listening.status("1 VMs")
    assert daemon.stop() == 0
    listening.has("STOPPING")
    assert [told for told in listening.told if "WATCHDOG" in told] == []


@pytest.fixture
def activated(daemon) -> DaemonProcess:
    """To be started by its first client."""
    if shutil.which("systemd-socket-activate") is None:
        pytest.skip("systemd is not installed")
    daemon.run_dir.mkdir()
    sockets = ("-l", str(daemon.socket), "-l", str(daemon.readonly_socket))
    daemon.arguments = [
        "systemd-socket-activate",
        *sockets,
        "--fdname=rw:ro",
        "-E",
        "PATH",
        *daemon.arguments,
    ]
    return daemon


def inodes(daemon: DaemonProcess) -> list[int]:
    return [path.stat().st_ino for path in (daemon.socket, daemon.readonly_socket)]


def test_its_first_client_starts_it(activated):
    activated.spawn()
    eventually(activated.readonly_socket.exists, why="the sockets are listened on")
    eventually(activated.socket.exists)
    assert not activated.state_dir.exists(), "nobody has asked yet"
    made = inodes(activated)
    with activated.client() as client:
        client.vm.add(Vm(id="one"))
        assert client.host.query().instance == "default"
    with Client(activated.readonly_socket, 60.0) as client:
        assert client.vm.exists("one")
        with pytest.raises(PermissionDenied):
            client.vm.remove("one")
    assert inodes(activated) == made, "made anew"
    assert activated.stop() == 0
    assert inodes(activated) == made, "removed, though they are not its own"


def test_a_socket_of_another_name_is_refused(activated):
    activated.arguments[activated.arguments.index("--fdname=rw:ro")] = "--fdname=rw:other"
    activated.spawn()
    eventually(activated.readonly_socket.exists, why="the sockets are listened on")
    eventually(activated.socket.exists)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(activated.socket))
        assert activated.wait() == 1
    assert "sockets named rw, other were handed over" in activated.log.read_text()
