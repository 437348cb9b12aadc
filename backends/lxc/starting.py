"""A container's first instruction: its configuration, its keeper, and word that it runs."""

import os
import time
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from backends.interface import Call
from backends.lxc import config, limits, metering
from backends.lxc.apart.processes import executed
from backends.lxc.machine import Machine
from backends.lxc.places import Place
from backends.lxc.record import Record
from backends.lxc.sources import require_no_links
from backends.lxc.spawner import Job
from backends.lxc.vif import cable
from idl.errors import DoesNotExist, StorageError
from idl.ids import name_of


class Starting:
    """For `vm.unpause` of a container that has no process yet."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def start(self, call: Call, record: Record) -> None:
        """Returns when it runs. Raises OSError with liblxc's reason, StorageError, Cancelled,
        DoesNotExist where it was destroyed meanwhile."""
        machine, place = self._machine, self._machine.place(record)
        self._configure(record, place)
        cable(machine, record, deadline=call.deadline, put_in=True)
        machine.change(call, record.vm, lambda found: replace(found, started=True, asked=None))
        try:
            self._keep(call, record, place)
        except BaseException:
            self._not_started(call, record)
            raise
        if machine.record_for(call, record.vm) is None:
            # Killed meanwhile, perhaps before there was something to kill.
            machine.strike(record.vm, record, call.deadline)
            raise DoesNotExist(kind="domain", id=record.vm)
        machine.watch.add(record.vm, place)
        metering.meter(machine.group(record), record.vbds.values())

    def _configure(self, record: Record, place: Place) -> None:
        machine = self._machine
        root = config.root_of(record)
        if root is None:
            reason = "nothing is plugged at position 0: it has no root file system"
            raise StorageError(plugin="lxc", reason=reason)
        mounted = {id: vbd for id, vbd in record.vbds.items() if vbd.medium is not None}
        require_no_links({vbd.target: place.disk(id) for id, vbd in mounted.items()})
        lines = limits.config(machine.limits(record), machine.cgroups.controllers)
        place.seccomp.write_text(config.seccomp())
        place.config.write_text(config.render(record, place, lines, machine.host))
        place.log.unlink(missing_ok=True)

    def _keep(self, call: Call, record: Record, place: Place) -> None:
        spawner = self._machine.spawner
        keeper = spawner.start(
            "keep",
            owner=record.vm,
            directory=str(place.path),
            name=name_of(f"{record.instance}/{record.vm}"),
            init=record.init,
            first_id=record.first_id,
            seconds=max(0.1, call.deadline - time.monotonic() - 0.5),
        )
        with keeper:
            try:
                # Otherwise another keeper is at it, whose word has been waited for.
                if keeper.answer(call.deadline) is None:
                    _await_start(keeper, place, call.deadline - 0.5)
            except OSError as error:
                raise OSError(f"{error.strerror or error}: {_last_words(place.log)}") from error
            finally:
                spawner.forget(record.vm, keeper)

    def _not_started(self, call: Call, record: Record) -> None:
        """Nothing of a start that failed runs, and it can be tried again."""
        machine, vm = self._machine, record.vm
        if machine.strike(vm, machine.record(vm), time.monotonic() + 2.0):
            with suppress(DoesNotExist):
                record = machine.change(call, vm, lambda found: replace(found, started=False))
                machine.cgroups.group(record.group).remove(time.monotonic() + 1.0)
                place = machine.place(record)
                for left in (place.status, place.init):
                    left.unlink(missing_ok=True)


def _await_start(keeper: Job, place: Place, deadline: float) -> None:
    # The keeper has it open too: what is said before we listen is not lost.
    word = os.open(place.started, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not keeper.says(word, deadline):
            raise OSError("the container has not started")
        _await_execution(keeper, place, deadline)
    except TimeoutError:
        raise TimeoutError("the container has not started in time") from None
    finally:
        os.close(word)


def _await_execution(keeper: Job, place: Place, deadline: float) -> None:
    """The word comes right before liblxc executes init, and nothing tells whether it could."""
    init = int(place.init.read_text())
    while not executed(init):
        if keeper.ends(0.001):
            # An init that was quick has left its status.
            if place.status.exists():
                return
            raise OSError("the container has not started")
        if time.monotonic() > deadline:
            raise TimeoutError


def _last_words(log: Path) -> str:
    """The errors in liblxc's log, without their place in its source."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return "liblxc said nothing"
    errors = [line.partition(" - ")[2].partition(" - ")[2] for line in lines if " ERROR " in line]
    return "; ".join(errors[:3])[:500] or "liblxc said nothing"
