"""Hooks: the administrator's scripts before and after what happens to a VM, with a deadline.

`DIRECTORY/HOOK/` holds executables, which are run one after the other in the order of their
names, each as `SCRIPT -vmuuid UUID -reason REASON` with XENOPSD_HOOK, XENOPSD_VM,
XENOPSD_REASON and XENOPSD_INSTANCE in its environment. Status 0 is success, 1 is logged and goes
on, any other fails the operation. A script is a session of its own: at the deadline, or when it
is stopped, all that it started and that did not leave its process group dies with it.

Which hook belongs where in an operation is the planner's business. Nothing here runs a shell,
and no descriptor, signal handler or variable of the daemon reaches a script.
"""

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from types import MappingProxyType
from typing import Self, get_args

import structlog

from idl.errors import DeadlineExceeded, HookFailed
from xenopsd.microop import Hook

HOOKS: tuple[Hook, ...] = get_args(Hook)

OUTPUT = 4096  # bytes of a script's output that are kept, from its end
GRACE = 2.0  # seconds between SIGTERM and SIGKILL
LAST = 5.0  # seconds that the kernel gets to end a process that was killed
HOUR = 3600.0  # a wait is begun anew after it, since poll refuses very long ones
PIPE = 65536  # bytes that a pipe holds
NOT_EXECUTABLE, NOT_FOUND = 126, 127  # as a shell reports them
OBJECTION = 1  # the status that is logged and no failure

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}

log = structlog.get_logger(__name__)


class HookStopped(Exception):
    """The script was killed because its interruption was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Occasion:
    """What happens, to whom and why. `extra` are further variables for the script."""

    hook: Hook
    vm: str
    uuid: str
    reason: str
    instance: str
    extra: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def arguments(self) -> list[str]:
        return ["-vmuuid", self.uuid, "-reason", self.reason]

    def environment(self) -> dict[str, str]:
        ours = {
            "XENOPSD_HOOK": self.hook,
            "XENOPSD_VM": self.vm,
            "XENOPSD_REASON": self.reason,
            "XENOPSD_INSTANCE": self.instance,
        }
        return {**ENVIRONMENT, **self.extra, **ours}


def scripts(directory: Path, hook: Hook) -> tuple[Path, ...]:
    """The scripts of a hook in the order in which they run.

    Directories, and names that begin with a dot, are none. What is there and cannot be executed
    is listed, so that running it says so. Raises HookFailed where the listing itself fails.
    """
    try:
        found = sorted((directory / hook).iterdir())
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise HookFailed(hook, NOT_EXECUTABLE, str(error)) from error
    return tuple(path for path in found if not path.name.startswith(".") and not path.is_dir())


def run(
    script: Path,
    occasion: Occasion,
    *,
    deadline: float,
    interrupt: int | None = None,
    grace: float = GRACE,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run one script to its end, on the calling thread.

    `deadline` is a time of `clock`. `interrupt` is a descriptor that becomes readable when the
    script is to be stopped; it is not read. `grace` is how long a script has between SIGTERM and
    SIGKILL, after the deadline or the interruption.

    Raises HookFailed (status -N after signal N, 126 when it cannot be executed, 127 when it or
    its interpreter is not there), DeadlineExceeded or HookStopped.
    """
    begun = clock()
    process = _started(script, occasion)
    with _Watched(process, clock) as watched:
        try:
            exited = watched.wait(deadline, interrupt)
        except BaseException:
            watched.kill(0.0)
            raise
        if not exited:
            stopped = clock() < deadline
            watched.kill(grace)
            log.warning("hook_killed", **_keys(script, occasion), stopped=stopped)
            if stopped:
                raise HookStopped
            raise DeadlineExceeded(f"Hook {occasion.hook} ({script.name})", deadline - begun)
        _judge(script, occasion, process.wait(), watched.output())


def _started(script: Path, occasion: Occasion) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(  # noqa: S603 -- the administrator's own script
            [script.absolute(), *occasion.arguments()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=occasion.environment(),
            cwd="/",
            bufsize=0,
            start_new_session=True,
        )
    except OSError as error:
        status = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        reason = f"{script}: {error.strerror}"
        raise HookFailed(occasion.hook, status, reason) from error


def _judge(script: Path, occasion: Occasion, status: int, output: str) -> None:
    if status == OBJECTION:
        log.warning("hook_objected", **_keys(script, occasion), output=output)
    elif status != 0:
        raise HookFailed(occasion.hook, status, output)


def _keys(script: Path, occasion: Occasion) -> dict[str, str]:
    return {"hook": occasion.hook, "script": script.name, "vm": occasion.vm}


class _Watched:
    """A process, watched through descriptors: its end, its output and the interruption."""

    def __init__(self, process: "subprocess.Popen[bytes]", clock: Callable[[], float]) -> None:
        assert process.stdout is not None
        self._process = process
        self._clock = clock
        self._pipe = process.stdout
        self._open = True
        self._kept = bytearray()
        try:
            self._end = os.pidfd_open(process.pid)
        except OSError:  # out of descriptors: what cannot be watched may not run
            process.kill()
            process.communicate()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        os.close(self._end)

    def wait(self, deadline: float, interrupt: int | None) -> bool:
        """Whether it ended before the deadline and before the interruption; keeps reading."""
        while (left := deadline - self._clock()) > 0:
            ready = self._poll(left, interrupt)
            if self._end in ready:
                return True
            if interrupt is not None and interrupt in ready:
                return False
            if self._pipe.fileno() in ready:
                self._read()
        return False

    def kill(self, grace: float) -> None:
        """End the whole group, and wait until its leader is gone."""
        self._signal(signal.SIGTERM)
        self.wait(self._clock() + grace, None)
        # The leader may have gone and its children not. It is reaped after this, so that its id
        # still stands for this group and no other.
        self._signal(signal.SIGKILL)
        if self.wait(self._clock() + LAST, None):
            self._process.wait()

    def output(self) -> str:
        """The end of what it wrote, once it has ended."""
        # No waiting for the end of the pipe: what it left behind may hold that open for ever.
        if self._open and self._pipe.fileno() in self._poll(0.0, None):
            self._read()
        return self._kept.decode(errors="replace").strip()

    def _poll(self, seconds: float, interrupt: int | None) -> set[int]:
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        if self._open:
            poll.register(self._pipe, select.POLLIN)
        if interrupt is not None:
            poll.register(interrupt, select.POLLIN)
        return {descriptor for descriptor, _ in poll.poll(ceil(min(seconds, HOUR) * 1000))}

    def _read(self) -> None:
        read = os.read(self._pipe.fileno(), PIPE)
        self._open = bool(read)
        self._kept += read
        del self._kept[:-OUTPUT]

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
