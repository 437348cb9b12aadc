"""A container that liblxc does not start: why not, and nothing is left."""

import tempfile
from pathlib import Path

import pytest
from rigs.container import Images
from rigs.daemon import DaemonProcess

from idl.errors import HypervisorError
from idl.vbd import Local, Vbd
from idl.vm import Container, Vm


@pytest.fixture
def daemon():
    """One whose run directory no container can come by: one above it is root's alone."""
    with tempfile.TemporaryDirectory(prefix="xenopsd-") as name:
        directory = Path(name).resolve()
        config = directory / "config.toml"
        config.write_text(f'[paths]\ndisks = ["{directory}/images"]\n')
        found = DaemonProcess(directory / "d", "--config", str(config), backend="lxc")
        try:
            yield found.start()
        finally:
            found.remove()


def test_a_start_that_fails_says_what_liblxc_said(daemon):
    image = Images(daemon.directory.parent / "images").directory
    daemon.recovered()
    with daemon.client() as client:
        client.vm.add(Vm(id="ct", memory_static_max=64 << 20, guest=Container()))
        root = Local(path=str(image), format="directory", overlay=True)
        client.vbd.add(Vbd(id="ct/root", position=0, backend=root))
        with pytest.raises(
            HypervisorError, match=r"Could not access .* grant it x access"
        ) as failed:
            client.run(client.vm.start("ct"), 30.0)
        assert "Errno" not in str(failed.value)
        assert client.vm.stat("ct").state.power_state == "halted"
        client.vm.remove("ct")
    assert not list(daemon.run_dir.glob("lxc/default/ct"))
