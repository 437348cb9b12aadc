"""Sockets that are handed over by a service manager, told from those that are not."""

import os
import socket

import pytest

from xenopsd.config import load
from xenopsd.startup import StartFailed, activated, open_sockets


def environ(fds: int, names: str, pid: int = 7) -> dict[str, str]:
    return {"LISTEN_PID": str(pid), "LISTEN_FDS": str(fds), "LISTEN_FDNAMES": names}


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        pytest.param({}, {}, id="none"),
        pytest.param(environ(2, "rw:ro"), {"rw": 3, "ro": 4}, id="both"),
        pytest.param(environ(2, "ro:rw"), {"ro": 3, "rw": 4}, id="in the other order"),
        pytest.param(environ(1, "ro"), {"ro": 3}, id="one"),
        pytest.param(environ(2, "rw:ro", pid=8), {}, id="for another process"),
        pytest.param(environ(0, ""), {}, id="no descriptor"),
    ],
)
def test_descriptors_by_name(environ, found):
    assert activated(environ, 7) == found


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        pytest.param(environ(1, ""), "sockets named nothing", id="no name"),
        pytest.param(environ(2, "rw:xenopsd.socket"), "rw, xenopsd.socket", id="another name"),
        pytest.param(environ(2, "rw:rw"), "rw, rw", id="twice"),
        pytest.param(environ(2, "rw"), "rw, nothing", id="too few names"),
    ],
)
def test_a_socket_of_no_known_name_is_refused(environ, said):
    with pytest.raises(StartFailed, match=said) as raised:
        activated(environ, 7)
    assert "FileDescriptorName=" in str(raised.value)


@pytest.fixture
def config(tmp_path):
    options = {"run_dir": str(tmp_path / "run"), "state_dir": str(tmp_path / "state")}
    (tmp_path / "run").mkdir()
    return load(options, {}, None, None)


def test_a_socket_that_was_given_stays_its_givers(config):
    path = config.run_dir / "default.sock"
    with socket.socket(socket.AF_UNIX) as ours:
        ours.bind(str(path))
        ours.listen()
        before = path.stat().st_ino
        readwrite, readonly = open_sockets(config, {"rw": os.dup(ours.fileno())})
        assert (readwrite.path, readwrite.readonly) == (path, False)
        assert not os.get_inheritable(readwrite.sock.fileno())
        assert (readonly.path.name, readonly.readonly) == ("default-ro.sock", True)
        readwrite.close()
        readonly.close()
        assert path.stat().st_ino == before
        assert not readonly.path.exists()


def test_what_is_no_listening_socket_is_refused(config):
    with (
        socket.socket(socket.AF_UNIX) as idle,
        pytest.raises(StartFailed, match="no listening Unix stream socket"),
    ):
        open_sockets(config, {"rw": os.dup(idle.fileno())})
    assert list(config.run_dir.iterdir()) == []
