"""`xenops console` at the shell of a real container."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from rigs.container import Images
from rigs.daemon import DaemonProcess
from rigs.terminal import Terminal

from idl.vbd import Local, Vbd
from idl.vm import Container, Vm

XENOPS = Path(sys.executable).with_name("xenops")
LEAVE = "\x1d"


@pytest.fixture
def daemon() -> Iterator[DaemonProcess]:
    """One with a running container, `ct`, whose root is the small image."""
    with tempfile.TemporaryDirectory(prefix="xenopsd-") as name:
        directory = Path(name).resolve()
        # Containers have users of their own, who come by here.
        directory.chmod(0o755)
        image = Images(directory / "images").directory
        config = directory / "config.toml"
        config.write_text(f'[paths]\ndisks = ["{directory}/images"]\n')
        found = DaemonProcess(directory / "d", "--config", str(config), backend="lxc")
        try:
            found.start()
            found.recovered()
            with found.client() as client:
                client.vm.add(Vm(id="ct", memory_static_max=64 << 20, guest=Container()))
                root = Local(path=str(image), format="directory", overlay=True)
                client.vbd.add(Vbd(id="ct/root", position=0, backend=root))
                client.run(client.vm.start("ct"), 30.0)
            yield found
        finally:
            _end(found)


def _end(daemon: DaemonProcess) -> None:
    """Nothing of the VM is left, nor of the daemon."""
    if daemon.process is None:
        daemon.start()
        daemon.recovered()
    with daemon.client() as client:
        client.run(client.vm.shutdown("ct"), 30.0)
        client.vm.remove("ct")
    daemon.remove()


@pytest.fixture
def xenops(daemon) -> Iterator[Callable[..., Terminal]]:
    """Runs xenops on a terminal."""
    with ExitStack() as stack:

        def run(*args: str) -> Terminal:
            found = Terminal(XENOPS, *args, env={"XENOPS_SOCKET": str(daemon.socket)})
            stack.callback(found.close)
            return found

        yield run


def test_a_shell_is_worked_at_over_a_kill_of_the_daemon(daemon, xenops):
    screen = xenops("console", "ct")
    screen.until("ct:/root# ")
    screen.type("echo $((6*7))\r")
    screen.until("\n42\r")
    daemon.kill()
    screen.type("echo $((7*7))\r")
    screen.until("\n49\r")
    daemon.start()
    daemon.recovered()
    screen.type("echo $((8*7))\r")
    screen.until("\n56\r")
    screen.type(LEAVE)
    assert screen.end() == 0
    # Who comes later gets what was said last.
    again = xenops("console", "ct")
    again.until("\n56\r")
    again.type("poweroff\r")
    assert again.end() == 0
    assert "The console of ct has ended" in again.text
