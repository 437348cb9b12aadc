"""Word of containers that end: a thread that waits for their keepers and first processes."""

import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress

from backends.lxc.apart import locks
from backends.lxc.places import Place
from idl.ids import VmId


class Watch:
    """Tells of a VM once one of the processes watched for it has ended, then forgets that."""

    def __init__(self, tell: Callable[[VmId], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._watched: dict[int, VmId] = {}
        self._epoll = select.epoll()
        self._stop, self._stopper = os.pipe2(os.O_CLOEXEC)
        self._epoll.register(self._stop, select.EPOLLIN)
        self._thread = threading.Thread(target=self._wait, name="lxc-watch", daemon=True)
        self._thread.start()

    def add(self, vm: VmId, place: Place) -> None:
        """Watch a container's keeper, first process and console; of the former two it is told at
        once where they have ended already."""
        vital = [_init(place), locks.holder(str(place.keeper))]
        console = locks.holder(str(place.console_server))
        with self._lock:
            for process in filter(None, [*vital, console]):
                self._watched[process] = vm
                self._epoll.register(process, select.EPOLLIN | select.EPOLLONESHOT)
        if None in vital:
            self._tell(vm)

    def close(self) -> None:
        """End the thread; again: nothing."""
        if self._epoll.closed:
            return
        os.close(self._stopper)
        self._thread.join()
        self._epoll.close()
        os.close(self._stop)
        for process in self._watched:
            os.close(process)

    def _wait(self) -> None:
        while True:
            for process, _ in self._epoll.poll():
                if process == self._stop:
                    return
                with self._lock:
                    vm = self._watched.pop(process)
                    self._epoll.unregister(process)
                    os.close(process)
                self._tell(vm)


def _init(place: Place) -> int | None:
    with suppress(OSError, ValueError):
        return os.pidfd_open(int(place.init.read_text()))
    return None
