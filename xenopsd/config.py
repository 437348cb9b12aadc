"""What an administrator may choose: declared once, with what it means and what it may be.

A key is a field below; its name with dots (`journal.fsync`) is its place in the TOML file
and, in capitals after `XENOPSD_`, its environment variable. The command line wins over the
environment, that over the file, that over the default. `load` is pure; `read` looks for the
file. Anything that is no key is an error that names it: a misspelt key must not pass for a
default.
"""

import difflib
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import fields

from idl.ids import NAME_PATTERN
from xenopsd.places import DEFAULT_INSTANCE, Places, places

T = TypeVar("T")

Origin: TypeAlias = Literal["command line", "environment", "file", "default"]

PREFIX = "XENOPSD_"
#: Variables of that prefix that are no keys: read at start, before or beside the config.
RESERVED = frozenset({"XENOPSD_CONFIG", "XENOPSD_KILL_AT", "XENOPSD_KILL_TRACE"})


class ConfigError(Exception):
    """A sentence that names the place (file, variable or option), the key, and the reason."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where = where


def _fixed(text: str, unit: str = "", **limits: Any) -> Meta:
    """A key that counts from the next start on."""
    return Meta(description=text, extra={"live": False, "unit": unit}, **limits)


def _live(text: str, unit: str = "", **limits: Any) -> Meta:
    """A key that is read again at SIGHUP."""
    return Meta(description=text, extra={"live": True, "unit": unit}, **limits)


_SECONDS = "seconds"


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A group of keys."""


class Log(Section, frozen=True, kw_only=True):
    """Logs go to stderr: JSON lines, or readable where that is a terminal."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], _live("the least level that is logged")
    ] = "info"


class Socket(Section, frozen=True, kw_only=True):
    """Both sockets have mode 0660 and the daemon's user."""

    group: Annotated[
        str | None, _fixed("group that may use the read-write socket; it is equivalent to root")
    ] = None
    readonly_group: Annotated[str | None, _fixed("group that may use the read-only socket")] = None


class Journal(Section, frozen=True, kw_only=True):
    """Intents on disk."""

    fsync: Annotated[
        Literal["auto", "always"],
        _fixed("fsync intents whose effects survive a crash of the host (auto), or all"),
    ] = "auto"


class Memory(Section, frozen=True, kw_only=True):
    """How much of the host's memory VMs may have."""

    host_reserve: Annotated[int, _live("memory kept for the host", "bytes", ge=0, le=2**62)] = 0
    overcommit: Annotated[
        float, _live("VMs may have so many times what the host has", gt=0, le=1000)
    ] = 1.0


Roots: TypeAlias = tuple[Path, ...]
_UNDER = "clients may name paths under these directories alone"


class Paths(Section, frozen=True, kw_only=True):
    """What a backend may open for clients. The simulator opens no path of the host."""

    disks: Annotated[Roots, _fixed(f"disks: {_UNDER}")]
    kernels: Annotated[Roots, _fixed(f"kernels and ramdisks: {_UNDER}")]
    images: Annotated[Roots, _fixed(f"suspend images: {_UNDER}")]


class Deadlines(Section, frozen=True, kw_only=True):
    """After how long something is given up."""

    short: Annotated[float, _live("a short micro-op, on a worker", _SECONDS, gt=0, le=86400)] = (
        10.0
    )
    job: Annotated[
        float, _live("a job, such as save, restore, migrate", _SECONDS, gt=0, le=864000)
    ] = 1200.0
    stuck_grace: Annotated[
        float, _fixed("a stuck call that was asked to break off", _SECONDS, gt=0, le=3600)
    ] = 2.0
    shutdown_ack: Annotated[
        float,
        _live("a guest that was asked to shut down and has not answered", _SECONDS, gt=0, le=3600),
    ] = 60.0
    hook: Annotated[float, _live("a hook", _SECONDS, gt=0, le=86400)] = 60.0
    hotplug: Annotated[
        float, _live("a guest that should take or let go", _SECONDS, gt=0, le=3600)
    ] = 30.0
    kill: Annotated[float, _live("a domain that should be gone", _SECONDS, gt=0, le=3600)] = 30.0
    drain: Annotated[float, _live("running micro-ops at SIGTERM", _SECONDS, ge=0, le=3600)] = 5.0


