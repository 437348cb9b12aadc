"""Renders the reference of the configuration from its declaration: a page and xenopsd(8).

`python -m xenopsd.reference` writes docs/reference/config.md and packaging/man/xenopsd.8, which
are committed so that they can be read without a build; a test compares them with what is rendered
here.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Meta, Struct
from msgspec.structs import fields

from backends import registry
from xenopsd import config as configuration
from xenopsd.__main__ import main
from xenopsd.cli.pages import daemon_manual
from xenopsd.cli.pages import page as command_page
from xenopsd.config import KEYS, Key, Keys, Section

ROOT = Path(__file__).parents[1]

_INTRODUCTION = """# Configuration

Made from `xenopsd.config` by `python -m xenopsd.reference`: edit the declaration, not this page.

The command line wins over the environment, that over the file, that over the default. A key that
does not exist is an error that names it. `xenopsd --check-config` prints every value that counts
and where it comes from, and starts nothing.

The file is the one of `--config` or `XENOPSD_CONFIG`, else `/etc/xenopsd/INSTANCE.toml`, else
`/etc/xenopsd/xenopsd.toml`. It is TOML: a key with a dot stands in the section of its first part.

```toml title="example.toml"
workers = 8

[log]
level = "debug"

[socket]
group = "xenopsd"
```

As a variable a list is separated by colons, and an empty variable counts as not given. Directories
are absolute. Defaults are shown as they are for root and the instance `default`; as another user
they are under the XDG directories.

**Live** keys take effect when the daemon gets SIGHUP. The others count from its next start on: a
reload goes on with the old value and names the key in its log and in the status of the service.
"""


def page() -> str:
    """docs/reference/config.md."""
    parts = [_INTRODUCTION, "## Keys without a section\n", _table(_in(""))]
    for f in fields(Keys):
        if isinstance(f.type, type) and issubclass(f.type, Section):
            parts += _section(f.name, f.type, _in(f.name))
    parts += ["## Sections of the backends\n", "Each backend has a section of its name.\n"]
    for name, kind in sorted(registry.options().items()):
        parts += _section(name, kind, configuration.keys(kind, f"{name}."), level=3)
    return "\n".join(parts)


def _in(section: str) -> list[Key]:
    return [key for key in KEYS.values() if key.name.rpartition(".")[0] == section]


def _section(name: str, kind: type[Struct], keys: Iterable[Key], level: int = 2) -> Iterator[str]:
    prose = " ".join((kind.__doc__ or "").split())
    return iter((f"{'#' * level} [{name}]\n", f"{prose}\n", _table(keys)))


def _table(keys: Iterable[Key]) -> str:
    head = ("key", "what it does", "type", "unit", "default", "variable", "read")
    rows = [head, tuple("---" for _ in head), *map(_row, keys)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(key: Key) -> tuple[str, ...]:
    return (
        f"`{key.name}`",
        key.text,
        type_of(key.type),
        key.unit or "–",
        f"`{default(key)}`",
        f"`{key.variable}`",
        "live" if key.live else "at start",
    )


def type_of(declared: Any) -> str:
    """A type and its limits, in words."""
    metas = [one for one in get_args(declared) if isinstance(one, Meta)]
    plain = get_args(declared)[0] if metas else declared
    return ", ".join([_plain(plain), *(limit for meta in metas for limit in _limits(meta))])


_NAMES: Mapping[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "directory",
    NoneType: "null",
}


def _plain(declared: Any) -> str:
    if declared in _NAMES:
        return _NAMES[declared]
    arguments = get_args(declared)
    if get_origin(declared) is Literal:
        return " or ".join(f"`{one}`" for one in arguments)
    if get_origin(declared) is tuple:
        return "list of directories" if Path in arguments else "list of texts"
    return " or ".join(map(_plain, arguments))


def _limits(meta: Meta) -> Iterator[str]:
    for words, limit in (
        ("at least", meta.ge),
        ("more than", meta.gt),
        ("at most", meta.le),
    ):
        if limit is not None:
            yield f"{words} {limit}"


def default(key: Key) -> str:
    """As the file would have it."""
    found = key.default
    if found is NODEFAULT:
        found = configuration.setting(configuration.load({}, {}, None, None, root=True), key.name)
    return re.sub(r",(?=\")", ", ", msgspec.json.encode(found, enc_hook=str).decode())


_SIGNALS = {
    "SIGTERM, SIGINT": "Stop: no new work, running micro-ops get deadlines.drain, and every "
    "VM stays as it is.",
    "SIGHUP": "Read the configuration again. Keys that are live take effect; those that need a "
    "restart are named in the log; a configuration with a mistake changes nothing.",
}
_FILES = {
    "/etc/xenopsd/INSTANCE.toml, /etc/xenopsd/xenopsd.toml": "The configuration; the first that "
    "exists counts.",
    "/run/xenopsd/INSTANCE.sock": "The read-write socket. It is equivalent to root on this host.",
    "/run/xenopsd/INSTANCE-ro.sock": "The socket for reads alone.",
    "/var/lib/xenopsd/INSTANCE": "VM metadata, the journal, suspend images.",
}
_EXIT = {"0": "It was told to stop.", "1": "It could not start, or the configuration is wrong."}


def manual() -> str:
    """packaging/man/xenopsd.8."""
    keys = [(key.name, _sentence(key)) for key in KEYS.values()]
    for name, kind in sorted(registry.options().items()):
        keys += [(key.name, _sentence(key)) for key in configuration.keys(kind, f"{name}.")]
    return daemon_manual(
        command_page(main, "xenopsd"),
        {
            "CONFIGURATION": keys,
            "SIGNALS": _SIGNALS.items(),
            "FILES": _FILES.items(),
            "EXIT STATUS": _EXIT.items(),
        },
    )


def _sentence(key: Key) -> str:
    kind = ", ".join(part for part in (type_of(key.type).replace("`", ""), key.unit) if part)
    read = "Live" if key.live else "Read at start"
    return f"{key.text} ({kind}; default: {default(key)}; {key.variable}). {read}."


def rendered() -> Mapping[Path, str]:
    """Every file, by its path in the checkout."""
    return {
        Path("docs/reference/config.md"): page(),
        Path("packaging/man/xenopsd.8"): manual(),
    }


def write() -> None:
    """Write them all."""
    for path, text in rendered().items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text)


if __name__ == "__main__":
    write()
