"""Fixtures of the tests that need root and the real kernel: groups, processes, counters."""

import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from rigs.disks import Disks
from rigs.disks import disks as opened

#: How long anything may take here, in seconds.
LIMIT = 30.0


def _unable(reason: str) -> None:
    """In CI these tests have to run; elsewhere the machine may be unfit for them."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.fixture(autouse=True)
def root():
    """What every test here needs."""
    if os.geteuid() != 0:
        _unable("needs root")


@pytest.fixture
def unable() -> Callable[[str], None]:
    """Skip where the machine cannot; fail in CI."""
    return _unable


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Wait for something that comes by itself."""

    def wait(what: Callable[[], object], seconds: float = LIMIT) -> None:
        deadline = time.monotonic() + seconds
        nothing = threading.Event()
        while not what():
            assert time.monotonic() < deadline, f"not within {seconds} s"
            nothing.wait(0.01)

    return wait


@pytest.fixture
def disks(tmp_path, root) -> Iterator[Disks]:
    """A storage, and what is tried on it."""
    with opened(tmp_path.resolve()) as found:
        yield found
