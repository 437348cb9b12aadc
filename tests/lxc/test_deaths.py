"""Some deaths of what is beside the daemon (`make sweep-lxc` has them all)."""

from collections.abc import Iterator

import pytest
from crash.containers.cases import OPERATIONS
from crash.containers.deaths import Death, DeathLab, idle
from crash.containers.lab import opened

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
    with opened(DeathLab) as lab:
        yield lab


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_death_costs_its_own_vm_at_most_an_operation(lab: DeathLab, case: Death):
    assert lab.carry_out(case).failure == ""
