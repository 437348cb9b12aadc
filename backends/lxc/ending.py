"""Word of containers that end: a thread that waits for their keepers and first processes.

A keeper ends right after its container, once it has written how. One that does not, because
liblxc hangs, is killed: nobody would ever say that the container has ended.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from backends.lxc.apart import locks
from backends.lxc.places import Place
from idl.ids import VmId

#: Seconds that a keeper has to write how its container ended.
GRACE = 3.0


class Watch:
    """Tells of a VM once one of the processes watched for it has ended, then forgets that."""

    def __init__(self, tell: Callable[[VmId], None], grace: float = GRACE) -> None:
        self._tell = tell
        self._grace = grace
        self._lock = threading.Lock()
        self._watched: dict[int, VmId] = {}
        #: Of first processes their keepers, by descriptors: a path may be another one's by then.
        self._keepers: dict[int, int] = {}
        #: Until when the keepers of containers that have ended have time.
        self._late: dict[int, float] = {}
        self._epoll = select.epoll()
        self._stop, self._stopper = os.pipe2(os.O_CLOEXEC)
        self._epoll.register(self._stop, select.EPOLLIN)
        # Woken too where there is a keeper to be looked after.
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._bell, select.EPOLLIN)
        self._thread = threading.Thread(target=self._wait, name="lxc-watch", daemon=True)
        self._thread.start()

    def add(self, vm: VmId, place: Place) -> None:
        """Watch a container's keeper, first process and console; of the former two it is told at
        once where they have ended already."""
        init, keeper = _init(place), locks.holder(str(place.keeper))
        console = locks.holder(str(place.console_server))
        with self._lock:
            for process in (one for one in (init, keeper, console) if one is not None):
                self._watched[process] = vm
                self._epoll.register(process, select.EPOLLIN | select.EPOLLONESHOT)
            if init is not None and keeper is not None:
                self._keepers[init] = os.dup(keeper)
            elif keeper is not None:
                self._late[os.dup(keeper)] = time.monotonic() + self._grace
                os.eventfd_write(self._bell, 1)
        if init is None or keeper is None:
            self._tell(vm)

    def close(self) -> None:
        """End the thread; again: nothing."""
        if self._epoll.closed:
            return
        os.close(self._stopper)
        self._thread.join()
        self._epoll.close()
        os.close(self._stop)
        os.close(self._bell)
        for process in (*self._watched, *self._keepers.values(), *self._late):
            os.close(process)

    def _wait(self) -> None:
        while True:
            for ready, _ in self._epoll.poll(self._next()):
                if ready == self._stop:
                    return
                if ready == self._bell:
                    os.eventfd_read(self._bell)
                else:
                    self._ended(ready)
            self._end_late()

    def _next(self) -> float | None:
        """Seconds until a keeper is late."""
        with self._lock:
            if not self._late:
                return None
            return max(0.0, min(self._late.values()) - time.monotonic())

    def _ended(self, process: int) -> None:
        with self._lock:
            vm = self._watched.pop(process)
            keeper = self._keepers.pop(process, None)
            if keeper is not None:
                self._late[keeper] = time.monotonic() + self._grace
            self._epoll.unregister(process)
            os.close(process)
        self._tell(vm)

    def _end_late(self) -> None:
        now = time.monotonic()
        with self._lock:
            late = [keeper for keeper, until in self._late.items() if until <= now]
            for keeper in late:
                del self._late[keeper]
        for keeper in late:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(keeper, signal.SIGKILL)
            os.close(keeper)


def _init(place: Place) -> int | None:
    """Of a first process that lives."""
    with suppress(OSError, ValueError):
        pidfd = os.pidfd_open(int(place.init.read_text()))
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(0):
            return pidfd
        os.close(pidfd)
    return None
