"""`xenops console`: the terminal of a VM."""
# click reads the escape in docstrings.
# ruff: noqa: D301

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xenopsd.cli.completers import vm_argument
from xenopsd.cli.seconds import SECONDS
from xenopsd.cli.session import Session

if TYPE_CHECKING:
    import socket

    from idl.vm import Console, VmRecord
    from xenopsd.cli.relay import End

#: Seconds that a console gets to take a connection.
PATIENCE = 5.0


class Key(click.ParamType[bytes]):
    """A key: a character, or a control character such as ^]."""

    name = "key"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> bytes:
        if isinstance(value, bytes):
            return value
        control = len(value) == 2 and value[0] == "^" and "@" <= value[1].upper() <= "_"
        if not control and not (len(value) == 1 and "!" <= value <= "~"):
            self.fail(f"{value!r} is no key; write ^] for Ctrl-], or a character.", param, ctx)
        return bytes([ord(value[1].upper()) & 0x1F if control else ord(value)])


def key_name(key: bytes) -> str:
    """How a person calls it."""
    return f"Ctrl-{chr(key[0] | 0x40)}" if key[0] < 0x20 else key.decode()


@click.command()
@vm_argument
@click.option(
    "--escape",
    type=Key(),
    default="^]",
    show_default=True,
    metavar="KEY",
    help="Key that leaves; ^X is Ctrl-X.",
)
@click.option(
    "--for", "seconds", type=SECONDS, metavar="SECONDS", help="Leave by itself after so long."
)
@click.pass_obj
def console(session: Session, /, *, vm: str, escape: bytes, seconds: float | None) -> None:
    """Attach the terminal to the console of a VM.

    First comes what the console said last, then all that it says; every key goes to it but the
    one that leaves, Ctrl-] unless --escape names another. Several may attach at once. A restart
    of the daemon is not noticed; the end of the VM ends it.

    Where stdin is no terminal, what it has is sent as it is, and what the console says is
    printed until its end, for SECONDS, or until Ctrl-C.

    \b
    Examples:
      xenops console web
      xenops console web --escape ^A
      echo uptime | xenops console web --for 2
    """
    found = text_console(session.client.vm.stat(vm))
    # Attached, it needs no daemon, and holds no connection to one.
    session.close()
    with connected(vm, found) as descriptor:
        _attach(vm, descriptor, escape, seconds)


def text_console(record: "VmRecord") -> "Console":
    """Where its console is. Raises BadPowerState without a domain, NoConsole without one."""
    from idl.errors import BadPowerState
    from xenopsd.cli.failure import NoConsole

    state = record.state
    found = next((one for one in state.consoles if one.protocol == "text"), None)
    if found is not None:
        return found
    if state.power_state not in ("running", "paused"):
        raise BadPowerState(id=record.id, actual=state.power_state, expected=["running"])
    raise NoConsole(record.id, [one.protocol for one in state.consoles])


@contextmanager
def connected(vm: str, console: "Console") -> "Iterator[int]":
    """A descriptor of it that does not block. Raises ConsoleUnreachable."""
    from xenopsd.cli.failure import ConsoleUnreachable

    place = console.path or f"port {console.port}"
    try:
        descriptor = _opened(console)
    except OSError as error:
        raise ConsoleUnreachable(vm, place, error.strerror or str(error)) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _opened(console: "Console") -> int:
    import socket

    if console.path is None:
        link = socket.create_connection(("127.0.0.1", console.port or 0), PATIENCE)
    elif (path := Path(console.path)).is_char_device():
        return _terminal(path)
    else:
        link = _unix(path)
    link.settimeout(0)
    return link.detach()


def _unix(path: Path) -> "socket.socket":
    """Connected through its directory: the path may be longer than an address."""
    import socket

    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    link = socket.socket(socket.AF_UNIX)
    try:
        link.settimeout(PATIENCE)
        link.connect(f"/proc/self/fd/{directory}/{path.name}")
    except BaseException:
        link.close()
        raise
    finally:
        os.close(directory)
    return link


def _terminal(path: Path) -> int:
    import tty

    descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    tty.setraw(descriptor)
    return descriptor


def _attach(vm: str, console: int, escape: bytes, seconds: float | None) -> None:
    """Until it ends. A signal that ends ends the process, once the terminal is as it was."""
    import signal

    from xenopsd.cli.relay import Killed, mortal

    at_terminal = sys.stdin.isatty()
    if at_terminal:
        click.echo(f"Attached to the console of {vm}; {key_name(escape)} leaves it.", err=True)
    try:
        with mortal():
            end = _relay(console, escape if at_terminal else None, seconds)
    except Killed as killed:
        if killed.number == signal.SIGINT:
            return
        signal.signal(killed.number, signal.SIG_DFL)
        os.kill(os.getpid(), killed.number)
        raise  # not reached: none of these can be blocked here
    _tell(vm, end, at_terminal=at_terminal)


def _relay(console: int, escape: bytes | None, seconds: float | None) -> "End":
    import time
    from contextlib import nullcontext

    from xenopsd.cli.relay import raw, relay

    keyboard, screen = sys.stdin.fileno(), sys.stdout.fileno()
    deadline = None if seconds is None else time.monotonic() + seconds
    with raw(keyboard) if escape is not None else nullcontext():
        return relay(keyboard, screen, console, escape=escape, deadline=deadline)


def _tell(vm: str, end: "End", *, at_terminal: bool) -> None:
    from xenopsd.cli.relay import End

    # Wherever the console has left the cursor.
    begin = "\n" if sys.stdout.isatty() else ""
    if end is End.GONE:
        click.echo(f"{begin}The console of {vm} has ended; xenops show {vm} tells why.", err=True)
    elif at_terminal:
        click.echo(f"{begin}Left the console of {vm}.", err=True)


COMMANDS = (console,)
