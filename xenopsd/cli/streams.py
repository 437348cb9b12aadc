"""The standard streams, whatever who called has left of them."""

import io
import os
import sys
from pathlib import Path


def stand_in() -> None:
    """A closed stream is as /dev/null, so that no socket takes its number and nothing else has to
    care; what a stream's encoding lacks is escaped.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115  # until the end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
