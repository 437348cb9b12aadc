"""A bug report's bundle: what the daemon tells, member by member, in a .tar.gz.

Each member is asked for by itself: what fails is written down as its error, and the rest goes
on. It is written beside its place and put there when it is whole, readable by its owner alone.
"""

import io
import os
import platform
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from idl.client import Client
from xenopsd.cli.failure import explain
from xenopsd.cli.output import as_json
from xenopsd.cli.session import Session
from xenopsd.redact import redacted

#: Of a log the end, in bytes.
_LOG = 4 << 20
#: How long each answer may take, in seconds: a daemon that hangs is what bundles are for.
_PATIENCE = 10.0

_LIBRARIES = ("xenopsd", "msgspec", "uvloop", "jsonrpcserver", "click", "rich", "textual")


def default_name() -> str:
    """Of this moment, in the present directory."""
    return time.strftime("xenopsd-%Y%m%d-%H%M%S.tar.gz", time.gmtime())


def write(path: Path, session: Session, log: Path | None) -> dict[str, str]:
    """Write the bundle; answers what is not in it, and why. Raises OSError."""
    missing: dict[str, str] = {}
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
            for name, content in _members(session, log, missing):
                _put(tar, name, content)
        Path(temporary).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    return missing


def _members(
    session: Session, log: Path | None, missing: dict[str, str]
) -> Iterator[tuple[str, bytes]]:
    yield "client.json", as_json(_client(session)).encode()
    if log is not None:
        yield "daemon.log", _end_of(log)
    with Client(session.socket, _PATIENCE, reconnect=0) as client:
        for name, ask in _questions(client).items():
            try:
                yield f"{name}.json", as_json(ask()).encode()
            except Exception as error:
                if (failure := explain(error)) is None:
                    raise
                missing[name] = failure.sentence
                yield f"{name}.error", failure.sentence.encode()


def _questions(client: Client) -> dict[str, Callable[[], Any]]:
    return {
        "query": client.host.query,
        "host": client.host.stat,
        "diagnostics": client.host.get_diagnostics,
        "pool": client.host.get_worker_pool,
        "foreign": client.host.list_foreign,
        "console": client.host.get_console_data,
        "vms": lambda: [redacted(record) for record in client.vm.list()],
        "devices": lambda: _devices(client),
        "metrics": client.vm.metrics,
        "tasks": client.task.list,
        "updates": client.updates.last_id,
    }


def _devices(client: Client) -> dict[str, Any]:
    readable = [record.id for record in client.vm.list() if record.config is not None]
    return {
        id: {
            "vbds": client.vbd.list(id),
            "vifs": client.vif.list(id),
            "pcis": client.pci.list(id),
        }
        for id in readable
    }


def _client(session: Session) -> dict[str, Any]:
    return {
        "written": time.time(),
        "socket": str(session.socket),
        "python": sys.version,
        "system": platform.platform(),
        "libraries": {name: version(name) for name in _LIBRARIES},
    }


def _end_of(log: Path) -> bytes:
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LOG))
        return file.read()


def _put(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(f"xenopsd/{name}")
    member.size, member.mode, member.mtime = len(content), 0o600, int(time.time())
    tar.addfile(member, io.BytesIO(content))
