"""`xenops` on a real pseudo-terminal: bars, tables, questions, Ctrl-C, the Tab of shells."""

import os
import re
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from rigs.terminal import DEADLINE, Terminal

from idl.errors import Cancelled

XENOPS = Path(sys.executable).with_name("xenops")
ROOT = Path(__file__).parents[2]
CTRL_C = "\x03"
#: The terminal has its own screen back.
LEFT = "\x1b[?1049l"

#: No deadline ends a hang here.
PATIENT = "[deadlines]\nshort = 3000\n"

Open = Callable[..., Terminal]


@pytest.fixture
def terminal() -> Iterator[Open]:
    """Opens terminals; what still runs at the end is killed."""
    with ExitStack() as stack:

        def opened(*argv: str | Path, **options: object) -> Terminal:
            found = Terminal(*argv, **{"env": {}, **options})
            stack.callback(found.close)
            return found

        yield opened


@pytest.fixture
def xenops(terminal: Open):
    """Runs xenops on a terminal, against a lab's daemon."""

    def run(lab, *args: str, **env: str) -> Terminal:
        return terminal(XENOPS, *args, env={"XENOPS_SOCKET": str(lab.daemon.socket), **env})

    return run


# Waiting


def test_a_bar_shows_the_operation_and_its_micro_op(lab, xenops):
    id = lab.vm()
    lab.trigger("hang", "vm_build", 1, "deaf")
    screen = xenops(lab, "start", id)
    screen.until(f"VM.start {id}: vm_build")
    assert "━" in screen.text
    lab.client.debug.trigger("undeaf", [])
    assert screen.end() == 0
    assert lab.power_state(id) == "running"


def test_an_interrupt_cancels_and_says_so(lab, xenops):
    id = lab.vm()
    task = lab.client.vm.delay(id, 600)
    screen = xenops(lab, "task", "wait", task)
    screen.until(f"VM.delay {id}")
    screen.type(CTRL_C)
    screen.until(f"Cancelling task {task}; Ctrl-C again leaves it to itself.")
    assert screen.end() == 1
    assert f"Task {task} was cancelled." in screen.text
    lab.failure(task, Cancelled)


def test_a_second_interrupt_detaches_and_prints_the_task(shared, xenops):
    lab = shared(PATIENT)
    id = lab.vm()
    lab.trigger("hang", "vm_build", 1, "deaf")
    screen = xenops(lab, "start", id)
    screen.until("vm_build")
    screen.type(CTRL_C)
    screen.until("Cancelling task")
    screen.type(CTRL_C)
    assert screen.end() == 4
    (task,) = [found.id for found in lab.client.task.list() if found.vm == id]
    assert re.search(rf"^{task}\r?$", screen.text, re.MULTILINE)
    assert f"xenops task wait {task} watches it again" in " ".join(screen.text.split())
    assert not lab.client.task.stat(task).ended
    lab.disarm()
    lab.end(task)


def test_a_wait_says_where_the_vm_is(lab, xenops):
    id = lab.vm()
    screen = xenops(lab, "wait", id, "--for", "running")
    screen.until(f"{id} is halted; waiting for running")
    lab.run(lab.client.vm.start(id))
    assert screen.end() == 0
    assert not re.split(r"[\r\n]", screen.text.rstrip("\r\n"))[-1].strip(), (
        "it takes its line back"
    )


def test_a_wait_stays_on_its_line(lab, terminal):
    id = lab.vm()
    env = {"XENOPS_SOCKET": str(lab.daemon.socket)}
    screen = terminal(XENOPS, "wait", id, "--for", "running", env=env, columns=20)
    screen.until(f"{id} is halted"[:19])
    lab.run(lab.client.vm.start(id))
    assert screen.end() == 0
    assert max(map(len, re.split(r"[\r\n]+", screen.text))) < 20


# Tables and colours


def test_a_terminal_gets_colours_and_what_fits(lab, xenops):
    id = lab.running(name="word " * 60)
    screen = xenops(lab, "list", "-o", "table")
    assert screen.end() == 0
    assert "\x1b[32mrunning" in screen.raw
    assert max(map(len, screen.text.splitlines())) <= 120
    assert id in screen.text


def test_a_terminal_may_do_without_colours(lab, xenops):
    lab.running()
    screen = xenops(lab, "list", NO_COLOR="1")
    assert screen.end() == 0
    assert "\x1b[3" not in screen.raw
    assert "running" in screen.text


def test_events_end_with_the_token_to_go_on_from(lab, xenops):
    screen = xenops(lab, "events", "--all")
    id = lab.vm()
    screen.until(id)
    # What is told later comes with another batch: the first one's token is taken then.
    screen.until(lab.vm())
    screen.type(CTRL_C)
    assert screen.end() == 0
    assert re.search(r"go on with: xenops events --since \S+", screen.text)


