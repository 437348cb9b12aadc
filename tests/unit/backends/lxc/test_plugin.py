"""What every daemon loads of the backend, whether containers run or not."""

import subprocess
import sys

import pytest

from backends.interface import Available, Unavailable
from backends.lxc.plugin import Plugin

LOADED = """
import sys
from backends import registry
registry.options()
registry.probe()
print(sorted(m for m in sys.modules if m.startswith(("pyroute2", "backends.lxc.network"))))
"""


def test_its_libraries_are_loaded_when_it_is_opened_and_not_before():
    said = subprocess.run(
        [sys.executable, "-c", LOADED], check=True, capture_output=True, text=True, timeout=60
    )
    assert said.stdout == "[]\n"


@pytest.mark.parametrize(
    ("user", "release", "expected"),
    [(1000, "6.1.0-13-amd64", "root"), (0, "5.10.0-28-amd64", "does not map the ids of mounts")],
)
def test_where_it_cannot_run_it_says_why(monkeypatch, user, release, expected):
    monkeypatch.setattr("os.geteuid", lambda: user)
    monkeypatch.setattr("platform.release", lambda: release)
    monkeypatch.setattr("backends.lxc.plugin._installed", lambda library: True)
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/sbin/{program}")
    found = Plugin().probe()
    assert isinstance(found, Unavailable)
    assert expected in found.reason


def test_a_real_backend_comes_before_the_simulator():
    found = Plugin().probe()
    assert isinstance(found, Unavailable) or found == Available(rank=10)
