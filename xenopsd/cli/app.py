"""The command tree, and the one place where a failure becomes a sentence and an exit code.

Modules are imported when a command needs them (rich only on a terminal, the client only to
call), so that `--help` and completion answer at once.
"""
# click reads the escape in docstrings.
# ruff: noqa: D301

from pathlib import Path

import click

from xenopsd.cli import (
    attention,
    completion,
    console,
    describe,
    diag,
    disk,
    events,
    explain,
    foreign,
    lifecycle,
    metadata,
    metrics,
    nic,
    pci,
    pool,
    queue,
    raw,
    settings,
    streams,
    task,
    top,
    vm,
    wait,
)
from xenopsd.cli.completers import about
from xenopsd.cli.failure import EXIT_CODES
from xenopsd.cli.failure import explain as explain_failure
from xenopsd.cli.session import Session

_EPILOG = "\b\nExit codes:\n" + "\n".join(
    f"  {code}  {meaning}" for code, meaning in EXIT_CODES.items()
)

#: Commands as `--help` shows them, by what an administrator wants.
SECTIONS = {
    "Virtual machines": (vm, metadata, settings, lifecycle, wait, console),
    "Their devices": (disk, nic, pci),
    "What goes on": (task, queue, pool, events, metrics, top),
    "When something is wrong": (explain, attention, foreign, diag),
    "The interface itself": (raw, describe, completion),
}


#: What other tools of this kind call what is here, too. Nothing that is spelled alike means it.
ELSEWHERE = {
    "attach": "console",
    "config": "set",
    "create": "add",
    "define": "add",
    "delete": "remove",
    "enter": "console",
    "exec": "console",
    "freeze": "pause",
    "info": "show",
    "kill": "shutdown",
    "log": "explain",
    "logs": "explain",
    "ls": "list",
    "modify": "set",
    "monitor": "events",
    "ps": "list",
    "restart": "reboot",
    "restore": "resume",
    "rm": "remove",
    "run": "start",
    "save": "suspend",
    "shell": "console",
    "status": "show",
    "stop": "shutdown",
    "undefine": "remove",
    "unfreeze": "unpause",
}


class Xenops(click.Group):
    """Says every failure in one sentence, with the next step."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, click.Abort):
            raise
        except (Exception, KeyboardInterrupt) as error:
            if (failure := explain_failure(error, about(ctx))) is None:
                raise
            click.echo(f"xenops: {failure.sentence}", err=True)
            if failure.advice:
                click.echo(f"  next: {ctx.obj.typed(failure.advice)}", err=True)
            ctx.exit(failure.code)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in ELSEWHERE and not ctx.resilient_parsing:
            ctx.fail(f"No such command '{args[0]}'. Here it is 'xenops {ELSEWHERE[args[0]]}'.")
        return super().resolve_command(ctx, args)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002  # click's signature
        formatter: click.HelpFormatter,
    ) -> None:
        for title, modules in SECTIONS.items():
            commands = [one for module in modules for one in module.COMMANDS if not one.hidden]
            width = formatter.width - 6 - max(len(str(one.name)) for one in commands)
            with formatter.section(title):
                formatter.write_dl(
                    [(str(one.name), one.get_short_help_str(width)) for one in commands]
                )

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's
        # In the order of the sections, not of the alphabet.
        return list(self.commands)


@click.group(
    cls=Xenops,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": None},
    epilog=_EPILOG,
)
@click.option(
    "--socket",
    # Whether it may be used only connecting tells, and what to do then.
    type=click.Path(path_type=Path, readable=False),
    envvar="XENOPS_SOCKET",
    show_envvar=True,
    help="Socket of the daemon; by default that of the instance.",
)
@click.option(
    "--instance",
    envvar="XENOPSD_INSTANCE",
    default="default",
    show_default=True,
    help="Instance to talk to; typed, it counts more than a socket of the environment.",
)
@click.version_option(package_name="xenopsd", message="xenops %(version)s")
@click.pass_context
def main(ctx: click.Context, /, **_options: object) -> None:
    """Look at and steer the virtual machines of this host.

    \b
    Examples:
      xenops list
      xenops add web.toml
      xenops start web
      xenops shutdown web --timeout 60 --force
      xenops explain web
    """
    streams.stand_in()
    ctx.obj = session = Session.on(ctx)
    ctx.call_on_close(session.close)


for _modules in SECTIONS.values():
    for _module in _modules:
        for _command in _module.COMMANDS:
            main.add_command(_command)
