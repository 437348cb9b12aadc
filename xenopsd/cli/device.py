"""What disks, interfaces and passed-through devices have in common: most of their commands."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

import click

from xenopsd.cli.completers import Completer, maybe_vm, naming
from xenopsd.cli.follow import Waiting, finish, waiting
from xenopsd.cli.output import Column, Output, emit, listing
from xenopsd.cli.session import Session

if TYPE_CHECKING:
    from idl.client import Client

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of device: its word, with its article and as an argument; an example of one; its
    calls; what a Tab offers; its columns; what `list` and `remove` are to be called with."""

    noun: str
    a_noun: str
    example: str
    calls: "Callable[[Client], Any]"
    complete: Completer
    columns: Callable[[], Sequence[Column[Any]]]
    list_example: str
    goes_too: str = ""

    @property
    def argument(self) -> Callable[[Any], Any]:
        """The argument that names one, as a parameter `device`."""
        metavar = self.noun.upper()
        return naming("device", metavar=metavar, shell_complete=self.complete)


force_option = click.option(
    "--force", is_flag=True, help="Cut the host's side where its guest does not let go."
)
name_option = click.option("--name", help="Its name within the VM; by default the next free one.")
plug_option = click.option("--plug", is_flag=True, help="Plug it as well, where the VM runs.")


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


def give(group: click.Group, kind: Kind) -> None:
    """Give a group the commands that every kind of device has."""
    for command in (_list(kind), _remove(kind), _plug(kind), _unplug(kind)):
        group.add_command(command)


def _help(sentence: str, *examples: str) -> str:
    return "\n".join([sentence, "", "\b", "Examples:", *(f"  xenops {one}" for one in examples)])


def _list(kind: Kind) -> click.Command:
    word = kind.noun

    @click.command(
        "list",
        help=_help(
            f"List the {kind.a_noun.partition(' ')[2]}s of a VM, or of all.",
            f"{word} list web",
            f"{word} list {kind.list_example}",
        ),
    )
    @maybe_vm
    @listing
    @click.pass_obj
    def listed(session: Session, /, *, vm: str | None, output: Output) -> None:
        client = session.client
        found = list(of(client, vm, kind.calls(client).list))
        emit(found, kind.columns(), output, lambda one: str(one.id))

    return listed


def _remove(kind: Kind) -> click.Command:
    @click.command(
        "remove",
        help=_help(
            f"Drop the record of {kind.a_noun} that is not plugged{kind.goes_too}.",
            f"{kind.noun} remove {kind.example}",
            f"{kind.noun} remove {kind.example} --yes",
        ),
    )
    @kind.argument
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @click.pass_obj
    def remove(session: Session, /, *, device: str, yes: bool) -> None:
        if not yes and sys.stdin.isatty():
            question = f"Remove {device} for good{kind.goes_too}?"
            click.confirm(question, abort=True, err=True)
        kind.calls(session.client).remove(device)

    return remove


def _plug(kind: Kind) -> click.Command:
    @click.command(
        "plug",
        help=_help(f"Plug {kind.a_noun} into its running VM.", f"{kind.noun} plug {kind.example}"),
    )
    @kind.argument
    @waiting
    @click.pass_obj
    def plug(session: Session, /, *, device: str, waiting: Waiting) -> None:
        finish(session, kind.calls(session.client).plug(device), waiting)

    return plug


def _unplug(kind: Kind) -> click.Command:
    @click.command(
        "unplug",
        help=_help(
            f"Unplug {kind.a_noun}, and wait until it was seen gone.",
            f"{kind.noun} unplug {kind.example}",
        ),
    )
    @kind.argument
    @force_option
    @waiting
    @click.pass_obj
    def unplug(session: Session, /, *, device: str, force: bool, waiting: Waiting) -> None:
        finish(session, kind.calls(session.client).unplug(device, force), waiting)

    return unplug


def add(session: Session, kind: Kind, record: Any, waiting: Waiting, *, plug: bool) -> None:
    """Record a device and print its id; with `plug` it goes into its VM, where that runs."""
    client = session.client
    id = kind.calls(client).add(record)
    click.echo(id)
    if not plug:
        return
    state = str(client.vm.stat(id.partition("/")[0]).state.power_state)
    if state in ("halted", "suspended"):
        click.echo(f"Its VM is {state}: {id} is plugged when that is started.", err=True)
        return
    finish(session, kind.calls(client).plug(id), waiting)


def new_id(vm: str, name: str | None, prefix: str, present: Sequence[Any]) -> str:
    """The id of a device to be added: of this name, else PREFIX and the first free number."""
    taken = {record.id for record in present}
    numbered = (f"{vm}/{prefix}{number}" for number in count())
    return f"{vm}/{name}" if name else next(id for id in numbered if id not in taken)
