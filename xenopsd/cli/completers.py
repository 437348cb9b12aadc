"""What a Tab offers: names that the daemon knows, asked for within a moment, or nothing.

A shell that waits is worse than one that does not know: one deadline bounds everything that a
Tab asks, and every failure is silence.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from xenopsd.cli.session import Session

#: All that a Tab may wait for the daemon, in seconds.
PATIENCE = 0.3
#: Devices of at most so many VMs are asked for.
_VMS = 50

Completer = Callable[[click.Context, click.Parameter, str], list[str]]
Source = Callable[["Asked", str], Iterable[str]]


class Asked:
    """The daemon, for as long as `PATIENCE` lasts. Raises whatever goes wrong."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._deadline = time.monotonic() + PATIENCE

    def call(self, method: str, **params: Any) -> Any:
        """The result as plain JSON."""
        from idl.client import Client

        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        # Nobody knows whose answer a late one is: each call has a connection of its own.
        with Client(self._socket, left, reconnect=0) as client:
            return client.call(method, **params)


def completer(source: Source) -> Completer:
    """A completer of what a source names, as click calls it."""

    def complete(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
        try:
            found = source(Asked(_session(ctx).socket), incomplete)
            return sorted(name for name in found if name.startswith(incomplete))
        except Exception:  # noqa: BLE001  # whatever it is, a shell must not see it
            return []

    return complete


def _session(ctx: click.Context) -> Session:
    """Of the options on the line, since no command is run."""
    given = ctx.find_root().params
    instance = given.get("instance") or "default"
    return Session.of(given.get("socket"), instance, os.environ, root=os.geteuid() == 0)


def _vms(daemon: Asked, _incomplete: str) -> Iterator[str]:
    yield from (record["id"] for record in daemon.call("VM.list"))


def _tasks(daemon: Asked, _incomplete: str) -> Iterator[str]:
    yield from (task["id"] for task in daemon.call("TASK.list"))


def _open_tasks(daemon: Asked, _incomplete: str) -> Iterator[str]:
    tasks = daemon.call("TASK.list")
    yield from (task["id"] for task in tasks if task["state"]["type"] == "pending")


def _domains(daemon: Asked, _incomplete: str) -> Iterator[str]:
    yield from (domain["id"] for domain in daemon.call("HOST.list_foreign"))


def _fields(_daemon: Asked, _incomplete: str) -> Iterator[str]:
    from idl.vm import Vm

    yield from (f"{name}=" for name in ("memory", *Vm.__struct_fields__) if name != "id")


def _methods(_daemon: Asked, _incomplete: str) -> Iterator[str]:
    from idl.calls import CALLS

    yield from CALLS


def _devices(namespace: str) -> Source:
    def source(daemon: Asked, incomplete: str) -> Iterator[str]:
        vm, slash, _ = incomplete.partition("/")
        ids = [vm] if slash else [id for id in _vms(daemon, "") if id.startswith(vm)]
        for id in ids[:_VMS]:
            yield from (record["id"] for record in daemon.call(f"{namespace}.list", vm=id))

    return source


vms = completer(_vms)
tasks = completer(_tasks)
open_tasks = completer(_open_tasks)
foreign_domains = completer(_domains)
vm_fields = completer(_fields)
methods = completer(_methods)
vbds = completer(_devices("VBD"))
vifs = completer(_devices("VIF"))
pcis = completer(_devices("PCI"))

vm_argument = click.argument("vm", metavar="VM", shell_complete=vms)
