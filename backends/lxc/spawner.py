"""Jobs in processes of their own: what enters namespaces, mounts, or loads liblxc.

The daemon's side of `backends.lxc.apart`. A job that hangs or dies costs whoever waits for it;
the server that forks them is made anew when it does.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import msgspec

from backends.lxc.apart import locks
from idl.errors import Cancelled, DeadlineExceeded, HypervisorError

#: Seconds that the server has to start, and then to fork a job, before it is taken for hung;
#: and to end once it is killed.
START = 60.0
FORK = 8.0
END = 8.0

#: How often a job is asked for: the process that waits for one, or the server, may have died.
ATTEMPTS = 3

PACKET = 1 << 16

_MAIN = """
import sys
sys.path.append({root!r})
from backends.lxc.apart.__main__ import main
main()
"""


class Job:
    """A job under way. For a `with`: what has not ended by then, or left, is killed."""

    def __init__(self, name: str, answers: socket.socket) -> None:
        self.name = name
        self.broken = False
        self._left = False
        self._answers = answers
        self._pidfd: int | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._left:
            self.kill()
        with self._lock:
            if self._pidfd is not None:
                os.close(self._pidfd)
            self._pidfd = None
            self._answers.close()

    def begun(self, seconds: float) -> bool:
        """Wait for a process to have taken it; False where that has died, or the server.
        Raises TimeoutError."""
        self._answers.settimeout(seconds)
        try:
            said, fds, _, _ = socket.recv_fds(self._answers, PACKET, 1)
        except TimeoutError:
            raise
        except OSError:
            return False
        with self._lock:
            self._pidfd = fds[0] if fds else None
        return bool(said)

    def break_off(self) -> None:
        """Kill it, from another thread: whoever waits for it is told `Cancelled`."""
        self.broken = True
        self.kill()

    def kill(self) -> None:
        """SIGKILL, if it has not ended."""
        with self._lock:
            if self._pidfd is not None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def done(self) -> bool:
        """Whether `answer` would not block."""
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        return bool(poll.poll(0))

    def answer(self, deadline: float) -> Any:
        """What it says as it ends, or leaves. Raises OSError as it did, DeadlineExceeded past
        `deadline` (monotonic), Cancelled when broken off."""
        left = deadline - time.monotonic()
        self._answers.settimeout(max(left, 0.001))
        try:
            said = self._answers.recv(PACKET)
        except TimeoutError:
            raise DeadlineExceeded(what=self.name, seconds=max(left, 0.0)) from None
        if not said:
            if self.broken:
                raise Cancelled(task=self.name)
            raise HypervisorError(call=self.name, reason="the process that was at it died")
        answer = msgspec.json.decode(said)
        self._left = "left" in answer
        if not self._left:
            # What it had open is closed once it has ended: nothing is busy because of it.
            self.ends(max(deadline - time.monotonic(), 0.1))
        if "error" in answer:
            number, message = answer["error"]["errno"], answer["error"]["message"]
            raise OSError(message) if number is None else OSError(number, message)
        return answer["result"]

    def says(self, word: int, deadline: float) -> bool:
        """Whether a job that has left makes this descriptor readable before it dies.

        Raises Cancelled when broken off, TimeoutError."""
        with self._lock:
            pidfd = self._pidfd
        assert pidfd is not None, "it has left, and the `with` has not been"
        poll = select.poll()
        for fd in (word, pidfd):
            poll.register(fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(max(deadline - time.monotonic(), 0.0) * 1000)}
        if self.broken:
            raise Cancelled(task=self.name)
        if not ready:
            raise TimeoutError
        return word in ready

    def ends(self, seconds: float) -> bool:
        """Wait for its process to end: whether it has."""
        with self._lock:
            pidfd = self._pidfd
        if pidfd is None:
            return True
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))


class _Server:
    """A server that forks jobs. `lock` is the file that it holds."""

    def __init__(self, lock: Path) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        lock.parent.mkdir(parents=True, exist_ok=True)
        root = str(Path(__file__).parents[2])
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  # our own interpreter
                [
                    *(sys.executable, "-I", "-S", "-c", _MAIN.format(root=root)),
                    *(str(theirs.fileno()), str(lock)),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # Nothing of the daemon's environment may get into a container.
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
                cwd="/",
                start_new_session=True,
            )

    def ready(self, seconds: float) -> bool:
        """Wait until it takes requests."""
        poll = select.poll()
        poll.register(self._requests, select.POLLIN)
        return bool(poll.poll(seconds * 1000) and self._requests.recv(16))

    def request(self, name: str, request: bytes, fds: tuple[int, ...]) -> Job:
        """Ask for a job; whether it is forked, `Job.begun` tells."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, suppress(OSError):  # gone: then the job's socket has ended, too
            socket.send_fds(self._requests, [request], [theirs.fileno(), *fds])
        return Job(name, ours)

    def lives(self) -> bool:
        """Whether somebody takes requests."""
        poll = select.poll()
        poll.register(self._requests, 0)
        return not poll.poll(0)

    def stop(self) -> None:
        """End it, and with it every job.

        One that the kernel holds fast is left to it: the lock that it has keeps the next
        server waiting, and its child is reaped when another is started."""
        self._requests.close()
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END)


