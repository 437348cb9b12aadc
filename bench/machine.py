"""On what a run was made, in words."""

import os
import platform
from pathlib import Path

from bench.pinning import described

_MOUNTS = Path("/proc/self/mounts")


def machine(directory: Path) -> str:
    """Processor, kernel, Python, CPUs, and the file system that servers write to."""
    release = platform.release().partition("-")[0]
    python = platform.python_version()
    return (
        f"{_processor()}, {os.cpu_count()} CPUs, Linux {release}, Python {python}, "
        f"state on {_file_system(directory)}; {described()}."
    )


class Others:
    """How much of the CPUs went to processes that are not ours, since this was made."""

    def __init__(self) -> None:
        self._began = _spent()

    def share(self) -> float:
        """Between 0 and 1, once the processes that we started have been waited for."""
        busy, ours, all = (now - then for now, then in zip(_spent(), self._began, strict=True))
        return min(1.0, max(0.0, (busy - ours) / all)) if all else 0.0


def _spent() -> tuple[float, float, float]:
    """Seconds of all CPUs: in use, in use by us and what we have waited for, and altogether."""
    fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]
    ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in fields]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(os.times()[:4]), sum(ticks)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _file_system(directory: Path) -> str:
    """The type of the file system below which the directory lies."""
    mounts = [line.split()[1:3] for line in _MOUNTS.read_text().splitlines()]
    below = [(place, kind) for place, kind in mounts if directory.resolve().is_relative_to(place)]
    return max(below, key=lambda mount: len(mount[0]))[1] if below else "an unknown file system"
