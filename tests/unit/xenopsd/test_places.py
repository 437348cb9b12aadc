"""Default directories."""

from pathlib import Path

import pytest

from xenopsd.places import Places, places, readonly_socket_path, socket_path


@pytest.mark.parametrize(
    ("environ", "root", "expected"),
    [
        pytest.param(
            {"HOME": "/root", "XDG_STATE_HOME": "/elsewhere"},
            True,
            Places(Path("/run/xenopsd"), Path("/var/lib/xenopsd"), Path("/etc/xenopsd")),
            id="root has the system's",
        ),
        pytest.param(
            {
                "HOME": "/home/u",
                "XDG_RUNTIME_DIR": "/run/user/1",
                "XDG_STATE_HOME": "/s",
                "XDG_CONFIG_HOME": "/c",
            },
            False,
            Places(Path("/run/user/1/xenopsd"), Path("/s/xenopsd"), Path("/c/xenopsd")),
            id="a user has those of XDG",
        ),
        pytest.param(
            {"HOME": "/home/u"},
            False,
            Places(
                Path("/home/u/.cache/xenopsd/run"),
                Path("/home/u/.local/state/xenopsd"),
                Path("/home/u/.config/xenopsd"),
            ),
            id="a user without XDG has those below home",
        ),
    ],
)
def test_places(environ: dict[str, str], root: bool, expected: Places):
    assert places(environ, root=root) == expected


def test_an_instances_file_comes_before_the_common_one():
    found = places({}, root=True).config_files("blue")
    assert found == (Path("/etc/xenopsd/blue.toml"), Path("/etc/xenopsd/xenopsd.toml"))


def test_sockets():
    assert socket_path(Path("/run"), "blue") == Path("/run/blue.sock")
    assert readonly_socket_path(Path("/run"), "blue") == Path("/run/blue-ro.sock")
