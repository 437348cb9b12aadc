"""Before the daemon: its state directory, its sockets, its backend, or why it cannot start."""

import fcntl
import grp
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from backends import registry
from backends.interface import Plugin
from xenopsd.config import Config
from xenopsd.places import readonly_socket_path, socket_path
from xenopsd.rpc.listener import AddressInUse, Listener, listen, take_over

log = structlog.get_logger(__name__)


class StartFailed(Exception):
    """The daemon cannot start; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Locked:
    """The state directory, held by flock for the life of the process."""

    descriptor: int


def lock_state(config: Config) -> Locked:
    """One daemon a state directory. Raises StartFailed naming the one that has it."""
    path = config.state_dir / "lock"
    try:
        config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartFailed(f"{path}: {error.strerror}; name another with --state-dir") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pid = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "?"
        os.close(descriptor)
        raise StartFailed(
            f"instance {config.instance} is already running, pid {pid}"
        ) from None
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        # The lock holds all the same; only its holder's number is not told.
        log.warning("lock_not_signed", path=str(path), reason=error.strerror)
    return Locked(descriptor)


#: The first descriptor that is handed over, and what each is called.
_FIRST = 3
_NAMES = ("rw", "ro")


def activated(environ: Mapping[str, str], pid: int) -> dict[str, int]:
    """The descriptors of the sockets that a service manager listens on for us, by name.

    Raises StartFailed where one is neither `rw` nor `ro`, or there are two of a name.
    """
    if environ.get("LISTEN_PID") != str(pid):
        return {}  # none, or meant for another process
    count = int(environ.get("LISTEN_FDS", "0"))
    given = environ.get("LISTEN_FDNAMES", "").split(":")
    names = [given[n] if n < len(given) else "" for n in range(count)]
    if not {*names} <= {*_NAMES} or len({*names}) < len(names):
        raise StartFailed(
            f"sockets named {', '.join(name or 'nothing' for name in names)} were handed over; "
            "call one rw and the other ro (FileDescriptorName= of the socket units)"
        )
    return {name: _FIRST + n for n, name in enumerate(names)}


def open_sockets(config: Config, given: Mapping[str, int]) -> list[Listener]:
    """Both sockets, read-write first: those `given` (descriptors by name) are taken over, the
    others made. Raises StartFailed where another daemon answers there.
    """
    run, name, groups = config.run_dir, config.instance, config.socket
    kinds = (
        ("rw", socket_path(run, name), groups.group, False),
        ("ro", readonly_socket_path(run, name), groups.readonly_group, True),
    )
    listeners: list[Listener] = []
    try:
        config.run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        for kind, path, group, readonly in kinds:
            gid = None if group is None else _group(group)
            if kind in given:
                listeners.append(_taken_over(given[kind], path, gid, readonly=readonly))
            else:
                listeners.append(listen(path, group=gid, readonly=readonly))
    except AddressInUse as error:
        _close(listeners)
        pid = _peer_pid(error.path)
        raise StartFailed(f"instance {config.instance} is already running, pid {pid}") from None
    except OSError as error:
        _close(listeners)
        raise StartFailed(f"{error.filename or config.run_dir}: {error}; see --run-dir") from error
    return listeners


def _taken_over(descriptor: int, usual: Path, group: int | None, *, readonly: bool) -> Listener:
    listener = take_over(descriptor, group=group, readonly=readonly)
    if listener.path != usual:
        # Its clients know where it is; those that look at the usual place do not find it.
        log.warning("socket_elsewhere", path=str(listener.path), usual=str(usual))
    return listener


def _close(listeners: Sequence[Listener]) -> None:
    for listener in listeners:
        listener.close()


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise StartFailed(f"there is no group {name}; see socket.group in the config") from None


def _peer_pid(path: Path) -> str:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(1.0)
            sock.connect(str(path))
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            return str(int.from_bytes(credentials[:4], "little"))
    except OSError:
        return "?"


def choose_backend(config: Config) -> tuple[str, Plugin]:
    """The configured backend, or the best of this machine. Raises StartFailed."""
    answers = registry.probe()
    for name, answer in answers.items():
        log.info("backend_probed", backend=name, answer=msgspec.to_builtins(answer))
    try:
        name = config.backend or registry.best(answers)
        return name, registry.load(name)
    except LookupError as error:
        raise StartFailed(f"{error}; see --backend") from error
