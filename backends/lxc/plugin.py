"""Containers through liblxc: the default on a Linux host where the daemon runs as root.

Every daemon loads this module, to know the options: what it takes to run is in
`backends.lxc.backend`, and loaded when it is opened.
"""

import os
import platform
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import msgspec

from backends.interface import Available, Backend, Settings, Unavailable

#: Ids that a container has: enough for every user of a distribution.
IDS = 65536

#: The first kernel that maps the ids of mounts as it is needed, overlays among them.
KERNEL = (5, 19)


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section of the configuration. All of it counts when the backend is opened."""

    bridges: Annotated[
        tuple[str, ...],
        msgspec.Meta(
            description="bridges that the daemon makes when a VIF wants them",
            extra={"live": False},
        ),
    ] = ()
    first_id: Annotated[
        int,
        msgspec.Meta(
            ge=IDS,
            le=2**31,
            description="user id of the host where the containers' ranges of 65,536 ids begin",
            extra={"live": False},
        ),
    ] = 1_879_048_192
    pids: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=2**22,
            description="tasks that a container may have",
            extra={"live": False},
        ),
    ] = 4096


class Plugin:
    """`backends.interface.Plugin`."""

    options = Options

    def probe(self) -> Available | Unavailable:
        """Root, liblxc, and control groups that limit."""
        if os.geteuid() != 0:
            return Unavailable("the daemon does not run as root")
        if not _installed("liblxc.so.1"):
            return Unavailable("liblxc is not installed (Debian's package lxc)")
        if shutil.which("nft") is None:
            return Unavailable("nft is not installed (Debian's package nftables)")
        if find_spec("pyroute2") is None:
            return Unavailable("pyroute2 is not installed (the extra xenopsd[lxc])")
        if _kernel(platform.release()) < KERNEL:
            return Unavailable(f"Linux {platform.release()} does not map the ids of mounts")
        from backends.lxc.cgroup import Cgroups  # see the module

        try:
            lacking = Cgroups.found().controllers.lacking
        except OSError as error:
            return Unavailable(f"control groups: {error}")
        if lacking:
            return Unavailable(f"control groups lack {', '.join(sorted(lacking))}")
        return Available(rank=10)

    def open(self, settings: Settings) -> Backend:
        """Open the host's containers. Raises HypervisorError, DeadlineExceeded."""
        from backends.lxc.backend import opened  # see the module

        options: Options = settings.options
        return opened(
            settings, bridges=options.bridges, first_id=options.first_id, pids=options.pids
        )


def _kernel(release: str) -> tuple[int, int]:
    major, minor, *_ = release.split(".")
    return int(major), int(minor.partition("-")[0])


def _installed(library: str) -> bool:
    """Whether a library is where the loader looks; it is not loaded."""
    places = [Path(base) for base in ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib64")]
    places += Path("/usr/lib").glob("*-linux-gnu*")
    return any((place / library).exists() for place in places)
