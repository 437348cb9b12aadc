"""What a service manager is told."""

import os
import socket
import tempfile
from pathlib import Path

import pytest

from xenopsd.notify import Notifier, drop_from_children


@pytest.fixture
def manager():
    """A service manager's socket; its path is short enough to be one."""
    with tempfile.TemporaryDirectory(prefix="xo-") as directory:
        path = Path(directory) / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(str(path))
            sock.settimeout(10)
            yield sock, path


def test_lines_arrive_as_one_message(manager):
    sock, path = manager
    Notifier({"NOTIFY_SOCKET": str(path)}).tell("READY=1", "STATUS=recovering 3 VMs")
    assert sock.recv(4096) == b"READY=1\nSTATUS=recovering 3 VMs"


def test_an_abstract_socket_is_meant_by_an_at_sign():
    name = f"xenopsd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{name}")
        sock.settimeout(10)
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).tell("STOPPING=1")
        assert sock.recv(4096) == b"STOPPING=1"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/no/such"}])
def test_nobody_who_listens_is_no_reason_to_stop(environ):
    Notifier(environ).tell("READY=1")


def test_no_child_speaks_for_the_daemon(monkeypatch):
    told = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID")
    for name in told:
        monkeypatch.setenv(name, "1")
    drop_from_children()
    drop_from_children()
    assert not os.environ.keys() & {*told}
