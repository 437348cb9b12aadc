"""Where an instance lives by default: the system's directories as root, else those of XDG.

Pure: it is told the environment and looks nothing up.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_INSTANCE = "default"


@dataclass(frozen=True, slots=True)
class Places:
    """Default directories: `state` has one directory an instance, `config` one file each."""

    run: Path
    state: Path
    config: Path

    def config_files(self, instance: str) -> tuple[Path, Path]:
        """Where an instance's config file may be; the first that exists counts."""
        return self.config / f"{instance}.toml", self.config / "xenopsd.toml"


def places(environ: Mapping[str, str], *, root: bool) -> Places:
    """The default directories of root, or of the user whose environment this is."""
    if root:
        return Places(
            run=Path("/run/xenopsd"), state=Path("/var/lib/xenopsd"), config=Path("/etc/xenopsd")
        )
    home = Path(environ.get("HOME", "/"))
    runtime = environ.get("XDG_RUNTIME_DIR")
    state = environ.get("XDG_STATE_HOME")
    config = environ.get("XDG_CONFIG_HOME")
    return Places(
        run=Path(runtime) / "xenopsd" if runtime else home / ".cache/xenopsd/run",
        state=(Path(state) if state else home / ".local/state") / "xenopsd",
        config=(Path(config) if config else home / ".config") / "xenopsd",
    )


def socket_path(run: Path, instance: str) -> Path:
    """The read-write socket."""
    return run / f"{instance}.sock"


def readonly_socket_path(run: Path, instance: str) -> Path:
    """The socket for reads alone."""
    return run / f"{instance}-ro.sock"
