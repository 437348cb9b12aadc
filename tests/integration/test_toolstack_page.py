"""docs/toolstack.md is one program, and does what it says: it is run here, block by block."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rigs.daemon import DaemonProcess

PAGE = Path(__file__).parents[2] / "docs/toolstack.md"

#: So that a call that hangs is given up before a test has waited long.
HASTY = "[deadlines]\nshort = 0.5\nstuck_grace = 0.3\n"


def blocks(text: str) -> Iterator[tuple[str, int, str]]:
    """Each block: its language, the line where it begins, and what is in it."""
    for found in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield found[1], text[: found.start(2)].count("\n") + 1, found[2]


def promised(text: str) -> list[str]:
    """What the page says that its lines print, in their order."""
    return re.findall(r"^ *print\(.*\)  # (.*)$", text, re.MULTILINE)


@pytest.fixture
def daemon(
    directory: Path, monkeypatch: pytest.MonkeyPatch, pool_size: int
) -> Iterator[DaemonProcess]:
    """The daemon that `make run` starts, where the page expects it."""
    config = directory / "config.toml"
    config.write_text(f"workers = {pool_size}\n")
    daemon = DaemonProcess(directory / "d", "--config", str(config))
    run = directory / ".run"
    run.mkdir()
    (run / "default.sock").symlink_to(daemon.socket)
    monkeypatch.chdir(directory)
    yield daemon
    daemon.kill()


def shell(daemon: DaemonProcess) -> dict[str, Callable[[], Any]]:
    """What each command of the page does."""

    def killed() -> None:
        daemon.kill()
        with (daemon.directory.parent / "config.toml").open("a") as config:
            config.write(HASTY)

    return {
        "make run ARGS=--debug": daemon.start,
        "kill -9 $(cat .run/state/lock)": killed,
        "make stop": daemon.stop,
    }


def test_the_page_is_a_program_that_does_what_it_says(
    daemon: DaemonProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    text, commands, program = PAGE.read_text(), shell(daemon), {"__name__": "toolstack"}
    try:
        for language, line, block in blocks(text):
            if language == "console":
                for command in block.splitlines():
                    commands[command.removeprefix("$ ")]()
            else:
                # Errors name the line of the page.
                exec(compile("\n" * (line - 1) + block, str(PAGE), "exec"), program)
    finally:
        if "client" in program:
            program["client"].close()
    # What a function prints comes when it is called.
    printed = capsys.readouterr().out.splitlines()
    assert sorted(printed) == sorted(promised(text))
    assert not program["watcher"].is_alive()


def test_every_block_is_run() -> None:
    languages = {language for language, _, _ in blocks(PAGE.read_text())}
    assert languages == {"python", "console"}
    assert len(promised(PAGE.read_text())) > 5
    for _, _, block in (b for b in blocks(PAGE.read_text()) if b[0] == "python"):
        ast.parse(block)
