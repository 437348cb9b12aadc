"""Commands that move a VM from one power state to another."""
# click reads the escape in docstrings.
# ruff: noqa: D301

from typing import Any

import click

from xenopsd.cli.completers import vm_argument
from xenopsd.cli.follow import Waiting, finish, waiting
from xenopsd.cli.seconds import SECONDS
from xenopsd.cli.session import Session

_paused = click.option("--paused", is_flag=True, help="Leave it paused.")
_image = click.option("--image", metavar="PATH", help="Image file; by default the instance's own.")


def _asking(command: Any) -> Any:
    """The options of what may ask the guest."""
    timeout = click.option(
        "--timeout",
        type=SECONDS,
        metavar="SECONDS",
        help="Ask the guest and wait so long; without it, hard.",
    )
    force = click.option(
        "--force", is_flag=True, help="Do it hard when the guest did not obey in time."
    )
    return timeout(force(command))


@click.command()
@vm_argument
@_paused
@waiting
@click.pass_obj
def start(session: Session, /, *, vm: str, paused: bool, waiting: Waiting) -> None:
    """Start a halted VM.

    \b
    Examples:
      xenops start web
      xenops start web --paused --no-wait
    """
    finish(session, session.client.vm.start(vm, paused), waiting)


@click.command()
@vm_argument
@_asking
@waiting
@click.pass_obj
def shutdown(
    session: Session, /, *, vm: str, timeout: float | None, force: bool, waiting: Waiting
) -> None:
    """Stop a VM.

    With --timeout its guest is asked; without, it is stopped hard.

    \b
    Examples:
      xenops shutdown web --timeout 60
      xenops shutdown web --timeout 60 --force
      xenops shutdown web
    """
    finish(session, session.client.vm.shutdown(vm, timeout, force), waiting)


@click.command()
@vm_argument
@_asking
@waiting
@click.pass_obj
def reboot(
    session: Session, /, *, vm: str, timeout: float | None, force: bool, waiting: Waiting
) -> None:
    """Stop a VM and start it again.

    It stops as by shutdown, and starts with its present configuration.

    \b
    Examples:
      xenops reboot web --timeout 60
    """
    finish(session, session.client.vm.reboot(vm, timeout, force), waiting)


@click.command()
@vm_argument
@waiting
@click.pass_obj
def pause(session: Session, /, *, vm: str, waiting: Waiting) -> None:
    """Stop the vCPUs of a running VM.

    \b
    Examples:
      xenops pause web
    """
    finish(session, session.client.vm.pause(vm), waiting)


@click.command()
@vm_argument
@waiting
@click.pass_obj
def unpause(session: Session, /, *, vm: str, waiting: Waiting) -> None:
    """Let the vCPUs of a paused VM run.

    \b
    Examples:
      xenops unpause web
    """
    finish(session, session.client.vm.unpause(vm), waiting)


@click.command()
@vm_argument
@_image
@waiting
@click.pass_obj
def suspend(session: Session, /, *, vm: str, image: str | None, waiting: Waiting) -> None:
    """Write a running VM to an image and free its memory.

    \b
    Examples:
      xenops suspend web
    """
    finish(session, session.client.vm.suspend(vm, image), waiting)


@click.command()
@vm_argument
@_image
@_paused
@waiting
@click.pass_obj
def resume(
    session: Session, /, *, vm: str, image: str | None, paused: bool, waiting: Waiting
) -> None:
    """Bring a suspended VM back from its image.

    \b
    Examples:
      xenops resume web
      xenops resume web --paused
    """
    finish(session, session.client.vm.resume(vm, image, paused), waiting)


@click.command()
@vm_argument
@waiting
@click.pass_obj
def destroy(session: Session, /, *, vm: str, waiting: Waiting) -> None:
    """Remove the domain of a VM.

    What is plugged into it goes with it; the record stays.

    \b
    Examples:
      xenops destroy web
    """
    finish(session, session.client.vm.destroy(vm), waiting)


COMMANDS = (start, shutdown, reboot, pause, unpause, suspend, resume, destroy)
