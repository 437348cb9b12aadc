"""sd_notify: what a service manager is told, where there is one."""

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends to NOTIFY_SOCKET, and nothing where it is not set. Never raises."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    @property
    def heard(self) -> bool:
        """Whether there is somebody to tell."""
        return bool(self._address)

    def tell(self, *lines: str) -> None:
        """READY=1, STATUS=…, STOPPING=1, WATCHDOG=1, …"""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)  # noqa: FBT003  # socket's own API
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            # Whoever started us does not listen: that is no reason to stop.
            return


#: What the service manager told us alone.
_OURS = (
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
)


def drop_from_children() -> None:
    """No child of the daemon may speak for it, nor take its sockets for its own."""
    for name in _OURS:
        os.environ.pop(name, None)
