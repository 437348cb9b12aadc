"""Events from processes beside the daemon: a FIFO an instance, `WORLD/events/INSTANCE`.

Who changed a domain writes its VM's id there, a line each; nobody listening is no error, and
a line lost does no harm.
"""

import os
import select
import threading
from collections.abc import Callable
from pathlib import Path

from idl.ids import VmId


class Listener:
    """A thread that blocks on the FIFO and costs nothing while nothing is said."""

    def __init__(self, path: Path, needs_attention: Callable[[VmId], None]) -> None:
        try:
            os.mkfifo(path, 0o660)
        except FileExistsError:
            pass
        # For writing too: so that reading never meets an end when the last writer leaves.
        self._fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._stop, self._stopper = os.pipe2(os.O_CLOEXEC)
        self._needs_attention = needs_attention
        self._thread = threading.Thread(target=self._listen, name="simulator-events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        os.close(self._stopper)
        self._thread.join()
        os.close(self._stop)
        os.close(self._fifo)

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._fifo, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        cut = b""
        while self._stop not in (ready := {fd for fd, _ in poll.poll()}):
            if self._fifo in ready:
                *lines, cut = (cut + os.read(self._fifo, 65536)).split(b"\n")
                for line in dict.fromkeys(lines):
                    self._needs_attention(line.decode(errors="replace"))


def announce(path: Path, vm: VmId) -> None:
    """Tell whoever listens that a VM needs attention."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return  # nobody listens
    try:
        os.write(fd, vm.encode() + b"\n")
    except BlockingIOError:
        pass  # full: the listener has enough to look at
    finally:
        os.close(fd)


def listened(path: Path) -> bool:
    """Whether a daemon listens."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True
