"""Act in a simulator's world from outside, whether the daemon is up or not.

    python -m backends.simulator.act --world WORLD ACTION [VM] [VALUE]

`reboot`, `halt`, `crash`, `suspend`: the guest does this by itself. `lose`: the domain vanishes
without an event. `ignore-shutdown`, `uncooperative-balloon`, `hold-devices`: with VALUE `true` or
`false`. `show` prints the domain. `reboot-host`, while no daemon is up: every domain is gone.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from backends.simulator.events import announce, listened
from backends.simulator.guest import ACTS, KNOBS, turned
from backends.simulator.record import Record
from backends.simulator.world import EVENTS, World, no_domain
from idl.errors import InvalidParameter, XenopsError

ACTIONS = (*ACTS, *KNOBS, "lose", "show", "reboot-host")


def act(world: World, action: str, vm: str, value: str) -> None:
    """One action. Raises XenopsError, OSError."""
    if action == "show":
        show(_found(world.read(vm), vm))
    elif action == "reboot-host":
        if any(listened(fifo) for fifo in (world.path / EVENTS).iterdir()):
            reason = "the daemon is up; use DEBUG.trigger reboot-host"
            raise InvalidParameter(name="action", reason=reason)
        world.reboot()
    else:
        changed = change(world, action, vm, value)
        if changed is not None and changed.instance is not None:
            announce(world.path / EVENTS / changed.instance, vm)


def change(world: World, action: str, vm: str, value: str) -> Record | None:
    """What the action leaves of the domain."""
    with world.hold(vm) as held:
        record = _found(held.record, vm)
        if action in ACTS:
            held.write(ACTS[action](record, vm, time.time()))
        elif action in KNOBS:
            held.write(turned(record, KNOBS[action], value))
        else:
            held.write(None)
        return held.record


def show(record: Record) -> None:
    """Print it."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(record)).decode() + "\n")


def _found(record: Record | None, vm: str) -> Record:
    if record is None:
        raise no_domain(vm)
    return record


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and act; 1 and a sentence on stderr where that fails."""
    parser = argparse.ArgumentParser(prog="python -m backends.simulator.act")
    parser.add_argument("--world", type=Path, required=True)
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("vm", nargs="?", default="")
    parser.add_argument("value", nargs="?", default="true")
    args = parser.parse_args(argv)
    try:
        world = World(args.world)
        try:
            act(world, args.action, args.vm, args.value)
        finally:
            world.close()
    except (XenopsError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
