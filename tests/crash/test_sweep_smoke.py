"""A dozen points of the sweep (`make sweep` does them all), and that it notices what it should."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from crash.bench import Case, Lab, Result
from crash.cases import OPERATIONS
from crash.sweep import double_kills, single_kills
from crash.table import markdown, text

BY_NAME = {operation.name: operation for operation in OPERATIONS}

CASES = (
    Case(BY_NAME["VM.start"]),
    Case(BY_NAME["VM.start"], "vbd_plug:after,2"),
    Case(BY_NAME["VM.start"], "journal:append,1"),
    Case(BY_NAME["VM.start"], "journal:end,1"),
    Case(BY_NAME["VM.reboot clean"], "vm_create:before,1"),
    Case(BY_NAME["VM.shutdown hard"], "vm_destroy:before,1"),
    Case(BY_NAME["VM.suspend"], "vm_commit_image:after,1"),
    Case(BY_NAME["VM.resume"], "vm_spend_image:before,1"),
    Case(BY_NAME["VBD.insert"], "vm_record:before,1"),
    Case(BY_NAME["VM.remove"], "vm_remove_record:before,1"),
    Case(BY_NAME["VM.add"], moment=0.001),
    Case(BY_NAME["guest reboots"], "vm_destroy:after,1"),
)
AGAIN = (
    Case(BY_NAME["VM.start"], "vm_build:after,1", second="recovery:load,1"),
    Case(BY_NAME["VM.resume"], "vm_unpause:after,1", second="recovery:repair,1"),
    Case(BY_NAME["VM.suspend"], "vm_save:after,1", second="journal:end,1"),
)


@pytest.fixture(scope="module")
def lab(place: Path) -> Iterator[Lab]:
    lab = Lab(place / "first", alone=False)
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def lab_alone(place: Path) -> Iterator[Lab]:
    lab = Lab(place / "second", alone=True)
    yield lab
    lab.close()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_crash_leaves_what_the_interface_promises(lab: Lab, case: Case):
    assert lab.carry_out(case).failure == ""


@pytest.mark.parametrize("case", AGAIN, ids=str)
def test_a_second_crash_changes_nothing(lab_alone: Lab, case: Case):
    result = lab_alone.carry_out(case)
    assert result.failure == ""
    assert result.died_again


def test_what_is_left_over_is_noticed(place: Path):
    lab = Lab(place / "third", alone=True)
    leaked = lab.daemon.world / "plugged" / "default" / "vm-1" / "vbd:disk@gone"
    operation = BY_NAME["VM.create"]

    def prepare(bench):
        operation.prepare(bench)
        leaked.parent.mkdir(exist_ok=True)
        leaked.touch()

    leaky = type(operation)(
        "leaky", prepare, operation.call, operation.done, operation.ends, operation.word
    )
    assert "ledger" in lab.carry_out(Case(leaky)).failure
    lab.close()


def test_every_passing_of_every_point_is_a_case():
    operation = BY_NAME["VM.pause"]
    points = ("journal:append", "vm_pause:before", "journal:append", "journal:end")
    found = Result(Case(operation), "paused", "completed", points)
    assert [case.point for case in single_kills(operation, found)] == [
        "journal:append,1",
        "vm_pause:before,1",
        "journal:append,2",
        "journal:end,1",
    ]
    assert {case.point for case in double_kills(operation, found)} == {"vm_pause:before,1"}


def test_the_table_tells_each_case_and_its_outcome():
    operation = BY_NAME["VM.pause"]
    points = ("journal:append", "vm_pause:before", "vm_pause:after", "journal:append")
    killed = [
        Result(Case(operation, f"{point},{n}"), "paused", "completed, interrupted")
        for point, n in (("vm_pause:before", 1), ("journal:append", 1), ("journal:append", 2))
    ]
    failed = Result(Case(operation, "vm_pause:after,1"), failure="it leaked")
    again = Result(Case(operation, "vm_pause:before,1", second="recovery:load,1"), "running")
    results = [Result(Case(operation), "paused", "completed", points), *killed, failed, again]
    page = markdown([operation], results)
    assert "`vm_pause:before`" in page
    assert "`journal:append` 1 to 2" in page
    assert "| `vm_pause:after` | FAILED | it leaked |" in page
    assert "5 crashes, 1 of them with a second one; 1 failed" in page
    assert "recovery:load" in text([operation], results)
