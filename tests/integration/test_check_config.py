"""`xenopsd --check-config` as a process: it says what would count, and starts nothing."""

import os
import subprocess
import sys

import pytest


@pytest.fixture
def check(tmp_path):
    """Runs it on a config file."""

    def run(text: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "x.toml"
        file.write_text(text)
        return subprocess.run(
            [sys.executable, "-m", "xenopsd", "--check-config", "--config", str(file), *arguments],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **environ},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


def test_it_prints_what_counts_and_starts_nothing(check, tmp_path):
    state, run = tmp_path / "state", tmp_path / "run"
    ended = check("jobs = 3\n", "--state-dir", str(state), "--run-dir", str(run))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"file: {tmp_path}/x.toml" in ended.stdout
    assert not state.exists()
    assert not run.exists()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("wrokers = 3\n", "unknown key wrokers; did you mean workers?"),
        ("workers = 0\n", "workers: expected int >= 1"),
        ("[simulator]\nwordl = '/'\n", "simulator.wordl; did you mean simulator.world?"),
        ("[socket]\ngroup = 'no-such-group'\n", "socket.group: there is no group"),
        ("= =\n", "not valid TOML"),
    ],
)
def test_a_mistake_names_the_key_and_the_next_step(check, text, key):
    ended = check(text)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert key in ended.stderr
    assert "try again with `xenopsd --check-config`" in ended.stderr


def test_a_point_to_die_at_that_there_is_not_is_a_mistake(check):
    ended = check("", XENOPSD_KILL_AT="vm_creat:before,1")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(
        "xenopsd: XENOPSD_KILL_AT: 'vm_creat:before' is no point; vm_create:before"
    )
