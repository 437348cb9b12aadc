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
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from backends.lxc.apart import console, locks, processes, syscalls

#: What the hook before init's first instruction makes: init's pid, and word of it.
INIT = "init"
STARTED = "started"
KEEPER = "keeper"
STATUS = "status"

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
    leave: Callable[[], None],
) -> dict[str, int]:
    """Start the container whose configuration is `DIRECTORY/config`, and keep it. Leaves as soon
    as nothing but liblxc can fail; whoever waits for the start reads `DIRECTORY/started`.
    One that has a keeper keeps it: answers `{"init": pid}` once it has started.

    Raises OSError, TimeoutError after `seconds`."""
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
    os.open(STARTED, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    locks.sign(lock)
    leave()
    return _keep(directory, name, init, first_id)


def _ended(init: int) -> int:
    """Of a container without a keeper: an init that was quick has left its status."""
    if os.path.exists(STATUS):
        return init
    raise OSError(None, "the container has not started")


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
            if processes.executed(init):
                return init
        if not alive:
            return _ended(init)
        poll.poll(10)
    raise TimeoutError(f"the container has not started within {seconds:.0f} s")


def _keep(directory: str, name: str, init: list[str] | None, first_id: int) -> NoReturn:
    with console.served("console.sock", first_id, keeper=os.getpid()) as terminal:
        for fd in (0, 1, 2):
            os.dup2(terminal, fd)
        # What we ignore, or Python, or who started the daemon: a program would inherit it.
        syscalls.default_signals()
        container = _load(directory, name)
    ended = _run(container, init)
    if ended is not None:
        partial = f".{STATUS}"
        Path(partial).write_text(json.dumps({"code": exit_code(ended)}))
        os.rename(partial, STATUS)
    os._exit(0)


def exit_code(error_num: int) -> int:
    """How init ended: what it returned, or minus the signal that killed it."""
    return -(error_num >> 8) if error_num & 0x7F else error_num >> 8


def _load(directory: str, name: str) -> Any:
    container = _library.lxc_container_new(name.encode(), directory.encode())
    if not container:
        raise OSError(None, "liblxc makes no container")
    if not container.contents.load_config(container, f"{directory}/config".encode()):
        raise OSError(None, "liblxc does not take the configuration")
    container.contents.want_daemonize(container, 0)
    return container


def _run(container: Any, init: list[str] | None) -> int | None:
    """Until the container has ended: what liblxc says of its end; None where init, which may
    not exist, was not executed."""
    held = container.contents
    arguments = None
    if init is not None:
        arguments = (ctypes.c_char_p * (len(init) + 1))(*(one.encode() for one in init), None)
    started = held.start(container, 0, arguments)
    return int(held.error_num) if started else None
