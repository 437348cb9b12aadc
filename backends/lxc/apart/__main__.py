"""The server: forks a child for each job, and does nothing else.

The child for the next job is there already, and waits for the request: nobody waits for a fork.
A request is one packet: JSON `{"job", "arguments"}`, with the socket for the answers attached,
and after it what descriptors the job needs. On that socket come `{"pid"}`, with a pidfd, and at
last `{"result"}` or `{"error": {"errno", "message"}}`; with `"left"` where the process lives on,
as the keeper of a container does. Whoever has to know that nothing of a former daemon acts any
more takes the lock that the server and every job hold.
"""

import contextlib
import gc
import json
import os
import select
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

#: Those whose process may outlive the daemon: they are given what to call then.
_LASTING = frozenset({"keep", "revive", "dump"})


def serve(requests: socket.socket, lock: int) -> None:
    """Until the daemon has closed its end."""
    server, group = os.getpid(), _own_group()
    # Children leave alone the pages of what is there already.
    gc.collect()
    gc.freeze()
    # Nobody waits for them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    poll = select.poll()
    poll.register(requests, 0)
    while True:
        free, taken = os.pipe()
        if os.fork() == 0:
            os.close(free)
            _child(server, requests, taken, lock)
        os.close(taken)
        _hasten(group)
        # Until the child has a request, or has died.
        poll.register(free, 0)
        ready = {fd for fd, _ in poll.poll()}
        poll.unregister(free)
        os.close(free)
        if requests.fileno() in ready:
            return


def _own_group() -> str | None:
    """The file of the processes in this one's control group, in any hierarchy."""
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        lines = [line.rstrip().split(":", 2) for line in file]
    for _, names, path in lines:
        for place in (names.removeprefix("name="), "unified", ""):
            found = f"/sys/fs/cgroup/{place}{path}/cgroup.procs"
            if os.path.exists(found):
                return found
    return None


def _hasten(group: str | None) -> None:
    """Move this process to where it is. The first move after a while takes some 10 ms, for a
    grace period of the kernel's; the moves of a container that starts soon do not any more."""
    if group is not None:
        with contextlib.suppress(OSError), open(group, "w", encoding="ascii") as file:
            file.write("0")


def _child(server: int, requests: socket.socket, taken: int, lock: int) -> None:
    """Wait for a job, carry it out, and end."""
    try:
        syscalls.die_with_parent(server)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        pidfd = os.pidfd_open(os.getpid())
        begun = json.dumps({"pid": os.getpid()}).encode()
        packet, fds, _flags, _address = socket.recv_fds(requests, PACKET, 8)
        os.close(taken)
        requests.close()
        if packet:
            answers = socket.socket(fileno=fds[0])
            socket.send_fds(answers, [begun], [pidfd])
            os.close(pidfd)
            request = json.loads(packet)
            _answer(answers, lock, request["job"], request["arguments"], fds[1:])
    finally:
        os._exit(0)


def _answer(
    answers: socket.socket, lock: int, job: str, arguments: dict[str, Any], fds: list[int]
) -> None:
    def leave(result: object = None) -> None:
        syscalls.outlive_parent()
        os.setsid()
        answers.send(json.dumps({"result": result, "left": True}).encode())
        answers.close()
        os.close(lock)

    if job in _LASTING:
        arguments["leave"] = leave
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
