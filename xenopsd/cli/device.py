"""What disks, interfaces and passed-through devices have in common."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

import click

from xenopsd.cli.output import Column

if TYPE_CHECKING:
    from idl.client import Client

T = TypeVar("T")

force_option = click.option(
    "--force", is_flag=True, help="Cut the host's side where its guest does not let go."
)
name_option = click.option("--name", help="Its name within the VM; by default the next free one.")
plug_option = click.option("--plug", is_flag=True, help="Plug it into the running VM as well.")
maybe_vm = click.argument("vm", metavar="[VM]", required=False)


def columns(*own: Column[Any]) -> Sequence[Column[Any]]:
    """The columns of every kind of device around those of one kind."""
    return (
        Column("DEVICE", lambda record: record.id),
        Column("POSITION", lambda record: _text(record.config.position)),
        Column("PLUGGED", lambda record: "yes" if record.state.plugged else "no"),
        *own,
        Column("BACKEND", lambda record: behind(record.config)),
    )


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def behind(config: Any) -> str:
    """What is behind a device, in a word."""
    backend = getattr(config, "backend", None)
    names = ((config, "address"), (backend, "path"), (backend, "name"), (backend, "vdi"))
    return next((str(getattr(one, name)) for one, name in names if hasattr(one, name)), "")


def of(client: "Client", vm: str | None, listed: Callable[[str], list[T]]) -> Iterator[T]:
    """The devices of one VM, or of all whose record can be read."""
    if vm is not None:
        yield from listed(vm)
        return
    for record in sorted(client.vm.list(), key=lambda record: record.id):
        if record.config is not None:
            yield from listed(record.id)


def new_id(vm: str, name: str | None, prefix: str, present: Sequence[Any]) -> str:
    """The id of a device to be added: of this name, else PREFIX and the first free number."""
    taken = {record.id for record in present}
    numbered = (f"{vm}/{prefix}{number}" for number in count())
    return f"{vm}/{name}" if name else next(id for id in numbered if id not in taken)
