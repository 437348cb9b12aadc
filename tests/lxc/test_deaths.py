"""Some deaths of what is beside the daemon (`make sweep-lxc` has them all)."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree

import pytest
from crash.containers.cases import OPERATIONS
from crash.containers.deaths import Death, DeathLab, idle

START = next(operation for operation in OPERATIONS if operation.name == "VM.start")

CASES = (
    Death(idle("keeper"), moment=0.0, victim="keeper"),
    Death(idle("console"), moment=0.0, victim="console"),
    Death(START, moment=0.0, victim="job"),
    # As soon as there is one: before its first instruction.
    Death(START, moment=0.0, victim="init"),
)


@pytest.fixture(scope="module")
def lab() -> Iterator[DeathLab]:
    directory = Path(tempfile.mkdtemp(prefix="deaths-"))
    directory.chmod(0o755)
    try:
        lab = DeathLab(directory / "lab", alone=False)
        yield lab
        lab.close()
    finally:
        rmtree(directory)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_death_costs_its_own_vm_at_most_an_operation(lab: DeathLab, case: Death):
    assert lab.carry_out(case).failure == ""
