"""A container's first process: asking it to stop, and whether it has taken notice.

In a PID namespace the kernel keeps signals from the first process that it has no handler for:
one that was taken is one that it handles, or waits for with it blocked.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from backends.lxc.cgroup import Group
from backends.lxc.places import Place

Request = Literal["poweroff", "reboot"]

#: systemd's own: it blocks these and reads them from a descriptor.
_SYSTEMD: dict[Request, int] = {"poweroff": signal.SIGRTMIN + 4, "reboot": signal.SIGRTMIN + 5}

#: busybox init's.
_BUSYBOX: dict[Request, int] = {"poweroff": signal.SIGUSR2, "reboot": signal.SIGTERM}

#: What any other init or program may take, in this order.
_ANY: dict[Request, tuple[int, ...]] = {
    "poweroff": (signal.SIGPWR, signal.SIGTERM, signal.SIGINT),
    "reboot": (signal.SIGINT, signal.SIGTERM),
}


def first_process(place: Place, group: Group) -> "Init | None":
    """The first process of the container at a place; None where it is gone."""
    try:
        pid = int(place.init.read_text())
        pidfd = os.pidfd_open(pid)
    except (OSError, ValueError):
        return None
    # Once it is held: the number was not another's by then.
    if pid in group.pids():
        return Init(pid, pidfd)
    os.close(pidfd)
    return None


class Init:
    """A first process, held for a `with`."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self._proc = Path("/proc") / str(pid)
        self._pidfd = pidfd
        self._asked: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._pidfd)

    def ask(self, request: Request, wished: str | None) -> None:
        """Send the signal that it takes for this request, `wished` where it is given."""
        self._asked = number(wished) if wished is not None else self._choose(request)
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, self._asked)

    def acknowledged(self) -> bool:
        """Whether it is one that takes what it was sent, or is gone."""
        return self._asked is None or taken(self._status(), self._asked)

    def _choose(self, request: Request) -> int:
        try:
            program = (self._proc / "exe").readlink().name
        except OSError:
            program = ""
        return choose(request, program, self._status())

    def _status(self) -> str:
        try:
            return (self._proc / "status").read_text()
        except OSError:
            return ""


def number(name: str) -> int:
    """Of a signal such as SIGPWR or SIGRTMIN+3. Raises ValueError."""
    base, sign, offset = name.replace("-", "+-").partition("+")
    found = getattr(signal, base, None)
    if not isinstance(found, signal.Signals):
        raise ValueError(f"{name} is no signal")  # noqa: TRY004  # a word, of the wrong kind
    return int(found) + (int(offset) if sign else 0)


def choose(request: Request, program: str, status: str) -> int:
    """The signal for a program with this /proc/PID/status."""
    if program == "systemd" or (taken(status, _SYSTEMD[request]) and taken(status, 37)):
        return _SYSTEMD[request]
    if program == "busybox" and taken(status, _BUSYBOX[request]):
        return _BUSYBOX[request]
    return next((s for s in _ANY[request] if taken(status, s)), _ANY[request][0])


def taken(status: str, signal_number: int) -> bool:
    """Whether a process with this /proc/PID/status does something at a signal; also where
    there is no such process any more."""
    masks = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    if not masks:
        return True
    bit = 1 << (signal_number - 1)
    return any(int(masks.get(name, "0").strip(), 16) & bit for name in ("SigCgt", "SigBlk"))