# Questions


def test_a_terminal_is_asked_before_a_record_is_dropped(lab, xenops):
    id = lab.vm()
    screen = xenops(lab, "remove", id)
    screen.until(f"Remove VM {id} for good?")
    screen.type("n\r")
    assert screen.end() == 1
    assert lab.client.vm.exists(id)
    screen = xenops(lab, "remove", id)
    screen.until("for good?")
    screen.type("y\r")
    assert screen.end() == 0
    assert not lab.client.vm.exists(id)


@pytest.mark.parametrize("command", ["remove", "forget", "disk remove"])
def test_a_question_is_seen_where_stdout_goes_elsewhere(lab, terminal, tmp_path, command: str):
    id = lab.vm(disks=1)
    name = f"{id}/disk0" if command.startswith("disk") else id
    log = tmp_path / "log"
    screen = terminal(
        *("sh", "-c", f"{XENOPS} {command} {name} > {log}"),
        env={"XENOPS_SOCKET": str(lab.daemon.socket)},
    )
    screen.until("[y/N]")
    screen.type("n\r")
    assert screen.end() == 1
    assert log.read_text() == ""
    assert lab.client.vm.exists(id)


def test_an_edit_that_is_wrong_can_be_mended(lab, xenops, tmp_path):
    id = lab.vm()
    editor = tmp_path / "editor"
    editor.write_text(
        "#!/bin/sh\n"
        f"if [ -e {tmp_path}/again ]; then sed -i 's/^vcpus: .*/vcpus: 1/; s/^name: .*/name: it/' $1\n"
        f"else touch {tmp_path}/again; sed -i 's/^vcpus: .*/vcpus: many/' $1; fi\n"
    )
    editor.chmod(0o755)
    screen = xenops(lab, "edit", id, EDITOR=str(editor))
    screen.until("Edit it again?")
    assert "vcpus: expected int, got str" in screen.text
    screen.type("\r")
    assert screen.end() == 0
    assert lab.stat(id).config.name == "it"


# top


@pytest.mark.parametrize("key", ["q", CTRL_C], ids=["q", "Ctrl-C"])
def test_top_takes_the_screen_and_gives_it_back(lab, xenops, key: str):
    id = lab.running()
    screen = xenops(lab, "top")
    screen.until(id)
    screen.until("workers")
    # A key that comes while the terminal is still being asked what it can is lost: type it again.
    until = time.monotonic() + DEADLINE
    while LEFT not in screen.raw:
        assert time.monotonic() < until, "it never left"
        screen.type(key)
        # Not while it leaves: Ctrl-C would be a signal again.
        while LEFT not in screen.raw and select.select([screen.master], [], [], 3.0)[0]:
            assert screen._read(until), "it gave the screen not back"
    assert screen.end() == 0


# Shells

#: How each shell is started without anybody's configuration, and told of the script.
SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source {completion}/xenops"),
    "zsh": (
        ["zsh", "-f", "-i"],
        "autoload -U compinit; compinit -u -D; source {completion}/_xenops",
    ),
    "fish": (["fish", "--no-config", "-i"], "source {completion}/xenops.fish"),
}


@pytest.fixture(params=SHELLS)
def shell(request, terminal: Open, tmp_path) -> Callable[..., Terminal]:
    """Opens each shell with the completion of a lab's daemon, ready for keys."""
    if shutil.which(request.param) is None:
        pytest.skip(f"there is no {request.param} here")
    argv, source = SHELLS[request.param]

    def opened(lab) -> Terminal:
        env = {
            "XENOPS_SOCKET": str(lab.daemon.socket),
            "PATH": f"{XENOPS.parent}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "PS1": "$ ",
            "HISTFILE": "",
        }
        screen = terminal(*argv, env=env)
        screen.type(source.format(completion=ROOT / "packaging/completion") + "; echo rea''dy\r")
        screen.until("ready\r")
        return screen

    return opened


def test_a_tab_completes_the_name_of_a_vm(lab, shell):
    id = lab.vm(id=lab.new_id("completed"))
    screen = shell(lab)
    screen.type("xenops show complet\t")
    screen.until(f"xenops show {id}")
    screen.type("\x15exit\r")
    screen.end()


def test_a_tab_gives_the_line_back_though_the_daemon_is_stopped(start, shell):
    lab = start(PATIENT)
    lab.vm(id="completed")
    screen = shell(lab)
    lab.daemon.process.send_signal(signal.SIGSTOP)
    # Were the Tab to wait as other commands do, this would come after the deadline.
    # No Ctrl-U: typed before the shell has the terminal, it would take the Tab back.
    screen.type("xenops show complet\t --help; echo g''one on\r")
    screen.until("gone on\r")
    assert "xenops show completed" not in screen.text
    screen.type("exit\r")
    screen.end()
