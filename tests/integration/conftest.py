"""The real daemon over its real socket, as an outsider meets it.

One daemon serves all tests that need nothing special of it; each test has VMs of its own there.
XENOPSD_TEST_WORKERS is the size of its worker pool: with 1 everything here must pass as well.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from rigs.daemon import DaemonProcess
from rigs.lab import Lab

WORKERS = os.environ.get("XENOPSD_TEST_WORKERS", "4")

#: Where there is no disk to wait for: what only a crash of the host loses is not tested here.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

#: A daemon of a test's own: its configuration beyond the size of the pool, and arguments.
Start = Callable[..., Lab]


def configured(directory: Path, config: str, *arguments: str) -> DaemonProcess:
    """A daemon with this configuration (TOML; a `workers` in it wins), not started."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "config.toml"
    workers = "" if config.lstrip().startswith("workers") else f"workers = {WORKERS}\n"
    file.write_text(workers + config)
    return DaemonProcess(directory, "--config", str(file), *arguments)


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short, since the path of a socket may not be long."""
    with tempfile.TemporaryDirectory(prefix="xenopsd-", dir=MEMORY) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[[str], DaemonProcess]]:
    """The one daemon of each configuration; they serve many tests and are never restarted."""
    with ExitStack() as stack:
        serving: dict[str, DaemonProcess] = {}

        def served(config: str) -> DaemonProcess:
            if config not in serving:
                name = stack.enter_context(tempfile.TemporaryDirectory(prefix="xenopsd-", dir=MEMORY))
                daemon = serving[config] = configured(Path(name), config)
                stack.callback(daemon.kill)
                daemon.start()
                daemon.recovered()
            return serving[config]

        yield served


@pytest.fixture
def shared(serve: Callable[[str], DaemonProcess]) -> Iterator[Callable[[str], Lab]]:
    """The shared daemon of a configuration; the test's VMs are removed at its end, and leave
    nothing."""
    with ExitStack() as stack:

        def lab(config: str) -> Lab:
            found = Lab(serve(config))
            stack.callback(found.close)
            return found

        yield lab


@pytest.fixture
def lab(shared: Callable[[str], Lab]) -> Lab:
    """The shared daemon of those tests that need nothing special of it."""
    return shared("[reboot]\ndelay = 0.2\n")


@pytest.fixture
def start(directory: Path) -> Iterator[Start]:
    """Starts a daemon of the test's own."""
    with ExitStack() as stack:

        def started(config: str = "", *arguments: str, name: str = "d") -> Lab:
            daemon = configured(directory / name, config, *arguments)
            stack.callback(daemon.kill)
            daemon.start()
            daemon.recovered()
            found = Lab(daemon)
            stack.callback(found.client.close)
            return found

        yield started


@pytest.fixture(scope="session")
def pool_size() -> int:
    """How many workers the shared daemon has."""
    return int(WORKERS)