class CrashLoop(Section, frozen=True, kw_only=True):
    """A VM that crashes soon after its start is not started again."""

    window: Annotated[float, _live("what counts as soon", _SECONDS, ge=0, le=86400)] = 120.0


class Reboot(Section, frozen=True, kw_only=True):
    """A VM that reboots soon after its start waits."""

    delay: Annotated[float, _live("how long it waits", _SECONDS, ge=0, le=3600)] = 15.0


class Hooks(Section, frozen=True, kw_only=True):
    """Programs that run before and after operations."""

    directory: Annotated[Path | None, _live("directory of hooks; null: none")] = None


class Tasks(Section, frozen=True, kw_only=True):
    """Tasks that have ended."""

    keep: Annotated[int, _fixed("how many ended tasks are kept", ge=0, le=10_000_000)] = 10_000


class Keys(Section, frozen=True, kw_only=True):
    """Every key that is not a backend's own."""

    instance: Annotated[
        str,
        _fixed(
            "name of the instance: 1 to 64 of A-Z a-z 0-9 . _ -, not starting with . or -",
            pattern=NAME_PATTERN,
        ),
    ] = DEFAULT_INSTANCE
    backend: Annotated[str | None, _fixed("name of the backend; null: the best there is")] = None
    state_dir: Annotated[Path, _fixed("directory of what is remembered; one daemon each")]
    run_dir: Annotated[Path, _fixed("directory of the sockets; it stands for the host")]
    workers: Annotated[
        int,
        _live(
            "size of the worker pool; a size set by HOST.set_worker_pool_size is remembered "
            "and wins, but not over the command line",
            ge=1,
            le=1024,
        ),
    ] = 4
    jobs: Annotated[int, _fixed("how many jobs may run at a time", ge=1, le=1024)] = 8
    debug: Annotated[bool, _fixed("offer the DEBUG calls")] = False
    log: Log = Log()
    socket: Socket = Socket()
    journal: Journal = Journal()
    memory: Memory = Memory()
    paths: Paths
    deadlines: Deadlines = Deadlines()
    crash_loop: CrashLoop = CrashLoop()
    reboot: Reboot = Reboot()
    hooks: Hooks = Hooks()
    tasks: Tasks = Tasks()


class Config(Keys, frozen=True, kw_only=True):
    """The keys' values, where those that were chosen come from (`file` is the one that was
    read), and the backends' sections as they were written.
    """

    file: Path | None = None
    origins: dict[str, Origin] = {}
    backends: dict[str, dict[str, Any]] = {}

    def origin(self, key: str) -> Origin:
        """Where a key's value comes from."""
        return self.origins.get(key, "default")


@dataclass(frozen=True, slots=True)
class Key:
    """A key, as documentation shows it. `default` is NODEFAULT where it depends on places."""

    name: str
    type: Any
    default: Any
    text: str
    live: bool
    unit: str

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return PREFIX + self.name.replace(".", "_").upper()


def keys(section: type[Struct], prefix: str = "") -> Iterator[Key]:
    """The keys that a section declares, a backend's options among them."""
    for f in fields(section):
        name = prefix + f.name
        if isinstance(f.type, type) and issubclass(f.type, Section):
            yield from keys(f.type, f"{name}.")
        else:
            meta = next((one for one in get_args(f.type) if isinstance(one, Meta)), Meta())
            extra = meta.extra or {}
            yield Key(
                name,
                f.type,
                f.default,
                meta.description or "",
                live=extra.get("live", False),
                unit=extra.get("unit", ""),
            )


