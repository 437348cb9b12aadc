"""Points at which a test has the daemon die: `MICRO_OP:before`, `journal:append`, `recovery:STEP`.

Armed with DEBUG.trigger kill-at, or before a start with XENOPSD_KILL_AT=point,n. Which points
an operation passes is found by running it once with XENOPSD_KILL_TRACE=FILE: each point passed
is appended to the file, a line each.
"""

import os
import signal
import threading
from collections.abc import Mapping
from difflib import get_close_matches
from typing import get_args

from idl.errors import InvalidParameter
from xenopsd.microop import MicroOp

VARIABLE = "XENOPSD_KILL_AT"
TRACE = "XENOPSD_KILL_TRACE"
#: Every point there is.
POINTS = frozenset(
    {
        *(
            f"{kind.__struct_config__.tag}:{when}"
            for kind in get_args(MicroOp)
            for when in ("before", "after")
        ),
        "journal:append",
        "journal:end",
        *(
            f"recovery:{step}"
            for step in ("load", "stock", "observe", "reconcile", "repair", "ended")
        ),
    }
)


def given(environ: Mapping[str, str]) -> tuple[str, int] | None:
    """The point and number that the environment arms. Raises InvalidParameter."""
    if VARIABLE not in environ:
        return None
    point, comma, n = environ[VARIABLE].rpartition(",")
    if not comma:
        raise InvalidParameter(name="point", reason=f"'{n}' is not POINT,N")
    return checked(point, n)


def checked(point: str, n: str) -> tuple[str, int]:
    """A point that there is, and a number. Raises InvalidParameter."""
    if point not in POINTS:
        near = get_close_matches(point, sorted(POINTS), n=3)
        known = ", ".join(near) or "MICRO_OP:before, MICRO_OP:after, journal:append, …"
        raise InvalidParameter(name="point", reason=f"'{point}' is no point; {known}")
    if not n.isdecimal() or int(n) < 1:
        raise InvalidParameter(name="n", reason=f"'{n}' is not a number from 1")
    return point, int(n)


class KillPoints:
    """Counts passings of the armed point and, at the n-th, SIGKILLs this process."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._point: str | None = None
        self._left = 0
        self._trace: int | None = None
        if TRACE in environ:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._trace = os.open(environ[TRACE], flags, 0o600)
        if (armed := given(environ)) is not None:
            self._point, self._left = armed

    def arm(self, point: str, n: str) -> None:
        """Die at the n-th passing of `point` from now. Raises InvalidParameter."""
        known, number = checked(point, n)
        with self._lock:
            self._point, self._left = known, number

    def passing(self, point: str) -> None:
        """Pass a point; perhaps the last thing this process does."""
        if self._trace is not None:
            os.write(self._trace, f"{point}\n".encode())
        if self._point is None or point != self._point:
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
