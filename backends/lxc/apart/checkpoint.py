"""CRIU: whether it works here, and the job that has it write a container's memory.

A dump is not broken off with the daemon: CRIU has code of its own in the container's processes
meanwhile, and only when it ends by itself have they all that is theirs again. So it has a process
that outlives the daemon, found by its lock like a keeper.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from backends.lxc.apart import locks, syscalls

#: Locked by who dumps; what CRIU returned, once it has ended.
DUMPER = "dumper"
DUMPED = "dumped"

#: CRIU's names of what every container has from outside; its VBDs' begin otherwise.
CONSOLE = "console"
XSDATA = "xsdata"

#: Seconds that CRIU may take to stop processes that do not stand still.
PATIENCE = 600

_CGROUPS = "/sys/fs/cgroup"


def unable() -> dict[str, str | None]:
    """Why CRIU does not work on this machine, as `{"reason"}`; None where it does."""
    if shutil.which("criu") is None:
        return {"reason": "criu is not installed (Debian's package criu)"}
    read, write = os.pipe2(os.O_CLOEXEC)
    pid = begin(["check"], output=write)
    os.close(write)
    with os.fdopen(read, encoding="utf-8", errors="replace") as said:
        lines = said.read().splitlines()
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
        return {"reason": None}
    return {"reason": f"criu: {first_error(lines) or 'check fails'}"}


def dump(
    *,
    directory: str,
    images: str,
    init: int,
    group: str,
    mounts: Mapping[str, str],
    terminals: Sequence[str],
    leave: Callable[[], None],
) -> None:
    """Dump the container whose first process is `init` into the directory `images`, made anew:
    leaves when it begins. Nothing where another process in `directory` is at it.

    The group's processes stand frozen before and after. `mounts` are CRIU's names of the VBDs
    that are not its root, and where in the container they are; `terminals` its names of those
    that are the console's. Raises OSError."""
    os.chdir(directory)
    lock = locks.take(DUMPER)
    if lock is None:
        return
    with suppress(FileNotFoundError):
        os.unlink(DUMPED)
    shutil.rmtree(images, ignore_errors=True)
    os.makedirs(images, mode=0o700)
    locks.sign(lock)
    leave()
    _dump(images, init, group, mounts, terminals)
    os._exit(0)


def _dump(
    images: str, init: int, group: str, mounts: Mapping[str, str], terminals: Sequence[str]
) -> None:
    outside = {CONSOLE: "/dev/console", XSDATA: "/dev/xsdata", **mounts}
    pid = begin(
        [
            # Its own patience is 10 s; how long it may take is the daemon's to say.
            *("dump", "--tree", str(init), "--leave-running", "--timeout", str(PATIENCE)),
            *(*common(images, group, "dump.log"), "--force-irmap"),
            *("--freeze-cgroup", f"{_CGROUPS}{group}"),
            *(word for name, at in outside.items() for word in _external(f"mnt[{at}]:{name}")),
            *(word for terminal in terminals for word in _external(terminal)),
        ]
    )
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    partial = f".{DUMPED}"
    Path(partial).write_text(json.dumps({"code": code}))
    os.rename(partial, DUMPED)


def _external(what: str) -> tuple[str, str]:
    return ("--external", what)


def common(images: str, group: str, log: str) -> list[str]:
    """What dump and restore are both told; `group` is a path from the topmost one."""
    return [
        *("--images-dir", images, "--log-file", log, "-v4"),
        *("--tcp-established", "--file-locks", "--empty-ns", "net"),
        *("--manage-cgroups=soft", "--cgroup-yard", _yard(images), "--cgroup-root", group),
        *("--ext-mount-map", "auto", "--enable-external-sharing", "--enable-external-masters"),
    ]


def _yard(images: str) -> str:
    """Where CRIU finds the control groups: mounting them itself would change the options that
    the host's own have."""
    yard = Path(images).with_name(".yard")
    yard.mkdir(exist_ok=True)
    with suppress(FileExistsError):
        (yard / "unified").symlink_to(_CGROUPS)
    return str(yard)


def terminal_name(found: os.stat_result) -> str:
    """What CRIU calls a terminal that it is not to make."""
    return f"tty[{found.st_rdev:x}:{found.st_dev:x}]"


def begin(arguments: Sequence[str], *, output: int | None = None, fds: Sequence[int] = ()) -> int:
    """Start CRIU with these descriptors: its pid. It dies with this process."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            syscalls.die_with_parent(parent)
            nothing = os.open(os.devnull, os.O_RDWR)
            for fd, to in ((nothing, 0), (output or nothing, 1), (output or nothing, 2)):
                os.dup2(fd, to)
            for fd in fds:
                os.set_inheritable(fd, True)  # noqa: FBT003  # the call has no names
            os.execvp("criu", ["criu", *arguments])  # noqa: S606, S607  # no shell, PATH is ours
        finally:
            os._exit(127)
    return pid


def first_error(lines: Sequence[str]) -> str | None:
    """The cause, in what CRIU has written: its first error, without its place in the source."""
    errors = (line.partition("Error (")[2].partition("): ")[2] for line in lines)
    return next((error.strip() for error in errors if error), None)