#: Every key by its name.
KEYS: Mapping[str, Key] = {key.name: key for key in keys(Keys)}
_SECTIONS = frozenset(name.partition(".")[0] for name in KEYS if "." in name)
_VARIABLES: Mapping[str, Key] = {key.variable: key for key in KEYS.values()}


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A value that was given for a key, not yet looked at. `text`: it had no other form."""

    key: str
    value: Any
    origin: Origin
    where: str
    text: bool


def load(
    options: Mapping[str, Any],
    environ: Mapping[str, str],
    file_text: str | None,
    path: str | Path | None,
    *,
    root: bool = False,
    backends: Collection[str] = (),
) -> Config:
    """The config of these options (by key; None is not given), environment and file.

    `backends` names the sections that are left to the backends. Raises ConfigError.
    """
    chosen = [
        *_of_file(file_text or "", str(path), backends),
        *_of_environ(environ, backends),
        *_of_options(options),
    ]
    found = {one.key: _value(one) for one in chosen if one.key in KEYS}
    values = _defaults(found, places(environ, root=root)) | found
    return _config(
        values,
        file=None if path is None else Path(path),
        origins={one.key: one.origin for one in chosen},
        backends=_raw(chosen, backends),
    )


def _config(values: Mapping[str, Any], **beside: Any) -> Config:
    built: Keys = _built(Keys, values)
    return Config(**{name: getattr(built, name) for name in built.__struct_fields__}, **beside)


def read(
    options: Mapping[str, Any],
    environ: Mapping[str, str],
    *,
    root: bool,
    file: str | Path | None = None,
    backends: Collection[str] = (),
) -> Config:
    """`load` with the file that was named (or XENOPSD_CONFIG names), else the first of the
    usual places that exists. Raises ConfigError.
    """
    if (named := file or environ.get("XENOPSD_CONFIG")) is not None:
        path: Path | None = Path(named)
    else:
        instance = options.get("instance") or environ.get("XENOPSD_INSTANCE", DEFAULT_INSTANCE)
        usual = places(environ, root=root).config_files(str(instance))
        path = next((one for one in usual if one.exists()), None)
    try:
        text = None if path is None else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"the config file cannot be read: {error}") from error
    return load(_absolute(options), environ, text, path, root=root, backends=backends)


def _absolute(options: Mapping[str, Any]) -> dict[str, Any]:
    """On a command line a directory may be relative to the present one."""
    return {
        key: str(Path(value).absolute()) if value and key.endswith("_dir") else value
        for key, value in options.items()
    }


def section(config: Config, name: str, kind: type[T]) -> T:
    """A backend's own section as its options type (a Struct). Raises ConfigError."""
    raw = config.backends.get(name, {})
    known = [f"{name}.{f.encode_name}" for f in fields(kind)]  # type: ignore[arg-type]  # a Struct
    for key in raw:
        if f"{name}.{key}" not in known:
            raise _unknown(f"backend {name}", f"{name}.{key}", known)
    types = {f.encode_name: f.type for f in fields(kind)}  # type: ignore[arg-type]  # the same
    given = {key: _split(value, types[key]) for key, value in raw.items()}
    try:
        # Values from the environment are texts.
        return msgspec.convert(given, kind, strict=False, dec_hook=_custom)
    except msgspec.ValidationError as error:
        raise ConfigError(f"backend {name}", _reason(error)) from error


def changes(old: Config, new: Config) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The keys that differ: those that take effect now, and those that need a restart."""
    differing = [key for key in KEYS.values() if setting(old, key.name) != setting(new, key.name)]
    sections = sorted(
        f"{name}.{key}"
        for name in {*old.backends, *new.backends}
        for key in {*old.backends.get(name, {}), *new.backends.get(name, {})}
        if old.backends.get(name, {}).get(key) != new.backends.get(name, {}).get(key)
    )
    live = tuple(key.name for key in differing if key.live)
    return live, (*(key.name for key in differing if not key.live), *sections)


def taken(old: Config, new: Config) -> Config:
    """What runs after a reload: `new` where a key is live, else still `old`.

    So the next reload, too, finds that a restart is needed.
    """
    of = {key.name: new if key.live else old for key in KEYS.values()}
    return _config(
        {name: setting(config, name) for name, config in of.items()},
        file=new.file,
        origins={name: config.origin(name) for name, config in of.items()},
        backends=old.backends,
    )


def pool_size(config: Config, remembered: int | None) -> int:
    """The size of the pool at start, given what HOST.set_worker_pool_size left behind."""
    if remembered is None or config.origin("workers") == "command line":
        return config.workers
    return remembered


def _of_options(options: Mapping[str, Any]) -> Iterator[_Chosen]:
    for key, value in options.items():
        if key not in KEYS:
            raise _unknown("command line", key, KEYS)
        if value is not None:
            where = f"option --{key.replace('_', '-')}"
            yield _Chosen(key, value, "command line", where, isinstance(value, str))


def _of_environ(environ: Mapping[str, str], backends: Collection[str]) -> Iterator[_Chosen]:
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable in RESERVED:
            continue
        key = _key_of(variable, backends)
        # An empty variable is how service files say "not given".
        if value:
            yield _Chosen(key, value, "environment", f"environment variable {variable}", text=True)


def _key_of(variable: str, backends: Collection[str]) -> str:
    if variable in _VARIABLES:
        return _VARIABLES[variable].name
    for name in backends:
        if variable.startswith(start := f"{PREFIX}{name.upper()}_"):
            return f"{name}.{variable.removeprefix(start).lower()}"
    raise _unknown("environment", variable, _VARIABLES, "variable")


def _of_file(text: str, path: str, backends: Collection[str]) -> Iterator[_Chosen]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(path, f"not valid TOML: {error}") from error
    for name, value in document.items():
        if name in _SECTIONS or name in backends:
            if not isinstance(value, dict):
                raise ConfigError(path, f"{name} is a section: write [{name}]")
            inner = {f"{name}.{key}": one for key, one in value.items()}
        else:
            inner = {name: value}
        for key, one in inner.items():
            if key not in KEYS and name not in backends:
                raise _unknown(path, key, [*KEYS, *_SECTIONS, *backends])
            yield _Chosen(key, one, "file", path, text=False)


def _value(one: _Chosen) -> Any:
    """A key's value in its own type. Raises ConfigError with the key."""
    key = KEYS[one.key]
    value: Any = _split(one.value, key.type) if one.text else one.value
    try:
        return msgspec.convert(value, key.type, strict=not one.text, dec_hook=_custom)
    except msgspec.ValidationError as error:
        reason = f"{one.key}: {_wrong(value, key, error)} ({key.text})"
        raise ConfigError(one.where, reason) from error


