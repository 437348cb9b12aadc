"""What `xenopsd --check-config` says: every value that counts, and where it comes from.

It starts nothing, opens no socket and takes no lock, so that it may run beside the daemon whose
configuration it looks at.
"""

import grp
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from xenopsd import config as configuration
from xenopsd.config import KEYS, PREFIX, Config, ConfigError, Key

#: What an error leaves to do; it is put behind the sentence that names the key.
NEXT_STEP = "Correct it and try again with `xenopsd --check-config`; xenopsd(8) explains each key."


def check(config: Config, options: Mapping[str, type[Struct]]) -> None:
    """Refuse what reading alone does not: backends that are not installed, their own sections,
    groups that do not exist. `options` are the sections' types by backend. Raises ConfigError.
    """
    if config.backend is not None and config.backend not in options:
        known = ", ".join(sorted(options)) or "none is installed"
        raise ConfigError(
            where(config, "backend"), f"backend: there is no {config.backend}; choose from {known}"
        )
    for name in config.backends.keys() & options.keys():
        configuration.section(config, name, options[name])
    for key in ("socket.group", "socket.readonly_group"):
        _check_group(config, key)


def _check_group(config: Config, key: str) -> None:
    name = configuration.setting(config, key)
    try:
        if name is not None:
            grp.getgrnam(name)
    except KeyError:
        reason = f"{key}: there is no group {name}; make it with `groupadd --system {name}`"
        raise ConfigError(where(config, key), reason) from None


def report(config: Config, options: Mapping[str, type[Struct]]) -> str:
    """A line a key: its name, its value as JSON, and where that comes from."""
    rows = [("KEY", "VALUE", "SOURCE"), *_rows(config, options)]
    widths = [max(len(row[n]) for row in rows) for n in (0, 1)]
    lines = [f"{key:{widths[0]}}  {text:{widths[1]}}  {source}" for key, text, source in rows]
    return "\n".join(lines)


def _rows(config: Config, options: Mapping[str, type[Struct]]) -> Iterator[tuple[str, str, str]]:
    for name in KEYS:
        yield name, _shown(configuration.setting(config, name)), where(config, name)
    for backend, kind in sorted(options.items()):
        section = configuration.section(config, backend, kind)
        for key in configuration.keys(kind, f"{backend}."):
            value = getattr(section, key.name.partition(".")[2])
            yield key.name, _shown(value), where(config, key.name)


def where(config: Config, key: str) -> str:
    """Where a key's value comes from, with what to look at there."""
    origin = config.origin(key)
    exact = {
        "command line": f": --{key.replace('_', '-')}",
        "environment": f": {variable(key)}",
        "file": f": {config.file}",
        "default": "",
    }
    return origin + exact[origin]


def variable(key: str) -> str:
    """The environment variable of a key or of a backend's option."""
    known: Key | None = KEYS.get(key)
    return known.variable if known else PREFIX + key.replace(".", "_").upper()


def _shown(value: Any) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()
