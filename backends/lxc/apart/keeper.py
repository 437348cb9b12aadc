"""The keeper of a container: liblxc's monitor, in a process that outlives the daemon.

It starts the container, waits for its end, and writes what init's end was to `status`. liblxc
would restart a container that reboots by itself and tell nobody: a post-stop hook that fails
keeps it from that. A container whose keeper was killed runs on; how it ends is then unknown.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
from pathlib import Path
from typing import Any

from backends.lxc.apart import console, locks, syscalls

#: What the hook before init's first instruction makes: init's pid, and word of it.
INIT = "init"
STARTED = "started"
KEEPER = "keeper"
STATUS = "status"

#: Linux's PF_FORKNOEXEC.
_FORKED_ONLY = 0x40

_Pointer = ctypes.c_void_p


class _Container(ctypes.Structure):
    """The beginning of `struct lxc_container` of liblxc's stable interface."""


_Container._fields_ = (
    ("name", ctypes.c_char_p),
    ("configfile", ctypes.c_char_p),
    ("pidfile", ctypes.c_char_p),
    ("slock", _Pointer),
    ("privlock", _Pointer),
    ("numthreads", ctypes.c_int),
    ("lxc_conf", _Pointer),
    ("error_string", ctypes.c_char_p),
    #: With `start` in the foreground how init ended: code << 8, or signal << 8 | 0x7f.
    ("error_num", ctypes.c_int),
    ("daemonize", ctypes.c_bool),
    ("config_path", ctypes.c_char_p),
    ("is_defined", _Pointer),
    ("state", _Pointer),
    ("is_running", _Pointer),
    ("freeze", _Pointer),
    ("unfreeze", _Pointer),
    ("init_pid", _Pointer),
    ("load_config", ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.POINTER(_Container), ctypes.c_char_p)),
    (
        "start",
        ctypes.CFUNCTYPE(
            ctypes.c_bool,
            ctypes.POINTER(_Container),
            ctypes.c_int,
            ctypes.POINTER(ctypes.c_char_p),
        ),
    ),
    ("startl", _Pointer),
    ("stop", _Pointer),
    (
        "want_daemonize",
        ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.POINTER(_Container), ctypes.c_bool),
    ),
)


def library() -> ctypes.CDLL:
    """Liblxc. Raises OSError without it."""
    found = ctypes.CDLL("liblxc.so.1")
    found.lxc_container_new.restype = ctypes.POINTER(_Container)
    return found


#: Loaded by the server once, so that no keeper has to.
with contextlib.suppress(OSError):
    _library = library()


def version() -> str:
    """Liblxc's. Raises OSError without it."""
    found = library().lxc_get_version
    found.restype = ctypes.c_char_p
    return str(found().decode())


