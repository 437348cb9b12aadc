import importlib.util
from pathlib import Path

import pytest

FAKE = Path(__file__).parents[2] / "fakes" / "disk.py"


@pytest.fixture(scope="session")
def disks():
    """The module with the faulty disk."""
    spec = importlib.util.spec_from_file_location("fake_disk", FAKE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def disk(disks):
    """A disk without faults yet, with the directory /state."""
    disk = disks.FaultyDisk()
    disk.mkdir(Path("/state"))
    disk.root.settle()
    return disk
