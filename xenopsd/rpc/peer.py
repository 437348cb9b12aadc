"""What the kernel says about the other end of a Unix socket: who it is, and that it has gone."""

import asyncio
import os
import select
import socket
import struct
from collections.abc import Callable

from xenopsd.rpc.service import Caller

_UCRED = struct.Struct("3i")
_SO_PEERGROUPS = 59
_MOST_GROUP_BYTES = 1024  # what Python's getsockopt takes


def caller_of(sock: socket.socket, *, readonly: bool) -> Caller:
    """The credentials that the peer had when it connected.

    Of a peer in more than 256 groups only the primary one counts.
    Raises: OSError when the peer has gone already.
    """
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _pid, uid, gid = _UCRED.unpack(credentials)
    return Caller(
        uid=uid,
        gids=frozenset((gid, *_groups(sock))),
        readonly=readonly,
        privileged=uid in (0, os.geteuid()),
    )


def _groups(sock: socket.socket) -> tuple[int, ...]:
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_GROUP_BYTES)
    except OSError:
        return ()
    return tuple(struct.unpack(f"{len(data) // 4}I", data))


class Hangups:
    """Tells when a peer is gone for good, of connections that are not being read.

    A peer that has merely ended its sending side still reads its answers. The event loop sees
    neither of the two on a connection that it does not read; an epoll that asks for nothing
    is told of the hang-up alone.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._epoll.fileno(), self._poll)

    def watch(self, fd: int, gone: Callable[[], None]) -> None:
        """Call `gone` once when the peer of `fd` has gone; at once (from the loop) if it has."""
        if fd not in self._watched:
            self._epoll.register(fd, 0)
        self._watched[fd] = gone

    def forget(self, fd: int) -> None:
        """Before `fd` is closed, or read again."""
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _poll(self) -> None:
        for fd, _events in self._epoll.poll(0):
            gone = self._watched.get(fd)
            self.forget(fd)
            if gone is not None:
                gone()
