"""The command blocks of a page, and a shell that runs them as a reader would.

A fenced block says by its language what becomes of it: `console` and `python` are run, a block with
a `title` is written to the file of that name, `sh` shows commands that cannot be run by a test,
`text` shows what is no command.
"""

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

DEADLINE = 60.0

_FENCE = re.compile(
    r"^( *)```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL
)

#: What differs from run to run, and what stands for it in both texts.
_CHANGING = (
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(-\d+)?\b", "UUID"),
    (r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\dZ?", "TIME"),
    (r"\bpid \d+", "pid N"),
    (r"\b\d+(\.\d+)? s\b", "N s"),
    (r"\bworker-\d+", "worker-N"),
    (r"[ \t]+", " "),
)

#: Commands that only look. They are repeated until they show what the page says.
_LOOKING = re.compile(
    r"(xenops (list|show|queue|diagnostics|explain|attention|foreign|pool show|task (show|list)"
    r"|call HOST\.query)|curl|cat|ls)\b"
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; `line` is that of its first line within."""

    language: str
    title: str | None
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Step:
    """A command of a console block, and what the page says that it prints."""

    line: int
    command: str
    expected: str

    @property
    def looks(self) -> bool:
        """It changes nothing, and may be repeated."""
        return _LOOKING.match(self.command) is not None


def blocks(text: str) -> Iterator[Block]:
    """Every fenced block of a page."""
    for found in _FENCE.finditer(text):
        indent = len(found[1])
        inner = "".join(line[indent:] or "\n" for line in found[4].splitlines(keepends=True))
        yield Block(found[2], found[3], text[: found.start(4)].count("\n") + 1, inner)


def steps(block: Block) -> Iterator[Step]:
    """The commands of a console block; a line that begins with `> ` continues one."""
    starts = [n for n, line in enumerate(block.text.splitlines()) if line.startswith("$ ")]
    lines = block.text.splitlines()
    assert starts[:1] == [0], f"line {block.line}: a console block begins with a command"
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        following = lines[start + 1 : end]
        more = [line for line in following if line.startswith("> ")]
        command = "\n".join([lines[start][2:], *(line[2:] for line in more)])
        yield Step(block.line + start, command, "\n".join(following[len(more) :]))


def promised(text: str) -> list[str]:
    """What the page says that its Python prints, in the order of the page."""
    return re.findall(r"^ *print\(.*\)  # (.*)$", text, re.MULTILINE)


def matches(expected: str, printed: str, places: Mapping[str, str]) -> bool:
    """Whether what was printed is what the page shows. `...` stands for anything: on a line of
    its own for any number of lines."""
    pattern = []
    for line in _plain(expected, places).splitlines():
        if line == "...":
            pattern.append(r"(?:.*\n)*?")
        else:
            pattern.append(re.escape(line).replace(r"\.\.\.", ".*") + r"\n")
    text = "".join(f"{line}\n" for line in _plain(printed, places).splitlines())
    return re.fullmatch("".join(pattern), text) is not None


def _plain(text: str, places: Mapping[str, str]) -> str:
    for place, name in places.items():
        text = text.replace(place, name)
    for pattern, name in _CHANGING:
        text = re.sub(pattern, name, text)
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


class Shell:
    """One bash for a page: what a command exports, the next one finds."""

    _MARK = "--- the command has ended"

    def __init__(self, directory: Path, environ: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=directory,
            env=dict(environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
        )

    def run(self, command: str) -> tuple[int, str]:
        """Its status and what it has printed; TimeoutError past the deadline."""
        assert self._process.stdin is not None
        script = f"{{ {command}\n}} < /dev/null\nprintf '\\n%s %d\\n' '{self._MARK}' $?\n"
        self._process.stdin.write(script.encode())
        printed, end = "", re.compile(rf"\n{self._MARK} (\d+)\n\Z")
        until = time.monotonic() + DEADLINE
        while not (found := end.search(printed)):
            printed += self._read(until, printed)
        return int(found[1]), printed[: found.start()]

    def _read(self, until: float, so_far: str) -> str:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        if not select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
            raise TimeoutError(f"not within {DEADLINE} s; so far:\n{so_far}")
        piece = os.read(descriptor, 65536)
        if not piece:
            raise EOFError(f"the shell has ended:\n{so_far}")
        return piece.decode(errors="replace")

    def close(self) -> None:
        """End it, and what it runs."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate(timeout=DEADLINE)


def end_processes_of(home: Path) -> None:
    """End every process whose HOME this is: the daemons that a page has left."""
    wanted = b"HOME=" + os.fsencode(home)
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:
            continue  # it has ended meanwhile, or is another user's
