"""Commands about VIFs, which people call network interfaces."""
# click reads the escape in docstrings.
# ruff: noqa: D301

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from xenopsd.cli import completers, device
from xenopsd.cli.completers import vm_argument
from xenopsd.cli.follow import Waiting, finish, waiting
from xenopsd.cli.output import Column, Output, emit, listing
from xenopsd.cli.session import Session

if TYPE_CHECKING:
    from idl.vif import LockingMode, Rate, VifRecord

_nic = click.argument("nic", metavar="NIC", shell_complete=completers.vifs)


def _rate(record: "VifRecord") -> str:
    rate = record.config.rate
    return "" if rate is None else f"{rate.kbps} kbit/s"


def _columns() -> "Sequence[Column[VifRecord]]":
    return device.columns(
        Column("MAC", lambda record: record.config.mac),
        Column("HOST_DEVICE", lambda record: record.state.device or ""),
        Column("CARRIER", lambda record: "up" if record.config.carrier else "down"),
        Column("MTU", lambda record: str(record.config.mtu), wide=True),
        Column("RATE", _rate, wide=True),
        Column(
            "LOCKING",
            lambda record: str(record.config.locking_mode.__struct_config__.tag),
            wide=True,
        ),
    )


@click.group("nic")
def nics() -> None:
    """Network interfaces of VMs.

    An interface is named VM/NAME.
    """


@nics.command("list")
@device.maybe_vm
@listing
@click.pass_obj
def list_nics(session: Session, /, *, vm: str | None, output: Output) -> None:
    """List the interfaces of a VM, or of all.

    \b
    Examples:
      xenops nic list web
      xenops nic list -o wide
    """
    client = session.client
    emit(list(device.of(client, vm, client.vif.list)), _columns(), output, lambda one: one.id)


@nics.command()
@vm_argument
@click.argument("spec", metavar="BRIDGE[,KEY=VALUE]")
@device.name_option
@device.plug_option
@waiting
@click.pass_obj
def add(
    session: Session,
    /,
    *,
    vm: str,
    spec: str,
    name: str | None,
    plug: bool,
    waiting: Waiting,
) -> None:
    """Record an interface of a VM, and print its id.

    Keys: mac, model, mtu.

    \b
    Examples:
      xenops nic add web br0 --plug
      xenops nic add web br1,mac=02:00:00:00:00:01,mtu=9000 --name storage
    """
    client = session.client
    id = device.new_id(vm, name, "nic", client.vif.list(vm))
    click.echo(client.vif.add(_vif(id, spec)))
    if plug:
        finish(session, client.vif.plug(id), waiting)


def _vif(id: str, spec: str) -> Any:
    """Raises UsageError."""
    from idl.vif import Vif
    from xenopsd.cli import vmfile

    try:
        return vmfile.converted({**vmfile.nic(spec, None), "id": id}, Vif)
    except vmfile.BadVm as error:
        raise click.UsageError(str(error)) from error


@nics.command()
@_nic
@click.pass_obj
def remove(session: Session, /, *, nic: str) -> None:
    """Drop the record of an unplugged interface.

    \b
    Examples:
      xenops nic remove web/nic1
    """
    session.client.vif.remove(nic)


@nics.command()
@_nic
@waiting
@click.pass_obj
def plug(session: Session, /, *, nic: str, waiting: Waiting) -> None:
    """Plug an interface into its running VM.

    \b
    Examples:
      xenops nic plug web/nic1
    """
    finish(session, session.client.vif.plug(nic), waiting)


@nics.command()
@_nic
@device.force_option
@waiting
@click.pass_obj
def unplug(session: Session, /, *, nic: str, force: bool, waiting: Waiting) -> None:
    """Unplug an interface, and wait until it was seen gone.

    \b
    Examples:
      xenops nic unplug web/nic1
    """
    finish(session, session.client.vif.unplug(nic, force), waiting)


@nics.command()
@_nic
@click.argument("bridge")
@waiting
@click.pass_obj
def move(session: Session, /, *, nic: str, bridge: str, waiting: Waiting) -> None:
    """Move an interface to another bridge, plugged or not.

    \b
    Examples:
      xenops nic move web/nic0 br1
    """
    from idl.vif import Bridge

    finish(session, session.client.vif.move(nic, Bridge(name=bridge)), waiting)


@nics.command("set")
@_nic
@click.option("--carrier", type=click.Choice(("up", "down")), help="Plug or pull the cable.")
@click.option(
    "--rate", metavar="KBPS[,BURST]", help="Limit in kbit/s, burst in kB; none lifts it."
)
@click.option(
    "--locking",
    metavar="MODE",
    help="unlocked, disabled, or the addresses its guest may use, with commas.",
)
@waiting
@click.pass_obj
def set_fields(
    session: Session,
    /,
    *,
    nic: str,
    carrier: str | None,
    rate: str | None,
    locking: str | None,
    waiting: Waiting,
) -> None:
    """Change an interface, plugged or not.

    \b
    Examples:
      xenops nic set web/nic0 --carrier down
      xenops nic set web/nic0 --rate 100000 --locking 192.0.2.7,2001:db8::7
    """
    if carrier is rate is locking is None:
        raise click.UsageError("Say what to change: --carrier, --rate or --locking.")
    client = session.client
    limit = None if rate is None else _limit(rate)
    if carrier is not None:
        finish(session, client.vif.set_carrier(nic, carrier == "up"), waiting)
    if rate is not None:
        finish(session, client.vif.set_rate(nic, limit), waiting)
    if locking is not None:
        finish(session, client.vif.set_locking_mode(nic, _locking(locking)), waiting)


def _limit(text: str) -> "Rate | None":
    """Raises UsageError."""
    from idl.vif import Rate

    if text == "none":
        return None
    kbps, _, burst = text.partition(",")
    if not (kbps.isdecimal() and (burst or "0").isdecimal()):
        raise click.UsageError(f"--rate {text}: write KBPS, KBPS,BURST or none.")
    return Rate(kbps=int(kbps), burst=int(burst or 0))


def _locking(text: str) -> "LockingMode":
    from idl.vif import Disabled, Locked, Unlocked

    if text in ("unlocked", "disabled"):
        return Unlocked() if text == "unlocked" else Disabled()
    addresses = [one for one in text.split(",") if one]
    return Locked(
        ipv4=[one for one in addresses if ":" not in one],
        ipv6=[one for one in addresses if ":" in one],
    )


COMMANDS = (nics,)
