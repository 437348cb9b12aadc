"""What the rig answers when the machine, the command or the tests in it go wrong."""

import io
import os
import tarfile
import time
from pathlib import Path

import pytest
from rigs.machine import image, rig


def watch(script: str, *, boot: float = 30.0, deadline: float = 30.0) -> bytes:
    heard = io.BytesIO()
    rig.watch(["sh", "-c", script], heard.write, boot=boot, deadline=deadline)
    return heard.getvalue()


def disk(place: Path, **files: str) -> Path:
    with tarfile.open(place, "w") as tar:
        for name, text in files.items():
            rig._add(tar, name, text)
    return place


def test_a_machine_that_is_up_and_ends_is_followed_to_its_end():
    assert watch("echo 'rig: up'; echo more") == b"rig: up\nmore\n"


def test_a_mark_in_two_pieces_is_seen():
    assert watch("printf 'rig:'; sleep 0.2; echo ' up'") == b"rig: up\n"


def test_a_machine_that_ends_before_it_is_up_fails():
    with pytest.raises(rig.RigFailed, match="ended before the rig was up"):
        watch("echo 'Kernel panic'")


def test_a_machine_that_is_not_up_in_time_fails_and_is_killed(tmp_path: Path):
    pid = tmp_path / "pid"
    began = time.monotonic()
    with pytest.raises(rig.RigFailed, match=r"not up within 0\.5 s"):
        watch(f"echo $$ > {pid}; exec sleep 60", boot=0.5)
    assert time.monotonic() - began < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_command_that_does_not_end_in_time_fails():
    with pytest.raises(rig.RigFailed, match=r"command did not end within 1 s"):
        watch("echo 'rig: up'; exec sleep 60", deadline=1.0)


def test_results_come_back_with_the_status(tmp_path: Path):
    (tmp_path / "results").mkdir()
    status = rig.unpack(disk(tmp_path / "disk", status="7\n", note="x"), tmp_path / "results")
    assert status == 7
    assert (tmp_path / "results" / "note").read_text() == "x"


@pytest.mark.parametrize("content", [b"", bytes(1 << 20), b"no tar" * 1000])
def test_a_disk_without_results_fails(tmp_path: Path, content: bytes):
    (tmp_path / "results").mkdir()
    (tmp_path / "disk").write_bytes(content)
    with pytest.raises(rig.RigFailed, match="brought no results back"):
        rig.unpack(tmp_path / "disk", tmp_path / "results")


def test_results_without_a_status_fail(tmp_path: Path):
    (tmp_path / "results").mkdir()
    with pytest.raises(rig.RigFailed, match="brought no results back"):
        rig.unpack(disk(tmp_path / "disk", note="x"), tmp_path / "results")


@pytest.mark.parametrize(
    ("counts", "passed"),
    [
        ('tests="5" failures="1" errors="1" skipped="2"', 1),
        ('tests="2" failures="0" errors="0" skipped="2"', 0),
        ('tests="0" failures="0" errors="0" skipped="0"', 0),
    ],
)
def test_skipped_tests_have_not_passed(tmp_path: Path, counts: str, passed: int):
    report = tmp_path / "junit.xml"
    report.write_text(f"<testsuites><testsuite {counts}/></testsuites>")
    assert rig.passed(report) == passed


@pytest.mark.parametrize("text", [None, "", "<testsuites>"])
def test_tests_without_a_report_fail(tmp_path: Path, text: str | None):
    report = tmp_path / "junit.xml"
    if text is not None:
        report.write_text(text)
    with pytest.raises(rig.RigFailed, match="left no report"):
        rig.passed(report)


def test_the_guest_gets_the_checkout_and_the_command():
    packed = rig.pack(image.CHECKOUT, "true\n")
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        names = tar.getnames()
        command = tar.extractfile("command")
        assert command is not None
        assert command.read() == b"true\n"
    assert "project/tests/rigs/machine/guest-init" in names
    assert "project/setup.cfg" in names
    assert not [name for name in names if name.startswith("project/.venv")]


def test_the_guest_has_what_the_runtime_and_the_tests_import():
    names = {line.split()[0] for line in image.requirements()}
    assert {"msgspec", "uvloop", "pytest", "hypothesis"} <= names
    assert not names & {"ruff", "mypy", "mkdocs-material"}


def test_an_image_that_failed_to_build_is_not_taken_for_a_built_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built = []

    def fails(place: Path) -> None:
        (place / "half").write_text("")
        raise image.CannotBuild("no disk")

    def works(place: Path) -> None:
        assert not list(place.iterdir())
        built.append(place)

    with pytest.raises(image.CannotBuild):
        image._cached("rig-x", ["recipe"], fails, print)
    for _ in range(2):
        place = image._cached("rig-x", ["recipe"], works, print)
        assert place.is_dir()
    assert len(built) == 1
    assert image._cached("rig-x", ["another"], works, print) != place


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A rig whose machine is a shell script: it has its disks as files."""
    for name in ("system", "python"):
        monkeypatch.setattr(image, name, lambda say, name=name: tmp_path / name)
    monkeypatch.setattr(rig, "GRACE", 1.0)

    def pretend(script: str) -> Path:
        def machine(variant: object, disks: rig.Disks, serial: str) -> list[str]:
            return ["sh", "-c", script.replace("DISK", str(disks.results))]

        monkeypatch.setattr(rig, "qemu", machine)
        return tmp_path / "results"

    return pretend


def ends_with(report: str, status: int = 0) -> str:
    """A machine that boots and brings a report back."""
    files = f"echo {status} > status; echo '{report}' > junit.xml"
    return f"echo 'rig: up'; cd $(mktemp -d); {files}; tar -cf DISK status junit.xml; rm -r $PWD"


def test_tests_that_passed_pass(pretended):
    results = pretended(ends_with('<testsuite tests="2" skipped="1"/>'))
    assert rig.test([], results, deadline=30, variant="linux") == 0
    assert (results / "serial.log").read_text() == "rig: up\n"
    assert (results / "junit.xml").exists()


def test_a_failing_command_fails(pretended):
    results = pretended(ends_with("<testsuite/>", status=7))
    assert rig.run(["false"], results, deadline=30, variant="linux") == 7


def test_tests_that_were_all_skipped_fail(pretended):
    results = pretended(ends_with('<testsuite tests="2" skipped="2"/>'))
    with pytest.raises(rig.RigFailed, match="no test has passed"):
        rig.test([], results, deadline=30, variant="linux")
    assert (results / "junit.xml").exists()


def test_what_a_machine_said_that_never_came_up_is_kept(pretended):
    results = pretended("echo 'Kernel panic'")
    results.mkdir()
    (results / "junit.xml").write_text("of an earlier run")
    with pytest.raises(rig.RigFailed, match="ended before"):
        rig.test([], results, deadline=30, variant="linux")
    assert [file.name for file in results.iterdir()] == ["serial.log"]
    assert "Kernel panic" in (results / "serial.log").read_text()
