"""Commands that change the configuration of a VM."""
# click reads the escape in docstrings.
# ruff: noqa: D301

from typing import TYPE_CHECKING, Any

import click

from xenopsd.cli import completers
from xenopsd.cli.completers import vm_argument
from xenopsd.cli.session import Session

if TYPE_CHECKING:
    from idl.vm import Vm

_EDIT_HEAD = """\
# The configuration of VM {id}. What you change is set when you leave the editor, checked before;
# what you delete gets its default. Nothing happens where nothing was changed.
"""


@click.command("set")
@vm_argument
@click.argument(
    "assignments",
    metavar="FIELD=VALUE…",
    nargs=-1,
    required=True,
    shell_complete=completers.vm_fields,
)
@click.pass_obj
def set_fields(session: Session, /, *, vm: str, assignments: tuple[str, ...]) -> None:
    """Change fields of a VM's configuration, all or none.

    A field within a field is written with a dot, a list with commas, anything else as JSON;
    memory stands for all three memory fields. Says which changes wait for the next start.

    \b
    Examples:
      xenops set web vcpus=2 name="The web"
      xenops set web memory=4G auto_start=true
      xenops set web scheduler.weight=512 on_crash=coredump,start
    """
    from xenopsd.cli import changes
    from xenopsd.cli.vmfile import BadVm

    try:
        wanted = changes.assigned(_config(session, vm), assignments)
    except BadVm as error:
        raise click.UsageError(str(error)) from error
    _set(session, vm, wanted)


@click.command()
@vm_argument
@click.pass_obj
def edit(session: Session, /, *, vm: str) -> None:
    """Change a VM's configuration in an editor.

    It is shown as YAML in $EDITOR. What is wrong is said and can be mended.

    \b
    Examples:
      xenops edit web
      EDITOR=nano xenops edit web
    """
    from idl.errors import XenopsError
    from xenopsd.cli import changes
    from xenopsd.cli.vmfile import BadVm

    config = _config(session, vm)
    text: str | None = _EDIT_HEAD.format(id=vm) + changes.editable(config)
    while (text := click.edit(text, extension=".yaml")) is not None:
        try:
            if wanted := changes.edited(config, text):
                _set(session, vm, wanted)
                return
            break
        except (BadVm, XenopsError) as error:
            click.echo(f"xenops: {error}", err=True)
            if not click.confirm("Edit it again?", default=True, err=True):
                raise click.Abort from error
    click.echo("Nothing was changed.", err=True)


def _config(session: Session, vm: str) -> "Vm":
    """Raises MetadataCorrupt where there is nothing to change."""
    from idl.errors import MetadataCorrupt

    record = session.client.vm.stat(vm)
    if record.config is None:
        attention = record.state.attention
        raise MetadataCorrupt(path=attention.reason if attention else vm)
    return record.config


def _set(session: Session, vm: str, changes: dict[str, Any]) -> None:
    session.client.vm.set(vm, changes)
    waiting = [field for field in session.client.vm.stat(vm).pending if field in changes]
    if waiting:
        click.echo(f"From the next start on: {', '.join(waiting)}", err=True)


COMMANDS = (set_fields, edit)