class Spawner:
    """The server of one instance, and the jobs under way. `lock` is a file that it and every
    job hold locked: once it can be had, nothing of a former daemon acts any more."""

    def __init__(self, lock: Path) -> None:
        self._path = lock
        self._lock = threading.Lock()
        self._jobs: dict[str, set[Job]] = {}
        self._server: _Server | None = None

    def open(self, seconds: float) -> None:
        """End what a former daemon has left, and start the server.

        Raises DeadlineExceeded when that does not end."""
        deadline = time.monotonic() + seconds
        waiting = threading.Event()
        while locks.held(str(self._path)):
            # The server's jobs die with it.
            locks.kill(str(self._path))
            if time.monotonic() > deadline:
                raise DeadlineExceeded(what="processes of a former daemon", seconds=seconds)
            waiting.wait(0.005)
        self._running()

    def close(self) -> None:
        """End the server and every job; containers and their keepers live on."""
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.stop()

    def run(
        self, job: str, *, owner: str, deadline: float, fds: tuple[int, ...] = (), **arguments: Any
    ) -> Any:
        """Carry out a job and wait for its answer; see `Job.answer`. `owner` is for
        `interrupt`; the job has ended when this returns."""
        with self.start(job, owner=owner, fds=fds, **arguments) as started:
            try:
                return started.answer(deadline)
            finally:
                self.forget(owner, started)

    def start(self, job: str, *, owner: str, fds: tuple[int, ...] = (), **arguments: Any) -> Job:
        """Begin a job. The caller leaves it by `with`, and calls `forget`."""
        request = msgspec.json.encode({"job": job, "arguments": arguments})
        for _ in range(ATTEMPTS):
            server = self._running()
            started = server.request(job, request, fds)
            with self._lock:
                self._jobs.setdefault(owner, set()).add(started)
            # Without the lock: a server that hangs costs whoever asks it now.
            try:
                if started.begun(FORK):
                    return started
                lost = not server.lives()
            except TimeoutError:
                lost = True
            self.forget(owner, started)
            started.__exit__()
            if lost:
                self._replace(server)
        raise HypervisorError(call=job, reason="the server of jobs does not answer")

    def _running(self) -> _Server:
        """The server; started where there is none. Raises HypervisorError."""
        with self._lock:
            if self._server is None:
                server = _Server(self._path)
                if not server.ready(START):
                    server.stop()
                    raise HypervisorError(call="open", reason="the server of jobs does not start")
                self._server = server
            return self._server

    def _replace(self, server: _Server) -> None:
        """Have the next one who asks start another one."""
        with self._lock:
            if self._server is server:
                self._server = None
                server.stop()

    def forget(self, owner: str, job: Job) -> None:
        """It has ended, or nobody wants it any more."""
        with self._lock:
            owned = self._jobs.get(owner, set())
            owned.discard(job)
            if not owned:
                self._jobs.pop(owner, None)

    def interrupt(self, owner: str) -> None:
        """Break off every job of an owner."""
        with self._lock:
            jobs = list(self._jobs.get(owner, ()))
        for job in jobs:
            job.break_off()
