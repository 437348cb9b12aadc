"""The keeper of a container that comes back from its image: CRIU makes the processes, the first of
them as this process's child, and this process waits for its end as a keeper does.

CRIU makes the network namespace too. It is pinned once it is there, and the daemon, on the other
end of a socket, connects it before CRIU puts sockets into it. A daemon that dies meanwhile takes
the half made container with it: its image is whole.
"""

import json
import os
import select
import shlex
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from backends.lxc.apart import checkpoint, console, locks, namespaces
from backends.lxc.apart.keeper import INIT, KEEPER, STATUS
from backends.lxc.apart.syscalls import MS_BIND, mount

#: What CRIU runs at each of its stages, and where that asks and is answered.
SCRIPT = "act"
ASKED = "asked"
ANSWERED = "answered"

_CGROUPS = "/sys/fs/cgroup"


def revive(
    *,
    directory: str,
    images: str,
    group: str,
    root: str,
    mounts: Mapping[str, str],
    terminals: Sequence[str],
    first_id: int,
    leave: Callable[[], None],
    fds: Sequence[int],
) -> None:
    """Bring a container back from what is in `images`, and keep it, in `directory`. Leaves at
    once, and talks of it on the socket given.

    It says `{"network": true}` when the namespaces are pinned, and goes on when it is answered;
    then `{"init": pid}`, when the container stands frozen, or `{"error": reason}`. `group` is
    the control group, from the topmost one, with `c/i` and `m` in it; `root` where its root
    is mounted, `mounts` CRIU's names of the other VBDs and where those are; `terminals` its
    names of those that were the console's. Raises OSError."""
    os.chdir(directory)
    lock = locks.take(KEEPER)
    if lock is None:
        raise OSError(None, "the container has a keeper")
    for left in (INIT, STATUS, ASKED, ANSWERED):
        with suppress(FileNotFoundError):
            os.unlink(left)
    locks.sign(lock)
    leave()
    talk = socket.socket(fileno=fds[0])
    _Revival(images, group, root, mounts, terminals, first_id, talk).keep()
    os._exit(0)


@dataclass
class _Revival:
    images: str
    group: str
    root: str
    mounts: Mapping[str, str]
    terminals: Sequence[str]
    first_id: int
    talk: socket.socket

    def keep(self) -> None:
        """Until the container has ended."""
        _move(os.getpid(), f"{self.group}/m")
        try:
            init = self._restored()
        except OSError as error:
            self._say(error=error.strerror or str(error))
            return
        Path(f".{INIT}").write_text(f"{init}\n")
        os.rename(f".{INIT}", INIT)
        self._say(init=init)
        self.talk.close()
        # os.waitstatus_to_exitcode: what it returned, or minus the signal that killed it.
        code = os.waitstatus_to_exitcode(os.waitpid(init, 0)[1])
        Path(f".{STATUS}").write_text(json.dumps({"code": code}))
        os.rename(f".{STATUS}", STATUS)

    def _say(self, **what: object) -> None:
        with suppress(OSError):
            self.talk.send(json.dumps(what).encode())

    def _restored(self) -> int:
        with console.served("console.sock", self.first_id, keeper=os.getpid()) as tty:
            return self._restored_at(tty)

    def _restored_at(self, tty: int) -> int:
        for path in (ASKED, ANSWERED):
            os.mkfifo(path, 0o600)
        asked = os.open(ASKED, os.O_RDWR | os.O_CLOEXEC)
        pidfile = f"{self.images}/init.pid"
        # One for each name: CRIU closes what it has given away.
        ttys = {os.dup(tty): name for name in self.terminals}
        criu = checkpoint.begin(self._arguments(ttys, pidfile), fds=list(ttys))
        try:
            code = self._attend(criu, asked)
        except BaseException:
            os.kill(criu, signal.SIGKILL)
            os.waitpid(criu, 0)
            raise
        if code != 0:
            log = Path(f"{self.images}/restore.log").read_text(errors="replace")
            raise OSError(None, f"criu: {checkpoint.first_error(log.splitlines()) or code}")
        for fd in (*ttys, asked):
            os.close(fd)
        return int(Path(pidfile).read_text())

    def _arguments(self, ttys: Mapping[int, str], pidfile: str) -> list[str]:
        outside = {
            checkpoint.CONSOLE: os.path.realpath("tty"),
            checkpoint.XSDATA: os.path.realpath("xsdata"),
            **self.mounts,
        }
        self._write_script()
        return [
            *("restore", *checkpoint.common(self.images, f"{self.group}/c/i", "restore.log")),
            # Its newer way fails where the host's topmost mount is shared, as under systemd.
            *("--root", self.root, "--mntns-compat-mode"),
            *("--restore-detached", "--restore-sibling", "--pidfile", pidfile),
            *(w for name, at in outside.items() for w in ("--external", f"mnt[{name}]:{at}")),
            *(w for fd, name in ttys.items() for w in ("--inherit-fd", f"fd[{fd}]:{name}")),
            *("--action-script", self._script),
        ]

    def _write_script(self) -> None:
        asked, answered = (shlex.quote(os.path.realpath(path)) for path in (ASKED, ANSWERED))
        Path(self._script).write_text(
            "#!/bin/sh\n"
            "case $CRTOOLS_SCRIPT_ACTION in setup-namespaces|pre-resume) ;; *) exit 0 ;; esac\n"
            f'echo "$CRTOOLS_SCRIPT_ACTION $CRTOOLS_INIT_PID $$" >{asked}\n'
            f"read answer <{answered}\n"
        )
        Path(self._script).chmod(0o700)

    @property
    def _script(self) -> str:
        # Not in the run directory, which may be mounted without the right to execute.
        return f"{self.images}/{SCRIPT}"

    def _attend(self, criu: int, asked: int) -> int:
        """Answer CRIU's script until CRIU has ended: what it returned."""
        answered = os.open(ANSWERED, os.O_RDWR | os.O_CLOEXEC)
        ended = os.pidfd_open(criu)
        poll = select.poll()
        for fd in (asked, ended, self.talk.fileno()):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if asked in ready:
                stage, init, script = os.read(asked, 4096).decode().split()
                self._act(stage, init, [criu, int(script)])
                os.write(answered, b"done\n")
            elif ended in ready:
                for fd in (answered, ended):
                    os.close(fd)
                return os.waitstatus_to_exitcode(os.waitpid(criu, 0)[1])
            else:
                raise OSError(None, "the daemon has gone")

    def _act(self, stage: str, init: str, ours: Sequence[int]) -> None:
        if stage == "pre-resume":
            # Before any of its processes has run: from here on they stand until they are thawed.
            for pid in ours:
                _move(pid, f"{self.group}/m")
            Path(f"{_CGROUPS}{self.group}/c/cgroup.freeze").write_text("1")
            return
        for kind in ("net", "user"):
            namespaces.unpin(f"ns/{kind}")
            mount(f"/proc/{init}/ns/{kind}", f"ns/{kind}", flags=MS_BIND)
        self._say(network=True)
        if not self.talk.recv(1):
            raise OSError(None, "the daemon has gone")


def _move(pid: int, group: str) -> None:
    """Into a control group."""
    Path(f"{_CGROUPS}{group}/cgroup.procs").write_text(str(pid))
