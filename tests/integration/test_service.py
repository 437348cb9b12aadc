"""The daemon as a service: what its manager hears of it."""

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rigs.daemon import DaemonProcess, eventually
from rigs.manager import Manager, manager

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
