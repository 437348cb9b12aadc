import os
import select
import signal
import threading
import time
from pathlib import Path

import pytest
import structlog

from idl.errors import DeadlineExceeded, HookFailed
from xenopsd.hooks import HOOKS, HookStopped, Occasion, run, scripts

LONG = 60.0  # seconds, and no test gets there
OCCASION = Occasion(
    hook="vm-pre-start", vm="web", uuid="u-u-i-d", reason="none", instance="default"
)


@pytest.fixture
def script(tmp_path):
    """Makes an executable of a shell text."""

    def make(text, mode=0o755, name="script"):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(mode)
        return path

    return make


def ended(path, **options):
    run(path, OCCASION, **{"deadline": time.monotonic() + LONG, **options})


def failure(path):
    with pytest.raises(HookFailed) as caught:
        ended(path)
    return caught.value


class Heard:
    """A pipe that a script writes by name, read with a deadline."""

    def __init__(self, path):
        os.mkfifo(path)
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def line(self):
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        assert poll.poll(LONG * 1000), "the script said nothing"
        return os.read(self.descriptor, 4096).decode().strip()


@pytest.fixture
def heard(tmp_path):
    heard = Heard(tmp_path / "heard")
    yield heard
    os.close(heard.descriptor)


@pytest.fixture
def bell():
    """A descriptor that becomes readable when it is rung."""
    descriptor = os.eventfd(0)
    yield descriptor
    os.close(descriptor)


class Running:
    """A run on a thread of its own, and the exception that ended it."""

    def __init__(self, path, **options):
        self.error = None
        self.thread = threading.Thread(target=self.call, args=(path,), kwargs=options)
        self.thread.start()

    def call(self, path, **options):
        try:
            ended(path, **options)
        except Exception as error:  # noqa: BLE001 -- handed to the test
            self.error = error

    def result(self):
        self.thread.join(LONG)
        assert not self.thread.is_alive()
        return self.error


def descriptors():
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def is_over(pidfd):
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(LONG * 1000))


# Which scripts


def test_a_hook_without_a_directory_has_no_scripts(tmp_path):
    assert scripts(tmp_path, "vm-pre-start") == ()


def test_scripts_run_in_the_order_of_their_names(tmp_path):
    hook = tmp_path / "vm-pre-start"
    hook.mkdir()
    for name in ("20-b", "10-a", "readme", ".swap"):
        (hook / name).touch()
    (hook / "lib").mkdir()
    (hook / "dangling").symlink_to("nowhere")
    (tmp_path / "vm-post-start").mkdir()
    names = [path.name for path in scripts(tmp_path, "vm-pre-start")]
    assert names == ["10-a", "20-b", "dangling", "readme"]


def test_a_directory_that_cannot_be_listed_fails_the_hook(tmp_path):
    (tmp_path / "vm-pre-start").touch()
    with pytest.raises(HookFailed) as caught:
        scripts(tmp_path, "vm-pre-start")
    assert caught.value.status == 126


def test_every_hook_is_named():
    assert len(set(HOOKS)) == 11


# What a script sees


def test_a_script_is_told_what_happens_and_to_whom(script, tmp_path):
    ended(script(f'echo "$@" $XENOPSD_HOOK $XENOPSD_VM > {tmp_path}/said'))
    said = (tmp_path / "said").read_text()
    assert said == "-vmuuid u-u-i-d -reason none vm-pre-start web\n"


