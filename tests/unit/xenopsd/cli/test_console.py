"""`xenops console` on a pseudo-terminal and in pipes, at consoles of a few lines."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import click
import pytest
from rigs.terminal import Terminal

from idl.errors import DoesNotExist
from idl.vm import Console, PowerState, Vm, VmRecord, VmState
from xenopsd.cli.console import Key, key_name
from xenopsd.cli.failure import FAILED, NOT_FOUND, UNREACHABLE, USAGE

XENOPS = Path(sys.executable).with_name("xenops")
DEADLINE = 20.0
LEAVE = "\x1d"

#: Holds the terminal while a child runs on it, and tells how that ended.
PARENT = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:])
print("child", child.pid, "of us", flush=True)
print("status", child.wait(), "of it", flush=True)
input()
"""


class Served:
    """A console that greets whoever connects, and writes down what it is sent."""

    def __init__(self, listener: socket.socket, greeting: bytes) -> None:
        self._listener, self._greeting = listener, greeting
        self._listener.listen()
        self._peers: list[socket.socket] = []
        self.heard = b""
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self._peers.append(peer)
            peer.sendall(self._greeting)
            with self._changed:
                self.heard += b"<"
                self._changed.notify_all()
            while data := peer.recv(1 << 16):
                with self._changed:
                    self.heard += data
                    self._changed.notify_all()
            with self._changed:
                self.heard += b">"
                self._changed.notify_all()

    def hears(self, wanted: bytes) -> None:
        """Wait until it was sent that, and nothing else."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.heard == wanted, DEADLINE), self.heard

    def says(self, text: bytes) -> None:
        self._peers[-1].sendall(text)

    def end(self) -> None:
        """As when the VM is gone."""
        for peer in self._peers:
            peer.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(DEADLINE)
        for peer in self._peers:
            peer.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.fixture
def place(stack) -> Path:
    # A socket's path may not be long; this one's is longer than an address.
    path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="xenopsd-"))) / ("d" * 120)
    path.mkdir()
    return path


def running(*consoles: Console, state: PowerState = PowerState.RUNNING) -> VmRecord:
    """A VM with these consoles."""
    return VmRecord(
        id="web", config=Vm(id="web"), state=VmState(power_state=state, consoles=list(consoles))
    )


@pytest.fixture
def serve(daemon, stack, place, monkeypatch) -> Callable[..., Served]:
    """Serves the console of the VM web."""

    def served(greeting: bytes = b"", *, port: bool = False) -> Served:
        if port:
            listener = socket.create_server(("127.0.0.1", 0))
            console = Console(protocol="text", port=listener.getsockname()[1])
        else:
            listener = socket.socket(socket.AF_UNIX)
            with monkeypatch.context() as within:
                within.chdir(place)
                listener.bind("sock")
            console = Console(protocol="text", path=str(place / "sock"))
        daemon.answers["VM.stat"] = running(Console(protocol="vnc", port=1), console)
        found = Served(listener, greeting)
        stack.callback(found.close)
        return found

    return served


@pytest.fixture
def terminal(daemon, stack) -> Callable[..., Terminal]:
    """`xenops console web` on a terminal."""

    def opened(*options: str, argv: tuple[str, ...] = ()) -> Terminal:
        command = argv or (str(XENOPS), "console", "web", *options)
        found = Terminal(*command, env={"XENOPS_SOCKET": str(daemon.path)})
        stack.callback(found.close)
        return found

    return opened


def piped(
    daemon, *options: str, typed: bytes | None = None
) -> "subprocess.CompletedProcess[bytes]":
    """`xenops console web` in a pipe."""
    return subprocess.run(
        [XENOPS, "console", "web", *options],
        env={**os.environ, "XENOPS_SOCKET": str(daemon.path)},
        input=typed,
        stdin=subprocess.DEVNULL if typed is None else None,
        capture_output=True,
        check=False,
        timeout=DEADLINE,
    )


@pytest.fixture
def fresh() -> Iterator[list[object]]:
    """The modes of a terminal that nobody has changed."""
    master, slave = os.openpty()
    yield termios.tcgetattr(slave)
    os.close(master)
    os.close(slave)


def modes(screen: Terminal) -> list[object]:
    """How the terminal treats what is typed."""
    return termios.tcgetattr(screen.master)


# On a terminal


def attached(screen: Terminal, console: Served, greeting: str = "login: ") -> None:
    screen.until(greeting)
    console.hears(b"<")


def test_keys_go_through_as_they_are_until_the_escape_key(serve, terminal):
    console = serve(b"login: ")
    screen = terminal()
    attached(screen, console)
    assert "Attached to the console of web; Ctrl-] leaves it." in screen.text
    screen.type("root\r\x03\x1a\x04\xc3\xa9")
    console.hears(b"<root\r\x03\x1a\x04" + "\xc3\xa9".encode())
    console.says(b"\x1b[1m# \xff")
    screen.until("# ")
    assert "\x1b[1m# " in screen.raw
    screen.type(f"ab{LEAVE}cd")
    assert screen.end() == 0
    assert "Left the console of web." in screen.text
    console.hears(b"<root\r\x03\x1a\x04" + "\xc3\xa9".encode() + b"ab>")


def test_another_key_may_leave(serve, terminal):
    console = serve(b"login: ")
    screen = terminal("--escape", "^a")
    attached(screen, console)
    assert "Ctrl-A leaves it" in screen.text
    screen.type(LEAVE)
    console.hears(b"<" + LEAVE.encode())
    screen.type("\x01")
    assert screen.end() == 0


def test_its_end_is_told_with_its_last_words(serve, terminal):
    console = serve(b"login: ")
    screen = terminal()
    attached(screen, console)
    console.says(b"bye" * 30000)
    console.end()
    assert screen.end() == 0
    assert screen.text.count("bye") == 30000
    assert "The console of web has ended; xenops show web tells why." in screen.text


def test_it_leaves_by_itself_after_so_long(serve, terminal):
    serve(b"login: ")
    screen = terminal("--for", "0.1")
    assert screen.end() == 0
    assert "Left the console of web." in screen.text


@pytest.mark.parametrize("how", ["key", "end", "time"])
def test_the_terminal_is_given_back(serve, terminal, fresh, how: str):
    console = serve(b"login: ")
    # The shell holds the terminal, so that its modes can be seen afterwards.
    seconds = 2 if how == "time" else 60
    line = f"{XENOPS} console web --for {seconds}; echo status $?; read x"
    screen = terminal(argv=("sh", "-c", line))
    attached(screen, console)
    assert modes(screen) != fresh
    if how == "key":
        screen.type(LEAVE)
    elif how == "end":
        console.end()
    screen.until("status 0")
    assert modes(screen) == fresh


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT])
def test_a_signal_ends_it_and_gives_the_terminal_back(
    serve, terminal, fresh, number: signal.Signals
):
    console = serve(b"login: ")
    screen = terminal(argv=(sys.executable, "-c", PARENT, str(XENOPS), "console", "web"))
    attached(screen, console)
    assert modes(screen) != fresh
    child = int(screen.text.partition("child ")[2].split()[0])
    os.kill(child, number)
    screen.until("of it")
    status = 0 if number == signal.SIGINT else -number
    assert f"status {status} of it" in screen.text
    assert modes(screen) == fresh
    assert "Traceback" not in screen.text


def test_it_holds_no_connection_to_the_daemon(daemon, serve, terminal):
    console = serve(b"login: ")
    screen = terminal()
    attached(screen, console)
    daemon.stop()
    try:
        screen.type("still\r")
        console.hears(b"<still\r")
        screen.type(LEAVE)
        assert screen.end() == 0
    finally:
        daemon.start()


def test_a_console_may_be_a_port(serve, terminal):
    console = serve(b"login: ", port=True)
    screen = terminal()
    attached(screen, console)
    screen.type(f"x{LEAVE}")
    assert screen.end() == 0
    console.hears(b"<x>")


def test_a_console_may_be_a_terminal(daemon, terminal):
    master, slave = os.openpty()
    try:
        daemon.answers["VM.stat"] = running(Console(protocol="text", path=os.ttyname(slave)))
        screen = terminal()
        screen.until("leaves it")
        os.write(master, b"login: ")
        screen.until("login: ")
        screen.type("x\r")
        assert os.read(master, 2) == b"x\r"
        screen.type(LEAVE)
        assert screen.end() == 0
    finally:
        os.close(master)
        os.close(slave)


# In a pipe


def test_a_pipe_sends_what_it_has_and_prints_what_comes(daemon, serve):
    console = serve(b"# ")
    found = piped(daemon, "--for", "0.5", typed=b"uptime\n" + LEAVE.encode() + b"x")
    console.hears(b"<uptime\n" + LEAVE.encode() + b"x>")
    assert (found.returncode, found.stdout, found.stderr) == (0, b"# ", b"")


def test_a_pipe_follows_the_console_to_its_end(daemon, serve):
    console = serve(b"# ")
    threading.Thread(target=lambda: (console.hears(b"<"), console.end())).start()
    found = piped(daemon)
    assert (found.returncode, found.stdout) == (0, b"# ")
    assert b"The console of web has ended" in found.stderr


def test_what_a_pipe_is_for_may_end_first(daemon, serve):
    console = serve(b"# ")
    with subprocess.Popen(
        [XENOPS, "console", "web"],
        env={**os.environ, "XENOPS_SOCKET": str(daemon.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        console.hears(b"<")
        assert process.stdout is not None
        process.stdout.close()
        console.says(b"x")
        _, stderr = process.communicate(timeout=DEADLINE)
    assert b"Traceback" not in stderr
    assert process.returncode != 0


# What is wrong


def test_a_halted_vm_has_none_and_the_next_step_is_to_start_it(daemon):
    daemon.answers["VM.stat"] = running(state=PowerState.HALTED)
    found = piped(daemon)
    assert found.returncode == FAILED
    assert b"VM web is halted; this needs it running." in found.stderr
    assert b"start web" in found.stderr


def test_a_vm_without_a_text_console_says_what_it_has(daemon):
    daemon.answers["VM.stat"] = running(Console(protocol="vnc", port=5900))
    found = piped(daemon)
    assert found.returncode == FAILED
    assert b"VM web has no text console; it has vnc." in found.stderr
    assert b"HOST.query" in found.stderr


@pytest.mark.parametrize("gone", ["path", "listener", "directory"])
def test_a_console_that_is_gone_is_told(daemon, place, monkeypatch, gone: str):
    path = place / "sock"
    if gone == "listener":
        monkeypatch.chdir(place)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("sock")
    if gone == "directory":
        place.rmdir()
    daemon.answers["VM.stat"] = running(Console(protocol="text", path=str(path)))
    found = piped(daemon)
    reason = "Connection refused" if gone == "listener" else "No such file or directory"
    assert found.returncode == FAILED
    assert f"The console of web at {path} cannot be reached ({reason})." in found.stderr.decode()
    assert b"show web tells where it is now" in found.stderr
    assert list(place.parent.glob("*/*")) == ([path] if gone == "listener" else [])


def test_exit_codes_are_those_of_every_command(daemon):
    daemon.answers["VM.stat"] = DoesNotExist(kind="VM", id="web")
    assert piped(daemon).returncode == NOT_FOUND
    assert piped(daemon, "--escape", "Ctrl").returncode == USAGE
    daemon.stop()
    try:
        assert piped(daemon).returncode == UNREACHABLE
    finally:
        daemon.start()


# Keys


@pytest.mark.parametrize(
    ("said", "key", "name"),
    [
        ("^]", b"\x1d", "Ctrl-]"),
        ("^a", b"\x01", "Ctrl-A"),
        ("^@", b"\0", "Ctrl-@"),
        ("~", b"~", "~"),
        ("^", b"^", "^"),
    ],
)
def test_keys_are_read_and_named(said: str, key: bytes, name: str):
    assert Key().convert(said, None, None) == key
    assert key_name(key) == name


@pytest.mark.parametrize("said", ["", "^^^", "ab", "é", " ", "^é", "\x7f"])
def test_what_is_no_key_is_refused(said: str):
    with pytest.raises(click.BadParameter):
        Key().convert(said, None, None)
