"""`python -m bench --quick`: every scenario runs, and its rows say what was to be measured.

How fast anything is, is not looked at.
"""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.interface import Available
from backends.lxc.plugin import Plugin

ROOT = Path(__file__).parents[2]
MARKS = "before\n<!-- written by `make bench WRITE_DOCS=1`: {} -->\n"
#: Beginnings of the rows that must be there; those of peers are there without a figure too.
WANTED = {
    "reads": ["VM.stat over libvirt", "VM.stat over LXD", "VM.stat, ", "the raw floor"],
    "micro-op": ["overhead of a journalled micro-op"],
    "starts": ["starts of", "shutdowns of", "VM.stat meanwhile, p50", "VM.stat meanwhile, p99"],
    "restart": ["SIGKILL and restart with 20 running VMs: sockets", "SIGKILL and restart with 20"],
    "updates": ["update, event to answered", "update, event to the last", "a guest crashes"],
    "memory": ["resident with 20 running", "growth with each"],
    "hung": [
        "one VM hangs: VM.stat",
        "one VM hangs: a hard",
        "4 VMs hang",
        "one VM hangs: another",
    ],
    "containers": ["VM.start less lxc-start", "VM.start over LXD's lxc start"],
}


def bench(*arguments):
    """A quick run, on standard output."""
    command = [sys.executable, "-m", "bench", "--quick", *arguments]
    found = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def commands() -> Iterator[tuple[str, str]]:
    """Every process: its pid, its arguments."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield process.name, (process / "cmdline").read_text(errors="replace")


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Where servers write: open to the users of containers, as pytest's directories are not."""
    with tempfile.TemporaryDirectory(prefix="measured-") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


@pytest.fixture(scope="module")
def run(tmp_path_factory, place):
    """One quick run of everything: its output, its JSON, its page."""
    directory = tmp_path_factory.mktemp("bench")
    page, file = directory / "page.md", directory / "bench.json"
    page.write_text(MARKS.format("begin") + MARKS.format("end") + "after\n")
    where = ("--directory", str(place))
    output = bench("--json", str(file), "--write-docs", str(page), *where)
    return output, json.loads(file.read_text()), page


def test_every_scenario_has_its_rows(run):
    output, report, _ = run
    for scenario, beginnings in WANTED.items():
        rows = [row["what"] for row in report["rows"] if row["scenario"] == scenario]
        for beginning in beginnings:
            assert any(what.startswith(beginning) for what in rows), f"{scenario}: {beginning}"
    assert all(row["what"] in output for row in report["rows"])


def test_whatever_is_installed_is_measured(run):
    _, report, _ = run
    unmeasured = [row["note"] for row in report["rows"] if row["measured"] is None]
    assert all(unmeasured), "a row without a figure says why"
    if shutil.which("libvirtd"):
        assert "libvirtd is not installed" not in unmeasured
    assert all(row["measured"] > 0 for row in report["rows"] if row["unit"] == "calls/s")


def test_containers_are_measured_where_they_can_be(run):
    _, report, _ = run
    rows = {row["what"]: row for row in report["rows"] if row["scenario"] == "containers"}
    if isinstance(Plugin().probe(), Available) and shutil.which("lxc-start"):
        assert rows["VM.start less lxc-start, call to running"]["measured"] is not None
        spent = {what for what in rows if what.startswith("of VM.start: ")}
        assert {"of VM.start: vm_create", "of VM.start: vm_unpause"} <= spent
        if not (shutil.which("lxd") and shutil.which("lxc")):
            note = rows["VM.start over LXD's lxc start, call to running"]["note"]
            assert note == "LXD is not installed"


def test_a_run_leaves_nothing(run, place):
    assert list(place.iterdir()) == []
    assert str(place) not in Path("/proc/self/mounts").read_text()
    assert [pid for pid, command in commands() if str(place) in command] == []


def test_the_curves_have_a_point_for_each_size(run):
    _, report, _ = run
    assert [point["vms"] for point in report["curves"]] == [5, 10]
    assert all(value > 0 for point in report["curves"] for value in point.values())


def test_a_page_gets_the_figures_and_keeps_its_words(run):
    _, report, page = run
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert all(f"| {row['what']} |" in text for row in report["rows"])
    for picture in ("latency", "restart", "memory"):
        assert f"(pictures/{picture}.svg)" in text
        assert (
            (page.parent / "pictures" / f"{picture}.svg").read_text().rstrip().endswith("</svg>")
        )


def test_an_unknown_scenario_is_refused():
    command = [sys.executable, "-m", "bench", "nonsense"]
    found = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert found.returncode == 2
    assert "no such scenario: nonsense" in found.stderr
