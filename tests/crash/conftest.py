"""Places of the crash tests: in memory where the machine has that, for they sync and remove much."""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog
from rigs.inline import one_thread

MEMORY = Path("/dev/shm")


@contextmanager
def directory(prefix: str) -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix=prefix, dir=MEMORY if MEMORY.is_dir() else None))
    try:
        yield made
    finally:
        shutil.rmtree(made)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory for the daemons of a module; its name is short enough for sockets."""
    with directory("crash-") as made:
        yield made


@pytest.fixture
def inline_place() -> Iterator[Path]:
    """A directory for daemons on one thread (`rigs.inline`), which log nothing."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with directory("inline-") as made, one_thread():
        yield made
    structlog.configure(**before)
