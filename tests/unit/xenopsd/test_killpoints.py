"""Points at which the daemon dies: in a process of its own."""

import signal
import subprocess
import sys

import pytest

from idl.errors import InvalidParameter
from xenopsd.killpoints import VARIABLE, KillPoints, given

PROGRAM = """
import os
from xenopsd.killpoints import KillPoints
points = KillPoints(os.environ)
for number in range(5):
    points.passing("vm_create:before")
    print(number, flush=True)
    points.passing("vm_create:after")
print("lived")
"""


def outcome(**environ):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.split()


@pytest.mark.parametrize(
    ("armed", "status", "printed"),
    [
        ("vm_create:before,3", -signal.SIGKILL, ["0", "1"]),
        ("vm_create:after,1", -signal.SIGKILL, ["0"]),
        ("vm_create:before,6", 0, ["0", "1", "2", "3", "4", "lived"]),
    ],
)
def test_it_dies_at_the_passing_that_is_armed(armed, status, printed):
    assert outcome(XENOPSD_KILL_AT=armed) == (status, printed)


def test_the_points_passed_are_traced(tmp_path):
    trace = tmp_path / "trace"
    assert outcome(XENOPSD_KILL_TRACE=str(trace), XENOPSD_KILL_AT="vm_create:before,2") == (
        -signal.SIGKILL, ["0"],
    )
    assert trace.read_text().split() == ["vm_create:before", "vm_create:after", "vm_create:before"]


@pytest.mark.parametrize(
    ("point", "n", "name"),
    [
        ("vm_create", "1", "point"),
        ("", "1", "point"),
        ("vm_creat:before", "1", "point"),
        ("recovery:nowhere", "1", "point"),
        ("vm_create:after", "0", "n"),
        ("vm_create:after", "-1", "n"),
        ("vm_create:after", "x", "n"),
        ("vm_create:after", "", "n"),
        ("vm_create:after", "1.5", "n"),
    ],
)
def test_what_is_no_point_or_no_number_is_refused(point, n, name):
    with pytest.raises(InvalidParameter) as raised:
        KillPoints({}).arm(point, n)
    assert raised.value.name == name


def test_unarmed_nothing_happens():
    points = KillPoints({})
    points.arm("journal:append", "2")
    points.passing("journal:end")
    points.passing("journal:append")


@pytest.mark.parametrize(
    ("armed", "said"),
    [
        ("nowhere", "'nowhere' is not POINT,N"),
        ("vm_creat:before,1", "'vm_creat:before' is no point; vm_create:before"),
        ("vm_create:before,0", "'0' is not a number from 1"),
    ],
)
def test_a_point_of_the_environment_that_there_is_not_is_told(armed: str, said: str):
    with pytest.raises(InvalidParameter) as raised:
        given({VARIABLE: armed})
    assert said in raised.value.reason
