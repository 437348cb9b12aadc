"""What a user would pick instead, where it is installed: libvirt's daemon, and LXD's.

libvirtd runs as a private instance: its sockets in a directory of the measurement, its driver
directory empty, and where root runs it, a mount namespace of its own with nothing in libvirt's
system directories. No libvirtd of the machine is asked or disturbed. What answers in it is the
driver that is built into libvirt (`test:///default`, one running domain in memory), reached over
the daemon's socket: the whole way of a call through libvirt, and a hypervisor that costs nothing,
as the simulator's does not.
"""

import http.client
import importlib
import os
import select
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from bench.server import Process

#: Where Debian's package puts the binding, for a Python of the same version.
DEBIAN = "/usr/lib/python3/dist-packages"
DEADLINE = 20.0
LXD_SOCKETS = (
    Path("/var/lib/lxd/unix.socket"),
    Path("/var/snap/lxd/common/lxd/unix.socket"),
)

_PRIVATE = """
set -e
for place in /run/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt; do
    if [ -d "$place" ]; then mount -t tmpfs none "$place"; fi
done
exec libvirtd -f "$1/libvirtd.conf" -p "$1/pid"
"""


class Unavailable(Exception):
    """The other side of a comparison is not there; the text says why."""


class _Libvirtd(Process):
    """A libvirtd that answers on a socket in a directory."""

    def __init__(self, directory: Path) -> None:
        (directory / "drivers").mkdir(parents=True)
        (directory / "libvirtd.conf").write_text(
            f'unix_sock_dir = "{directory}"\nauth_unix_ro = "none"\nauth_unix_rw = "none"\n'
        )
        command = ["sh", "-c", _PRIVATE, "libvirtd", str(directory)]
        if os.geteuid() == 0:
            command = ["unshare", "--mount", "--propagation", "private", *command]
        else:
            command[2] = _PRIVATE.partition("done\n")[2]
        places = ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")
        environ = {**dict.fromkeys(places, str(directory))}
        environ["LIBVIRT_DRIVER_DIR"] = str(directory / "drivers")
        super().__init__(command, directory / "log", environ)


@contextmanager
def libvirt_state(directory: Path) -> Iterator[Callable[[], Any]]:
    """virDomainGetState of libvirt's own client library, over the socket of a private libvirtd.

    Raises Unavailable.
    """
    if not shutil.which("libvirtd"):
        raise Unavailable("libvirtd is not installed")
    binding = _binding()
    server = _Libvirtd(directory)
    try:
        with _connected(binding, server, directory / "libvirt-sock") as connection:
            yield connection.lookupByName("test").state
    finally:
        server.kill()
        shutil.rmtree(directory, ignore_errors=True)


def libvirt_version() -> str:
    """Of the client library, for the table."""
    version = _binding().getVersion()
    return f"{version // 1_000_000}.{version // 1000 % 1000}.{version % 1000}"


def _binding() -> Any:
    try:
        return importlib.import_module("libvirt")
    except ImportError:
        pass
    sys.path.append(DEBIAN)
    try:
        return importlib.import_module("libvirt")
    except ImportError:
        raise Unavailable("libvirt's Python binding is not installed") from None
    finally:
        sys.path.remove(DEBIAN)


@contextmanager
def _connected(binding: Any, server: Process, path: Path) -> Iterator[Any]:
    until = time.monotonic() + DEADLINE
    while not path.exists():
        if time.monotonic() > until or not server.alive:
            last = server.tail().strip().rpartition("\n")[2]
            raise Unavailable(f"libvirtd does not start: {last}")
        select.select([], [], [], 0.01)
    connection = binding.open(f"test+unix:///default?socket={path}")
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def lxd_state(sockets: Sequence[Path]) -> Iterator[Callable[[], Any]]:
    """The state of an instance over the first of these sockets that is there, one kept connection.

    Raises Unavailable, also where LXD has no instance to look at.
    """
    path = next((p for p in sockets if p.is_socket()), None)
    if path is None:
        raise Unavailable("LXD is not installed")
    connection = _UnixHttp(path)
    try:
        instances = connection.get("/1.0/instances")["metadata"]
        if not instances:
            raise Unavailable("LXD has no instance to look at")
        yield lambda: connection.get(f"{instances[0]}/state")
    finally:
        connection.close()


class _UnixHttp(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=DEADLINE)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(self._path)

    def get(self, path: str) -> Any:
        self.request("GET", path)
        return msgspec.json.decode(self.getresponse().read())
