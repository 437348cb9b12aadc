"""A toolstack author's mypy, in a project of its own, sees the client's types."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/toolstack.md"

TOOLSTACK = """
from idl.aclient import AsyncClient
from idl.client import Client, View
from idl.errors import DoesNotExist


def names(client: Client) -> list[str]:
    return [record.config.name for record in client.vm.list() if record.config is not None]


def begin(client: Client, id: str) -> float:
    try:
        found = client.run(client.vm.start(id, paused=True), progress=lambda task: task.id)
    except DoesNotExist as error:
        print(error.kind)
        raise
    return found.created


async def follow(client: AsyncClient, view: View) -> int | None:
    async for update in client.updates.follow(view=view):
        if update.removed and update.type == "vm":
            return view.vms["a"].state.memory_target
    return (await client.host.stat()).cpu_count
"""

MISTAKES = """
from idl.aclient import AsyncClient
from idl.client import Client

client = Client("x.sock")
client.vm.start(5)  # E: arg-type
client.vm.shutdown("a", timeout="5")  # E: arg-type
client.vm.begin("a")  # E: attr-defined
client.vm.stat("a").state.power  # E: attr-defined
client.updates.follow(view="a")  # E: arg-type
found: int = client.vm.exists("a") and client.vm.list()  # E: assignment


async def main(client: AsyncClient) -> None:
    client.vm.stat("a").state  # E: attr-defined
"""


def mypy(directory: Path, text: str) -> subprocess.CompletedProcess[str]:
    """What it says of a file, where nothing of this checkout is configured."""
    (directory / "toolstack.py").write_text(text)
    environ = {n: v for n, v in os.environ.items() if n not in ("MYPYPATH", "PYTHONPATH")}
    options = ["--strict", "--no-error-summary", "--cache-dir", str(cache(directory))]
    return subprocess.run(
        [sys.executable, "-m", "mypy", *options, "toolstack.py"],
        cwd=directory,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )


def cache(directory: Path) -> Path:
    """Shared by the tests here: what the client is made of is read once."""
    return directory.parent / "mypy-cache"


@pytest.mark.parametrize("text", [TOOLSTACK, None], ids=["a toolstack", "the page's program"])
def test_mypy_finds_the_types(tmp_path: Path, text: str | None) -> None:
    if text is None:
        block = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
        text = "".join(block.findall(PAGE.read_text()))
    found = mypy(tmp_path, text)
    assert (found.returncode, found.stdout) == (0, ""), found.stdout + found.stderr


def test_mypy_finds_mistakes(tmp_path: Path) -> None:
    wanted = [
        (number, line.partition("# E: ")[2])
        for number, line in enumerate(MISTAKES.splitlines(), 1)
        if "# E: " in line
    ]
    error = re.compile(r"^toolstack\.py:(\d+): error: .*\[([a-z-]+)\]", re.MULTILINE)
    said = error.findall(mypy(tmp_path, MISTAKES).stdout)
    assert [(int(number), code) for number, code in said] == wanted
