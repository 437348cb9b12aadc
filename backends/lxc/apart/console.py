"""The console of a container: a pseudo-terminal, and a process that serves it on a socket.

Whoever connects gets the last output, then what comes; what anybody sends is typed. The
process lasts as long as the container, whoever of daemon and keeper has died.
"""

import os
import pty
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from backends.lxc.apart import locks

#: Bytes of output that somebody who connects still gets.
KEPT = 1 << 16

#: Bytes that may wait for one who does not read; then they are cut off.
WAITING = 1 << 20

#: Bytes of what somebody types that are read at once.
PIECE = 4096

LOCK = "console"

#: What it said last, once it has ended by itself.
SAID = "said"


@contextmanager
def served(path: str, owner: int, *, keeper: int) -> Iterator[int]:
    """Have a process serve a new terminal at the socket `path`, in the working directory.

    The terminal belongs to `owner`; for the `with` its other side is open. The process comes up
    meanwhile, and is no child of this one afterwards."""
    master, terminal = pty.openpty()
    os.fchown(terminal, owner, -1)
    os.fchmod(terminal, 0o620)
    with suppress(FileNotFoundError):
        os.unlink(path)
    with suppress(FileNotFoundError):
        os.unlink("tty")
    os.symlink(os.ttyname(terminal), "tty")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.listen(16)
    # Before anybody can look for it.
    lock = locks.take(LOCK)
    # A keeper that ends at once is one that has ended, and not one that was never there.
    watched = os.pidfd_open(keeper)
    parent = os.fork()
    if parent == 0:
        # Nobody's child: liblxc waits for every child of the keeper when a start fails.
        if os.fork() != 0:
            os._exit(0)
        try:
            if lock is not None:
                _close_others({master, terminal, listener.fileno(), watched, lock})
                locks.sign(lock)
                server = _Server(master, terminal, listener, watched)
                server.run()
                server.leave(SAID)
        finally:
            os._exit(0)
    for fd in (master, watched, lock):
        if fd is not None:
            os.close(fd)
    listener.close()
    try:
        yield terminal
    finally:
        os.close(terminal)
        os.waitpid(parent, 0)


def _close_others(kept: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with suppress(OSError):
                os.close(int(name))
    for fd in (0, 1, 2):
        if fd not in kept:
            os.open(os.devnull, os.O_RDWR)


class _Server:
    """One terminal and who looks at it."""

    def __init__(self, master: int, terminal: int, listener: socket.socket, keeper: int) -> None:
        self._master = master
        #: Kept open while the keeper lives: no hang-up between two programs.
        self._terminal: int | None = terminal
        self._listener = listener
        self._keeper = keeper
        self._clients: dict[int, socket.socket] = {}
        self._unsent: dict[int, bytes] = {}
        #: What the terminal has not taken yet: until then nobody's keys are read.
        self._typing = b""
        self._last = b""
        self._poll = select.poll()
        for fd in (master, listener.fileno(), keeper):
            self._poll.register(fd, select.POLLIN)
        os.set_blocking(master, False)

    def run(self) -> None:
        """Until the container is gone."""
        while True:
            for fd, events in self._poll.poll():
                if fd == self._master:
                    if events & select.POLLOUT:
                        self._type()
                    if events & ~select.POLLOUT and not self._heard():
                        return
                elif fd == self._listener.fileno():
                    self._greet()
                elif fd == self._keeper:
                    self._poll.unregister(self._keeper)
                    self._let_go()
                elif fd not in self._clients:
                    continue  # it has left in this very round
                elif events & select.POLLOUT:
                    self._send(fd, b"")
                else:
                    self._typed(fd, gone=bool(events & select.POLLHUP))

    def leave(self, path: str) -> None:
        """Write the last output to a file for root alone: it may have the reason of the end."""
        with suppress(OSError):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(self._last)

    def _let_go(self) -> None:
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None

    def _heard(self) -> bool:
        try:
            said = os.read(self._master, 65536)
        except BlockingIOError:
            return True
        except OSError:
            return False  # nobody has the terminal open any more
        self._last = (self._last + said)[-KEPT:]
        for fd in list(self._clients):
            self._send(fd, said)
        return bool(said)

    def _greet(self) -> None:
        client, _ = self._listener.accept()
        client.settimeout(0)
        fd = client.fileno()
        self._clients[fd], self._unsent[fd] = client, b""
        self._poll.register(fd, select.POLLIN)
        self._send(fd, self._last)

    def _send(self, fd: int, said: bytes) -> None:
        left = self._unsent[fd] + said
        try:
            left = left[self._clients[fd].send(left) :] if left else left
        except BlockingIOError:
            pass
        except OSError:
            self._forget(fd)
            return
        if len(left) > WAITING:
            self._forget(fd)
            return
        self._unsent[fd] = left
        self._watch(fd)

    def _watch(self, fd: int) -> None:
        wanted = 0 if self._typing else select.POLLIN
        self._poll.modify(fd, wanted | (select.POLLOUT if self._unsent[fd] else 0))

    def _typed(self, fd: int, *, gone: bool) -> None:
        """Of one who is gone everything is read at once: waiting for it would never be still."""
        while True:
            try:
                typed = self._clients[fd].recv(PIECE)
            except BlockingIOError:
                break
            except OSError:
                typed = b""
            self._typing += typed
            if not typed:
                self._forget(fd)
            if not typed or not gone:
                break
        self._type()

    def _type(self) -> None:
        """Type what the terminal takes; the rest, and what comes then, once it takes more."""
        waited = bool(self._typing)
        with suppress(BlockingIOError):
            self._typing = self._typing[os.write(self._master, self._typing) :]
        self._poll.modify(self._master, select.POLLIN | (select.POLLOUT if self._typing else 0))
        if waited or self._typing:
            for fd in self._clients:
                self._watch(fd)

    def _forget(self, fd: int) -> None:
        self._poll.unregister(fd)
        self._clients.pop(fd).close()
        del self._unsent[fd]
