"""What a Tab offers: names that the daemon knows, asked for within a moment, or nothing.

A shell that waits is worse than one that does not know: one deadline bounds everything that a
Tab asks, and every failure is silence.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from xenopsd.cli.failure import About
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
            found = source(Asked(Session.on(ctx).socket), incomplete)
            return sorted(name for name in found if name.startswith(incomplete))
        except Exception:  # noqa: BLE001  # whatever it is, a shell must not see it
            return []

    return complete


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


def _note(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """What a failure of the command names again."""
    ctx.meta["xenops.command"] = ctx.command_path.partition(" ")[2]
    if value is not None:
        ctx.meta[f"xenops.{param.name}"] = value
    return value


def naming(name: str, **attributes: Any) -> Callable[[Any], Any]:
    """An argument that says what the command is about: `vm`, `device` or `method`."""
    return click.argument(name, callback=_note, **attributes)


def about(ctx: click.Context) -> About:
    """What the command that was run beneath this context is about."""
    vm = ctx.meta.get("xenops.vm") or ctx.meta.get("xenops.device", "").partition("/")[0]
    command = ctx.meta.get("xenops.command", ctx.invoked_subcommand)
    return About(command, vm or None, ctx.meta.get("xenops.method"))


vm_argument = naming("vm", metavar="VM", shell_complete=vms)
maybe_vm = naming("vm", metavar="[VM]", required=False, shell_complete=vms)
