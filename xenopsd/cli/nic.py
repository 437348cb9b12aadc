"""Commands about VIFs, which people call network interfaces."""
# click reads the escape in docstrings.
# ruff: noqa: D301

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from xenopsd.cli import completers, device
from xenopsd.cli.completers import vm_argument
from xenopsd.cli.follow import Waiting, finish, waiting
from xenopsd.cli.output import Column
from xenopsd.cli.session import Session

if TYPE_CHECKING:
    from idl.vif import LockingMode, Rate, VifRecord


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


KIND = device.Kind(
    noun="nic",
    a_noun="an interface",
    example="web/nic1",
    calls=lambda client: client.vif,
    complete=completers.vifs,
    columns=_columns,
    list_example="-o wide",
)


@click.group("nic")
def nics() -> None:
    """Network interfaces of VMs.

    An interface is named VM/NAME.
    """


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

    Keys: mac, model, mtu; ipv4 and ipv6 with an address and its prefix length, or dhcp; gateway;
    locked, without a value, which has its guest use these addresses alone.

    \b
    Examples:
      xenops nic add web br0 --plug
      xenops nic add web br1,mac=02:00:00:00:00:01,mtu=9000 --name storage
      xenops nic add web br0,ipv4=192.0.2.7/24,gateway=192.0.2.1,locked
    """
    id = device.new_id(vm, name, "nic", session.client.vif.list(vm))
    device.add(session, KIND, _vif(id, spec), waiting, plug=plug)


def _vif(id: str, spec: str) -> Any:
    """Raises UsageError."""
    from idl.vif import Vif
    from xenopsd.cli import vmfile

    try:
        return vmfile.converted({**vmfile.nic(spec, None), "id": id}, Vif)
    except vmfile.BadVm as error:
        raise click.UsageError(str(error)) from error


@nics.command()
@KIND.argument
@click.argument("bridge")
@waiting
@click.pass_obj
def move(session: Session, /, *, device: str, bridge: str, waiting: Waiting) -> None:
    """Move an interface to another bridge, plugged or not.

    \b
    Examples:
      xenops nic move web/nic0 br1
    """
    from idl.vif import Bridge

    finish(session, session.client.vif.move(device, Bridge(name=bridge)), waiting)


@nics.command("set")
@KIND.argument
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
    device: str,
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
        finish(session, client.vif.set_carrier(device, carrier == "up"), waiting)
    if rate is not None:
        finish(session, client.vif.set_rate(device, limit), waiting)
    if locking is not None:
        finish(session, client.vif.set_locking_mode(device, _locking(locking)), waiting)


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


device.give(nics, KIND)
COMMANDS = (nics,)
