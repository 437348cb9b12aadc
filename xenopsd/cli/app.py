"""The command tree, and the one place where a failure becomes a sentence and an exit code.

Modules are imported when a command needs them (rich only on a terminal, the client only to
call), so that `--help` and completion answer at once.
"""
# click reads the escape in docstrings.
# ruff: noqa: D301

import os
from pathlib import Path

import click

from xenopsd.cli import events, lifecycle, pool, raw, task, vm
from xenopsd.cli.failure import EXIT_CODES, explain
from xenopsd.cli.session import Session

_EPILOG = "\b\nExit codes:\n" + "\n".join(
    f"  {code}  {meaning}" for code, meaning in EXIT_CODES.items()
)


class _Xenops(click.Group):
    """Says every failure in one sentence."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, click.Abort):
            raise
        except Exception as error:
            if (failure := explain(error)) is None:
                raise
            click.echo(f"xenops: {failure.sentence}", err=True)
            ctx.exit(failure.code)


@click.group(
    cls=_Xenops,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": None},
    epilog=_EPILOG,
)
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    envvar="XENOPS_SOCKET",
    show_envvar=True,
    help="Socket of the daemon; by default that of the instance.",
)
@click.option(
    "--instance",
    envvar="XENOPSD_INSTANCE",
    default="default",
    show_default=True,
    help="Instance to talk to, where no socket is given.",
)
@click.version_option(package_name="xenopsd", message="xenops %(version)s")
@click.pass_context
def main(ctx: click.Context, /, *, socket: Path | None, instance: str) -> None:
    """Look at and steer the virtual machines of this host.

    \b
    Examples:
      xenops list
      xenops add web.toml
      xenops start web
      xenops shutdown web --timeout 60 --force
    """
    session = Session.of(socket, instance, os.environ, root=os.geteuid() == 0)
    ctx.obj = session
    ctx.call_on_close(session.close)


for _commands in (vm, lifecycle, task, pool, events, raw):
    for _command in _commands.COMMANDS:
        main.add_command(_command)
