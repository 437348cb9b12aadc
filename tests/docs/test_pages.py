"""Every command block of the documentation is run, page by page, as a reader would.

Each page has a directory of its own with what a checkout has for `make run`, a HOME of its own, a
PATH with the scripts of the virtual environment, and runs from top to bottom. A block that no test
can run says so by its language, `sh`, and stands in `NOT_RUN` with the reason.
"""

import ast
import configparser
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rigs.daemon import eventually
from rigs.pages import Block, Shell, Step, blocks, end_processes_of, matches, promised, steps

from backends import registry
from backends.interface import Unavailable

ROOT = Path(__file__).parents[2]
#: Rendered from the commands; `test_cli_examples` has each of its examples parsed.
RENDERED = {"docs/cli.md"}
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    if str(path.relative_to(ROOT)) not in RENDERED
)
RUN = ("console", "python")

INSTALLS = "installs packages of Debian"
SETS_UP = "makes virtual environments and runs the tests, which cannot run within themselves"
BOOTS = "builds and boots a machine, which takes minutes"
NEEDS_ROOT = "needs root and a host run by systemd"

#: Page and first line of each block that is not run, and why.
NOT_RUN = {
    ("README.md", "make demo     # set up what it needs, then show all of the above within seconds"): SETS_UP,
    ("CONTRIBUTING.md", "make check                                  # linters, types, import rules, unit tests: under a minute"): SETS_UP,
    ("CONTRIBUTING.md", "apt-get install qemu-system-x86 mmdebstrap e2fsprogs    # what it needs of Debian"): BOOTS,
    ("docs/containers.md", "apt-get install make python3-venv lxc nftables busybox-static squashfs-tools"): INSTALLS,
    ("docs/how-to/upgrade.md", "sudo systemctl restart xenopsd@default"): NEEDS_ROOT,
    ("docs/how-to/service.md", "sudo python3 -m venv /opt/xenopsd"): NEEDS_ROOT,
    ("docs/how-to/service.md", "sudo systemctl reload xenopsd@default"): NEEDS_ROOT,
    ("docs/how-to/service.md", "sudo install -m 644 -D -t /etc/systemd/system/xenopsd@default.socket.d group.conf"): NEEDS_ROOT,
    ("docs/how-to/service.md", "journalctl -u xenopsd@default -o cat --grep restart_needed"): NEEDS_ROOT,
    ("docs/how-to/service.md", "systemctl is-active xenopsd@default.service xenopsd@default.socket xenopsd-ro@default.socket"): NEEDS_ROOT,
}  # fmt: skip


#: A machine that is slow while the tests run may take its time between two commands of a page.
PATIENCE = {"docs/how-to/stuck-vm.md": {"XENOPSD_DEADLINES_SHORT": "60"}}


#: Pages with real containers.
CONTAINERS = {"docs/containers.md", "docs/how-to/lxc.md"}


def require_containers() -> None:
    """In CI they have to run; elsewhere the machine may be unfit for them."""
    answer = registry.probe()["lxc"]
    if isinstance(answer, Unavailable):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(answer.reason)


def of(page: str) -> list[Block]:
    """The blocks of a page."""
    return list(blocks((ROOT / page).read_text()))


RUNNABLE = [page for page in PAGES if any(block.language in RUN for block in of(page))]


