"""`make run` where something is in its way."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rigs.pages import end_processes_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout() -> Iterator[Path]:
    # Its path is short, since that of a socket may not be long.
    with tempfile.TemporaryDirectory(prefix="xenopsd-") as name:
        made = Path(name)
        (made / "packaging").mkdir()
        shutil.copy(ROOT / "packaging/run-here", made / "packaging")
        (made / ".venv").symlink_to(sys.prefix)
        yield made
        end_processes_of(made)


def run_here(checkout: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    environ = {"HOME": str(checkout), "PATH": os.defpath, "XENOPSD_BACKEND": "simulator"}
    command = [str(checkout / "packaging/run-here"), *args]
    return subprocess.run(
        command, check=False, env=environ, capture_output=True, text=True, timeout=60
    )


def test_a_start_that_fails_tells_its_own_reason_alone(checkout: Path) -> None:
    for wrong in ("--wrokers=1", "--workers=0"):
        found = run_here(checkout, "start", wrong)
        assert found.returncode == 1
        assert found.stderr.startswith("it did not start; it says in .run/log:\n")
    assert "wrokers" not in found.stderr
    assert "option --workers: " in found.stderr


def test_a_daemon_that_runs_takes_no_options(checkout: Path) -> None:
    assert run_here(checkout, "start").returncode == 0
    assert "take" not in run_here(checkout, "start").stdout
    found = run_here(checkout, "start", "--debug")
    assert (found.returncode, found.stderr) == (0, "")
    assert ", and does not take --debug now; make stop first\n" in found.stdout
    assert run_here(checkout, "stop").stdout.startswith("stopped pid ")


def test_nothing_is_left_after_clean(checkout: Path) -> None:
    assert run_here(checkout, "clean").returncode == 0
    assert run_here(checkout, "start").returncode == 0
    assert run_here(checkout, "clean").stdout.startswith("stopped pid ")
    assert not (checkout / ".run").exists()
