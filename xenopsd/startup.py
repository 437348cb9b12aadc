"""Before the daemon: its state directory, its sockets, its backend, or why it cannot start."""

import fcntl
import grp
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from backends import registry
from backends.interface import Plugin
from xenopsd.config import Config
from xenopsd.places import readonly_socket_path, socket_path
from xenopsd.rpc.listener import AddressInUse, Listener, listen

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


def open_sockets(config: Config) -> list[Listener]:
    """Listen on both sockets. Raises StartFailed where another daemon answers there."""
    run, name, groups = config.run_dir, config.instance, config.socket
    names = (
        (socket_path(run, name), groups.group, False),
        (readonly_socket_path(run, name), groups.readonly_group, True),
    )
    listeners: list[Listener] = []
    try:
        config.run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        for path, group, readonly in names:
            gid = None if group is None else _group(group)
            listeners.append(listen(path, group=gid, readonly=readonly))
    except AddressInUse as error:
        _close(listeners)
        pid = _peer_pid(error.path)
        raise StartFailed(f"instance {config.instance} is already running, pid {pid}") from None
    except OSError as error:
        _close(listeners)
        raise StartFailed(f"{error.filename or config.run_dir}: {error}; see --run-dir") from error
    return listeners


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
