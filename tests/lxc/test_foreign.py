"""Containers that others run with liblxc: told of, and left alone."""

import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from rigs.container import Images
from rigs.daemon import DaemonProcess, eventually

from idl.errors import Unimplemented
from idl.vm import Container, Vm

CONFIG = """
lxc.uts.name = theirs
lxc.rootfs.path = dir:{root}
lxc.init.cmd = /bin/sleep 1000000
lxc.console.path = none
lxc.tty.max = 0
lxc.net.0.type = empty
"""


@pytest.fixture
def theirs() -> Iterator[tuple[Path, str]]:
    """A container of somebody else: its directory, and its name."""
    with tempfile.TemporaryDirectory(prefix="xenopsd-") as name:
        directory = Path(name).resolve()
        directory.chmod(0o755)
        root = directory / "root"
        shutil.copytree(Images(directory / "images").directory, root, symlinks=True)
        config = directory / "config"
        config.write_text(CONFIG.format(root=root))
        container = f"theirs-{uuid.uuid4().hex[:8]}"
        options = ["-P", str(directory), "-n", container]
        subprocess.run(["lxc-start", *options, "-f", config], check=True, timeout=60)
        try:
            yield directory, container
        finally:
            subprocess.run(["lxc-stop", *options, "-k"], check=True, timeout=60)


@pytest.fixture
def daemon(tmp_path) -> Iterator[DaemonProcess]:
    with tempfile.TemporaryDirectory(prefix="xenopsd-") as name:
        found = DaemonProcess(Path(name), backend="lxc")
        found.start()
        found.recovered()
        yield found
        found.remove()


def test_a_container_of_others_is_listed_and_left_alone(theirs, daemon):
    directory, container = theirs
    with daemon.client() as client:
        listed = {found.id: found for found in client.host.list_foreign()}
        found = listed[str(directory / container)]
        assert found.name == container
        assert found.why
        client.vm.add(Vm(id=container, guest=Container()))
        with pytest.raises(Unimplemented):
            client.run(client.vm.adopt(container, found.id), 30.0)
        client.run(client.vm.shutdown(container), 30.0)
        client.vm.remove(container)
        assert found.id in {one.id for one in client.host.list_foreign()}
    state = ["lxc-info", "-P", directory, "-n", container, "-s"]
    assert "RUNNING" in subprocess.run(state, check=True, capture_output=True, text=True).stdout


def test_one_that_has_ended_is_listed_no_more(theirs, daemon):
    directory, container = theirs
    stop = ["lxc-stop", "-P", directory, "-n", container, "-k"]
    subprocess.run(stop, check=True, timeout=60)
    try:
        with daemon.client() as client:
            eventually(
                lambda: (
                    str(directory / container) not in {f.id for f in client.host.list_foreign()}
                )
            )
    finally:
        start = ["lxc-start", "-P", directory, "-n", container, "-f", directory / "config"]
        subprocess.run(start, check=True, timeout=60)
