"""The server: forks a child for each job, and does nothing else.

A request is one packet: JSON `{"job", "arguments"}`, with the socket for the answers attached,
and after it what descriptors the job needs. On that socket come `{"pid"}`, with a pidfd, and at
last `{"result"}` or `{"error": {"errno", "message"}}`. Whoever has to know that nothing of a
former daemon acts any more takes the lock that the server and every job hold.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from backends.lxc.apart import (
    attaching,
    checkpoint,
    keeper,
    locks,
    mounting,
    namespaces,
    removing,
    reviving,
    syscalls,
    unpacking,
)

#: Bytes of a request, and of an answer.
PACKET = 1 << 16

JOBS: dict[str, Callable[..., Any]] = {
    "hold_namespaces": namespaces.hold,
    "release_namespaces": namespaces.release,
    "keep": keeper.keep,
    "revive": reviving.revive,
    "dump": checkpoint.dump,
    "criu_unable": checkpoint.unable,
    "liblxc_version": keeper.version,
    "attach_mount": attaching.attach_mount,
    "detach_mount": attaching.detach_mount,
    "mount_disk": mounting.mount_disk,
    "own_mounts": mounting.own_mounts,
    "release_mounts": mounting.release_mounts,
    "remove_trees": removing.remove_trees,
    "unpack_image": unpacking.unpack_image,
}

#: Those that leave a process which outlives the daemon: it lets go of what is not its own.
_LASTING = frozenset({"keep", "revive", "dump"})


def serve(requests: socket.socket, lock: int) -> None:
    """Until the daemon has closed its end."""
    server = os.getpid()
    while True:
        packet, fds, _flags, _address = socket.recv_fds(requests, PACKET, 8)
        _reap()
        if not packet:
            return
        if os.fork() == 0:
            requests.close()
            _child(server, packet, fds, lock)
        for fd in fds:
            os.close(fd)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _child(server: int, packet: bytes, fds: list[int], lock: int) -> None:
    """Carry out one job, and end."""
    try:
        syscalls.die_with_parent(server)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        answers = socket.socket(fileno=fds[0])
        pidfd = os.pidfd_open(os.getpid())
        socket.send_fds(answers, [json.dumps({"pid": os.getpid()}).encode()], [pidfd])
        os.close(pidfd)
        request = json.loads(packet)
        _answer(answers, lock, request["job"], request["arguments"], fds[1:])
    finally:
        os._exit(0)


def _answer(
    answers: socket.socket, lock: int, job: str, arguments: dict[str, Any], fds: list[int]
) -> None:
    if job in _LASTING:
        arguments["let_go"] = [answers.fileno(), lock]
    if fds:
        arguments["fds"] = fds
    try:
        answer = {"result": JOBS[job](**arguments)}
    except OSError as error:
        answer = {"error": {"errno": error.errno, "message": error.strerror or str(error)}}
    except Exception as error:  # noqa: BLE001  # the daemon has to be told
        answer = {"error": {"errno": None, "message": f"{type(error).__name__}: {error}"}}
    answers.send(json.dumps(answer).encode())


def main() -> None:
    """`SOCKET LOCK`: the descriptor of the requests, the path of the lock."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    # Until the last job of a server that died has died with it.
    lock = locks.take(sys.argv[2], wait=True)
    assert lock is not None, "waited for"
    locks.sign(lock)
    for name in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        # For the daemon, whose process group this may be in.
        signal.signal(name, signal.SIG_IGN)
    requests.send(b"ready")
    serve(requests, lock)