def keep(
    *,
    directory: str,
    name: str,
    init: list[str] | None,
    first_id: int,
    seconds: float,
    let_go: list[int],
) -> dict[str, Any]:
    """Start the container whose configuration is `DIRECTORY/config`, and leave a keeper with
    it; one that has started stays. Answers `{"init": pid}`; `let_go` are descriptors that the
    keeper must not hold. Raises OSError, TimeoutError after `seconds`."""
    os.chdir(directory)
    lock = locks.take(KEEPER)
    if lock is None:
        return {"init": await_other(seconds)}
    if os.path.exists(STATUS):
        raise OSError(None, "the container has ended")
    for left in (INIT, STARTED):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(left)
    os.mkfifo(STARTED, 0o600)
    # For writing too: the hook never waits for a reader, whoever of us has died.
    word = os.open(STARTED, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            for fd in let_go:
                os.close(fd)
            _keep(directory, name, init, first_id, lock)
        finally:
            os._exit(1)
    os.close(lock)
    return {"init": _await(pid, word, seconds)}


def _await(pid: int, word: int, seconds: float) -> int:
    keeper = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(word, select.POLLIN)
    poll.register(keeper, select.POLLIN)
    ready = {fd for fd, _ in poll.poll(seconds * 1000)}
    if word in ready:
        return _await_execution(int(Path(INIT).read_text()), keeper, seconds)
    signal.pidfd_send_signal(keeper, signal.SIGKILL)
    if not ready:
        what = f"the container has not started within {seconds:.0f} s"
        raise TimeoutError(f"{what}: {_last_words()}")
    raise OSError(None, f"the container has not started: {_last_words()}")


def _await_execution(init: int, keeper: int, seconds: float) -> int:
    """The word comes right before liblxc executes init, and nothing tells whether it could."""
    ended = select.poll()
    ended.register(keeper, select.POLLIN)
    for _ in range(int(seconds * 1000) + 1):
        if executed(init):
            return init
        if ended.poll(1):
            return _ended(init)
    raise TimeoutError(f"init was not executed within {seconds:.0f} s")


def _ended(init: int) -> int:
    """Of a container without a keeper: an init that was quick has left its status."""
    if os.path.exists(STATUS):
        return init
    raise OSError(None, f"the container has not started: {_last_words()}")


def executed(pid: int) -> bool:
    """Whether a process runs a program of its own, or did until its end; not once it is gone."""
    try:
        # The name, in parentheses, may contain anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return not int(fields[6]) & _FORKED_ONLY


def await_other(seconds: float) -> int:
    """The start that another keeper is at, begun before its daemon died: init's pid.

    Raises OSError, TimeoutError after `seconds`."""
    poll = select.poll()
    init = 0
    for _ in range(int(seconds * 100) + 1):
        # Before the rest: what it leaves is there once it holds the lock no more.
        alive = locks.held(KEEPER)
        with contextlib.suppress(FileNotFoundError, ValueError):
            init = int(Path(INIT).read_text())
            if executed(init):
                return init
        if not alive:
            return _ended(init)
        poll.poll(10)
    raise TimeoutError(f"the container has not started within {seconds:.0f} s")


def _last_words() -> str:
    """The errors in liblxc's log, without their place in its source."""
    try:
        lines = Path("log").read_text(errors="replace").splitlines()
    except OSError:
        return "liblxc said nothing"
    errors = [line.partition(" - ")[2].partition(" - ")[2] for line in lines if " ERROR " in line]
    return "; ".join(errors[:3])[:500] or "liblxc said nothing"


def _keep(directory: str, name: str, init: list[str] | None, first_id: int, lock: int) -> None:
    os.setsid()
    locks.sign(lock)
    terminal = console.serve("console.sock", first_id, keeper=os.getpid())
    for fd in (0, 1, 2):
        os.dup2(terminal, fd)
    os.close(terminal)
    # What we ignore, or Python, or who started the daemon: a program in there would inherit it.
    syscalls.default_signals()
    ended = _run(directory, name, init)
    if ended is not None:
        partial = f".{STATUS}"
        Path(partial).write_text(json.dumps({"code": exit_code(ended)}))
        os.rename(partial, STATUS)
    os._exit(0)


def exit_code(error_num: int) -> int:
    """How init ended: what it returned, or minus the signal that killed it."""
    return -(error_num >> 8) if error_num & 0x7F else error_num >> 8


def _run(directory: str, name: str, init: list[str] | None) -> int | None:
    """Until the container has ended: what liblxc says of its end; None where init, which may
    not exist, was not executed."""
    container = _library.lxc_container_new(name.encode(), directory.encode())
    if not container:
        raise OSError(None, "liblxc makes no container")
    held = container.contents
    if not held.load_config(container, f"{directory}/config".encode()):
        raise OSError(None, "liblxc does not take the configuration")
    held.want_daemonize(container, 0)
    arguments = None
    if init is not None:
        arguments = (ctypes.c_char_p * (len(init) + 1))(*(one.encode() for one in init), None)
    started = held.start(container, 0, arguments)
    return int(held.error_num) if started else None