def test_a_script_has_a_clean_environment(script, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_DAEMON", "1")
    path = script(f"exec env > {tmp_path}/said")
    extra = {"XENOPSD_DOMID": "7", "XENOPSD_VM": "another"}
    occasion = Occasion(
        hook="vm-post-start", vm="web", uuid="u", reason="r", instance="i", extra=extra
    )
    run(path, occasion, deadline=time.monotonic() + LONG)
    said = dict(line.split("=", 1) for line in (tmp_path / "said").read_text().splitlines())
    assert {k: v for k, v in said.items() if k.startswith("XENOPSD_")} == {
        "XENOPSD_HOOK": "vm-post-start",
        "XENOPSD_VM": "web",
        "XENOPSD_REASON": "r",
        "XENOPSD_INSTANCE": "i",
        "XENOPSD_DOMID": "7",
    }
    rest = {k for k in said if not k.startswith("XENOPSD_")}
    assert {"PATH", "LANG"} <= rest <= {"PATH", "LANG", "PWD", "SHLVL", "_", "OLDPWD"}


def test_a_script_reads_nothing_and_inherits_no_descriptor(script, tmp_path):
    with (tmp_path / "open").open("w") as inherited:
        os.set_inheritable(inherited.fileno(), True)
        ended(script(f"cat > {tmp_path}/read; ls /proc/self/fd > {tmp_path}/said"))
    assert (tmp_path / "read").read_text() == ""
    # The last one is the directory that ls reads.
    assert (tmp_path / "said").read_text().split() == ["0", "1", "2", "3"]


def test_a_script_is_the_leader_of_a_session_of_its_own(script, tmp_path):
    ended(script(f"cut -d' ' -f 1,5,6 /proc/$$/stat > {tmp_path}/said"))
    assert len(set((tmp_path / "said").read_text().split())) == 1


# How it ends


def test_status_0_is_success(script):
    ended(script("exit 0"))


def test_status_1_is_logged_and_goes_on(script):
    path = script("echo no; exit 1")
    with structlog.testing.capture_logs() as logged:
        ended(path)
    assert [(e["event"], e["script"], e["output"]) for e in logged] == [
        ("hook_objected", "script", "no")
    ]


def test_any_other_status_fails_with_the_output(script):
    failed = failure(script("echo to stdout; echo to stderr >&2; exit 3"))
    assert (failed.hook, failed.status) == ("vm-pre-start", 3)
    assert failed.output == "to stdout\nto stderr"


def test_death_by_a_signal_is_a_failure_with_its_number(script):
    assert failure(script("kill -9 $$")).status == -signal.SIGKILL


def test_a_script_that_is_not_executable_is_reported(script):
    failed = failure(script("exit 0", mode=0o644))
    assert failed.status == 126
    assert "script" in failed.output


def test_a_script_without_its_interpreter_is_reported(tmp_path):
    path = tmp_path / "script"
    path.write_text("#!/nowhere/interpreter\n")
    path.chmod(0o755)
    assert failure(path).status == 127


def test_a_file_that_is_no_program_is_reported(tmp_path):
    path = tmp_path / "script"
    path.write_text("exit 0\n")
    path.chmod(0o755)
    assert failure(path).status == 126


def test_only_the_end_of_a_long_output_is_kept(script):
    failed = failure(script("head -c 1000000 /dev/zero | tr '\\0' x; echo the end; exit 2"))
    assert len(failed.output) <= 4096
    assert failed.output.endswith("xthe end")


def test_output_that_is_no_text_is_reported_as_well_as_can_be(script):
    assert failure(script("printf 'a\\377b'; exit 2")).output == "a\ufffdb"


def test_a_script_that_closes_its_output_is_waited_for(script, tmp_path, heard):
    gate = Heard(tmp_path / "gate")
    run_ = Running(script(f"exec >&- 2>&-; echo up > {heard.path}; read x < {gate.path}; exit 4"))
    assert heard.line() == "up"
    os.write(gate.descriptor, b"go\n")
    assert run_.result().status == 4
    os.close(gate.descriptor)


def test_what_a_script_leaves_running_is_not_waited_for(script, heard):
    ended(script(f"sleep 1000 & echo $! > {heard.path}"))
    left = int(heard.line())
    os.kill(left, signal.SIGKILL)  # still there


# When it does not end


def test_a_script_is_killed_at_its_deadline(script):
    with pytest.raises(DeadlineExceeded) as caught:
        ended(script("exec sleep 1000"), deadline=time.monotonic() + 0.05)
    assert "vm-pre-start" in caught.value.what
    assert "script" in caught.value.what


def test_a_script_that_never_stops_writing_is_killed_at_its_deadline(script):
    with pytest.raises(DeadlineExceeded):
        ended(script("exec yes"), deadline=time.monotonic() + 0.05)


def test_a_script_that_is_stopped_may_clean_up(script, heard, bell):
    text = f"trap 'echo bye > {heard.path}; exit' TERM; echo up > {heard.path}"
    run_ = Running(script(f"{text}; sleep 1000 & wait"), interrupt=bell, grace=LONG)
    assert heard.line() == "up"
    os.eventfd_write(bell, 1)
    assert heard.line() == "bye"
    assert isinstance(run_.result(), HookStopped)


def test_what_ignores_the_first_signal_dies_of_the_second_and_so_do_its_children(
    script, heard, bell
):
    text = f"trap '' TERM; sleep 1000 & echo $! > {heard.path}; wait"
    run_ = Running(script(text), interrupt=bell, grace=0.05)
    child = os.pidfd_open(int(heard.line()))
    os.eventfd_write(bell, 1)
    assert isinstance(run_.result(), HookStopped)
    assert is_over(child)
    os.close(child)


def test_children_die_even_where_their_parent_obeyed(script, heard, bell):
    text = f"(trap '' TERM; exec sleep 1000) & echo $! > {heard.path}; wait"
    run_ = Running(script(text), interrupt=bell, grace=LONG)
    child = os.pidfd_open(int(heard.line()))
    os.eventfd_write(bell, 1)
    assert isinstance(run_.result(), HookStopped)
    assert is_over(child)
    os.close(child)


def test_an_interruption_asked_for_before_the_start_stops_it(script, bell):
    os.eventfd_write(bell, 1)
    assert isinstance(Running(script("exec sleep 1000"), interrupt=bell).result(), HookStopped)


@pytest.mark.parametrize(
    "text", ["exit 0", "exit 1", "exit 2", "exec sleep 1000"], ids=lambda text: text
)
def test_no_descriptor_is_left_open_however_it_ends(script, text, bell):
    path = script(text)
    before = descriptors()
    if "sleep" in text:
        os.eventfd_write(bell, 1)
    for _ in range(3):
        Running(path, interrupt=bell if "sleep" in text else None).result()
    assert descriptors() == before