def _split(value: Any, declared: Any) -> Any:
    """The parts of a text that stands for a list, as in the environment."""
    plain = get_args(declared)[0] if get_origin(declared) is Annotated else declared
    if isinstance(value, str) and get_origin(plain) is tuple:
        return [part for part in value.split(":") if part]
    return value


def _wrong(value: Any, key: Key, error: msgspec.ValidationError) -> str:
    kind = get_args(key.type)[0]
    if get_origin(kind) is Literal:
        return f"{value!r} is not one of {', '.join(get_args(kind))}"
    # What a pattern says the description says in words.
    return f"{value!r} is not allowed" if "matching regex" in str(error) else _reason(error)


def _custom(kind: type[Any], value: Any) -> Any:
    if kind is Path and isinstance(value, str) and value.startswith("/"):
        return Path(value)
    if kind is Path:
        raise ValueError("expected an absolute path")
    return value


def _reason(error: msgspec.ValidationError) -> str:
    text = str(error).replace("`", "").replace("$.", "")
    return text[:1].lower() + text[1:]


def _defaults(found: Mapping[str, Any], usual: Places) -> dict[str, Any]:
    """Those defaults that depend on other keys and on who runs the daemon."""
    instance = found.get("instance", DEFAULT_INSTANCE)
    state = found.get("state_dir", usual.state / instance)
    roots = (state / "images", Path("/var/lib/xenopsd/images"), Path("/dev/disk"))
    return {
        "state_dir": state,
        "run_dir": usual.run,
        "paths.disks": roots,
        "paths.kernels": roots,
        "paths.images": roots,
    }


def _built(kind: type[Any], values: Mapping[str, Any], prefix: str = "") -> Any:
    """A section of the values that were given, and its own defaults."""
    given: dict[str, Any] = {}
    for f in fields(kind):
        name = prefix + f.name
        if isinstance(f.type, type) and issubclass(f.type, Section):
            given[f.name] = _built(f.type, values, f"{name}.")
        elif name in values:
            given[f.name] = values[name]
    return kind(**given)


def _raw(chosen: Collection[_Chosen], backends: Collection[str]) -> dict[str, dict[str, Any]]:
    sections: dict[str, dict[str, Any]] = {}
    for one in chosen:
        name, _, key = one.key.partition(".")
        if name in backends and one.key not in KEYS:
            sections.setdefault(name, {})[key] = one.value
    return sections


def setting(config: Config, name: str) -> Any:
    """What a key is set to; `name` has dots."""
    found: Any = config
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _unknown(where: str, name: str, known: Collection[str], what: str = "key") -> ConfigError:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return ConfigError(where, f"unknown {what} {name}{hint}")