class Reader:
    """Runs a page."""

    def __init__(self, page: str, directory: Path) -> None:
        self.page, self.directory = page, directory
        self.program: dict[str, Any] = {"__name__": "page"}
        self.shell = Shell(directory, environ(directory) | PATIENCE.get(page, {}))
        self.places = {str(directory): "/src/xenopsd"}

    def read(self) -> None:
        """From top to bottom."""
        for block in of(self.page):
            if block.title is not None:
                (self.directory / block.title).write_text(block.text)
            elif block.language == "console":
                for step in steps(block):
                    self.follow(step)
            elif block.language == "python":
                # Errors name the line of the page.
                source = "\n" * (block.line - 1) + block.text
                exec(compile(source, str(ROOT / self.page), "exec"), self.program)

    def follow(self, step: Step) -> None:
        """Run a command; one that only looks, until it shows what the page says."""
        until = time.monotonic() + 20.0
        where = f"{self.page}:{step.line}: $ {step.command}"
        while True:
            try:
                status, printed = self.shell.run(step.command)
            except (TimeoutError, EOFError) as error:
                pytest.fail(f"{where}\n{error}")
            as_shown = matches(step.expected, printed, self.places)
            if as_shown or not step.looks or time.monotonic() > until:
                break
        assert as_shown, f"{where}\n--- the page:\n{step.expected}\n--- printed:\n{printed}"
        # A command may fail where the page shows what it then says.
        assert status == 0 or step.expected, f"{where}: status {status}"

    def close(self) -> None:
        """End whatever the page has begun."""
        if "client" in self.program:
            self.program["client"].close()
        self.shell.close()
        if (self.directory / ".run/default.sock").is_symlink():
            # Containers outlive who started them.
            clean = [self.directory / "packaging/run-here", "clean"]
            subprocess.run(clean, env=environ(self.directory), check=True)
        end_processes_of(self.directory)


def environ(directory: Path) -> dict[str, str]:
    """A clean environment, whose home is the directory."""
    return {
        "HOME": str(directory),
        "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "USER": os.environ.get("USER", "nobody"),
        "XDG_RUNTIME_DIR": str(directory / "run"),
    }


@pytest.fixture
def directory() -> Iterator[Path]:
    """As a checkout, with the virtual environment that runs the tests. Its path is short, since
    that of a socket may not be long."""
    with tempfile.TemporaryDirectory(prefix="xenopsd-") as name:
        made = Path(name)
        (made / "packaging").mkdir()
        (made / "run").mkdir()
        (made / "Makefile").symlink_to(ROOT / "Makefile")
        for script in ("run-here", "busybox-image"):
            (made / "packaging" / script).symlink_to(ROOT / "packaging" / script)
        (made / "packaging/make-venv").symlink_to(shutil.which("true") or "/bin/true")
        (made / ".venv").symlink_to(sys.prefix)
        yield made


@pytest.mark.parametrize("page", RUNNABLE)
def test_a_page_does_what_it_says(
    page: str,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if page in CONTAINERS:
        require_containers()
    monkeypatch.chdir(directory)
    reader = Reader(page, directory)
    try:
        reader.read()
        # What a function prints comes when it is called.
        printed = capsys.readouterr().out.splitlines()
        assert sorted(printed) == sorted(promised((ROOT / page).read_text()))
    finally:
        reader.close()
    watcher = reader.program.get("watcher")
    if watcher is not None:
        eventually(lambda: not watcher.is_alive(), why="the follower has ended")


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str) -> None:
    for block in of(page):
        where = f"{page}:{block.line}"
        match block.language:
            case "console":
                assert list(steps(block)), where
            case "python":
                ast.parse(block.text, where)
            case "toml":
                tomllib.loads(block.text)
            case "sh":
                subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
                assert (page, block.text.splitlines()[0]) in NOT_RUN, (
                    f"{where}: why is it not run?"
                )
            case "json":
                json.loads(block.text)
            case "yaml":
                yaml.safe_load(block.text)
            case "ini":
                configparser.ConfigParser(strict=False).read_string(block.text, where)
            case "text":
                assert "\n$ " not in f"\n{block.text}", f"{where}: a command is not run"
            case other:
                pytest.fail(f"{where}: a block of the language {other!r}")


def test_no_reason_is_left_of_a_block_that_is_gone() -> None:
    shown = {(p, b.text.splitlines()[0]) for p in PAGES for b in of(p) if b.language == "sh"}
    assert set(NOT_RUN) == shown
