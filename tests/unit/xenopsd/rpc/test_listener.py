import os
import socket
import stat

import pytest

from xenopsd.rpc.listener import AddressInUse, listen


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s"


def test_the_file_has_its_mode_and_goes_with_the_listener(path):
    listener = listen(path, mode=0o640)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    listener.close()
    assert not path.exists()


def test_a_stale_file_is_replaced(path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    listener = listen(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()


def test_a_live_socket_is_left_alone(path):
    listener = listen(path)
    with pytest.raises(AddressInUse, match=str(path)) as caught:
        listen(path)
    assert caught.value.path == path
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()


def test_a_file_that_is_no_socket_is_left_alone(path):
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="no socket"):
        listen(path)
    assert path.read_text() == "precious"


def test_the_file_of_another_is_left_alone(path):
    listener = listen(path)
    path.unlink()
    path.write_text("another's")
    listener.close()
    assert path.read_text() == "another's"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another group")
def test_the_file_belongs_to_the_group(path):
    listener = listen(path, group=54321)
    assert path.stat().st_gid == 54321
    listener.close()
