"""A Unix socket that is listened on, and the file that names it.

A file that nobody answers behind is replaced, one that somebody answers behind is not; at
the end only our own file is removed. A socket that was handed over stays its giver's.
"""

import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

BACKLOG = 4096
_CONNECT_TIMEOUT = 1.0


class AddressInUse(Exception):
    """Somebody answers at `path` already."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is in use by a running process")
        self.path = path


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket; `group` is the group whose members may connect (None: nobody's).

    `identity` is that of the file that we have made; None: it is somebody else's.
    """

    sock: socket.socket
    path: Path
    group: int | None
    readonly: bool
    identity: tuple[int, int] | None

    def close(self) -> None:
        """Stop listening and remove the file, if it is still this one."""
        if self.identity is not None and _identity(self.path) == self.identity:
            self.path.unlink(missing_ok=True)
        self.sock.close()


def listen(
    path: Path, *, group: int | None = None, readonly: bool = False, mode: int = 0o660
) -> Listener:
    """Listen at `path`; the directory exists.

    Raises: AddressInUse where somebody answers; OSError (also for a file that is no socket).
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        _make_room(path)
        sock.bind(str(path))
        # Nobody can connect before listen(), so nobody meets the mode of the umask.
        path.chmod(mode)
        if group is not None:
            os.chown(path, -1, group)
        sock.listen(BACKLOG)
        found = _identity(path)
        if found is None:
            raise AddressInUse(path)  # replaced by another between bind and here
    except BaseException:
        sock.close()
        raise
    return Listener(sock, path, group, readonly, found)


def take_over(descriptor: int, *, group: int | None = None, readonly: bool = False) -> Listener:
    """A socket that whoever started us listens on. Raises OSError, also where it is none."""
    sock = socket.socket(fileno=descriptor)
    unix = sock.family == socket.AF_UNIX and sock.type == socket.SOCK_STREAM
    if not unix or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise OSError(f"descriptor {descriptor} is no listening Unix stream socket")
    sock.set_inheritable(False)
    sock.setblocking(False)  # noqa: FBT003  # socket's own API
    return Listener(sock, Path(sock.getsockname()), group, readonly, None)


def _make_room(path: Path) -> None:
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise FileExistsError(f"{path} exists and is no socket; remove it")
    if _answers(path):
        raise AddressInUse(path)
    path.unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_CONNECT_TIMEOUT)
        try:
            sock.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except TimeoutError:
            return True  # its backlog is full: it lives
    return True


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return (found.st_dev, found.st_ino)
