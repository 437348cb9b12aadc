"""The process that serves a container's terminal, at a terminal that no container has."""

import os
import select
import signal
import socket
import subprocess
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backends.lxc.apart import console

DEADLINE = 20.0


@contextmanager
def served() -> Iterator[int]:
    """A terminal in the working directory, as long as its keeper lives."""
    keeper = subprocess.Popen(["sleep", "1000"])
    with console.served("sock", os.getuid(), keeper=keeper.pid) as found:
        tty.setraw(found)
        yield found
        keeper.kill()
        keeper.wait()
    end = time.monotonic() + DEADLINE
    process = Path(f"/proc/{server()}")
    while process.exists():
        assert time.monotonic() < end, "it does not end with its terminal"
        select.select([], [], [], 0.01)


@pytest.fixture
def terminal(tmp_path, monkeypatch) -> Iterator[int]:
    """The guest's side of a served terminal, raw: nobody answers what is typed."""
    monkeypatch.chdir(tmp_path)
    with served() as found:
        yield found


def server() -> int:
    """Who serves the terminal: it signs a moment after it has begun."""
    end = time.monotonic() + DEADLINE
    while not (signature := Path("console").read_text()):
        assert time.monotonic() < end, "nobody signs for the terminal"
        select.select([], [], [], 0.01)
    return int(signature)


@pytest.fixture
def attach(terminal) -> Iterator[Callable[[], socket.socket]]:
    """Connects to it."""
    found: list[socket.socket] = []

    def connected() -> socket.socket:
        link = socket.socket(socket.AF_UNIX)
        link.settimeout(DEADLINE)
        link.connect("sock")
        found.append(link)
        return link

    yield connected
    for link in found:
        link.close()


def read(descriptor: int, size: int) -> bytes:
    """So many bytes."""
    got = b""
    while len(got) < size:
        assert select.select([descriptor], [], [], DEADLINE)[0], f"only {len(got)} of {size}"
        piece = os.read(descriptor, 1000)
        assert piece, f"it ends after {len(got)} of {size}"
        got += piece
    return got


def test_what_is_said_is_seen_by_everybody_and_by_who_comes_later(terminal, attach):
    early, other = attach(), attach()
    os.write(terminal, b"hello")
    assert read(early.fileno(), 5) == read(other.fileno(), 5) == b"hello"
    assert read(attach().fileno(), 5) == b"hello"


def test_nothing_is_lost_of_what_is_typed_faster_than_it_is_read(terminal, attach):
    text = b"".join(b"%07d\n" % number for number in range(40_000))
    link = attach()
    # Who types is made to wait, and is heard in the end also when it has gone.
    link.settimeout(0)
    sent = 0
    while sent < len(text):
        ready = select.select([terminal], [link], [], DEADLINE)
        assert any(ready)
        if ready[1]:
            sent += link.send(text[sent:])
        else:
            break
    rest = text[sent:]
    got = read(terminal, 100_000)
    link.settimeout(DEADLINE)
    while rest:
        if select.select([], [link], [], 0)[1]:
            rest = rest[link.send(rest[:1000]) :]
        else:
            got += os.read(terminal, 1000)
    link.close()
    got += read(terminal, len(text) - len(got))
    assert got == text


def test_who_types_and_leaves_at_once_is_heard(terminal, attach):
    text = b"x" * 50_000
    link = attach()
    link.sendall(text)
    link.close()
    assert read(terminal, len(text)) == text


def test_who_leaves_while_something_is_said_disturbs_nobody(terminal, attach):
    serves = server()
    other, leaving = attach(), attach()
    os.write(terminal, b"a")
    assert read(other.fileno(), 1) == read(leaving.fileno(), 1) == b"a"
    # Both are found at the same moment.
    os.kill(serves, signal.SIGSTOP)
    leaving.close()
    os.write(terminal, b"b")
    os.kill(serves, signal.SIGCONT)
    assert read(other.fileno(), 1) == b"b"
    other.sendall(b"c")
    assert read(terminal, 1) == b"c"


def test_what_was_said_last_is_left_to_its_owner(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with served() as terminal:
        os.write(terminal, b"the reason")
    assert Path("said").read_bytes() == b"the reason"
    assert Path("said").stat().st_mode & 0o777 == 0o600
