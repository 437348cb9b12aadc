"""On what a run was made, in words."""

import os
import platform
from pathlib import Path

from bench.pinning import described

_MOUNTS = Path("/proc/self/mounts")


def machine(directory: Path) -> str:
    """Processor, kernel, Python, CPUs, and the file system that servers write to."""
    release = platform.release()
    python = platform.python_version()
    return (
        f"{_processor()}, {os.cpu_count()} CPUs, Linux {release}, Python {python}, "
        f"state on {_file_system(directory)}; {described()}."
    )


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
