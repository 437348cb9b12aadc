"""Suspending a container into an image, and bringing it back.

A container that is saved stands frozen, as it is, until it is destroyed or runs on: CRIU copies
it. One that is brought back is made frozen, in a place and with namespaces of its own, and runs
first when it is unpaused.
"""

import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec.structs import replace

from backends.interface import Call, Waiting
from backends.lxc import grouping, idmap, image, limits, metering, vif
from backends.lxc.apart import checkpoint, locks, syscalls
from backends.lxc.apart.processes import cannot_be_stopped
from backends.lxc.cgroup import Group
from backends.lxc.image import Facts
from backends.lxc.machine import Machine
from backends.lxc.record import ContainerVbd, Record
from backends.lxc.rtnetlink import Talk
from idl.decoding import decoder
from idl.errors import (
    BadPowerState,
    DomainNotBuilt,
    HypervisorError,
    NetworkError,
    Unimplemented,
)
from idl.ids import DeviceId, VmId, name_of
from idl.vm import Vm

#: Where the topmost control group is.
CGROUPS = "/sys/fs/cgroup"

#: Seconds within which a save that failed is undone at once; else by `resume_saved`.
UNDO = 30.0

#: How long a guest's processes get to be where CRIU can stop them, in seconds.
SETTLE = 10.0

_LOOPBACK = 1


class _Dumped(msgspec.Struct, frozen=True):
    """What is left of a dump."""

    code: int


class _Said(msgspec.Struct, frozen=True):
    """What the keeper says while it brings a container back."""

    network: bool = False
    init: int | None = None
    error: str | None = None


class Suspension:
    """Saving and restoring, for `backends.lxc.vm`. `lacking` is why this host cannot, None where
    it can."""

    def __init__(self, machine: Machine, lacking: str | None) -> None:
        self._machine = machine
        self._lacking = lacking

    def require(self) -> None:
        """Raises Unimplemented, with the reason."""
        if self._lacking is not None:
            raise Unimplemented(what=f"suspend ({self._lacking})", backend="lxc")

    def save(self, call: Call, vm: Vm, path: Path) -> None:
        """Freeze the container, and write it to an image."""
        self.require()
        record = self._machine.require(call, vm.id)
        if record.saved and path.exists():
            return
        self._require_savable(record)
        image.require_writable(path)
        try:
            self._freeze(call, record)
            facts = self._dump(call, record)
            # Before the image: once that is complete, no destroy may find them.
            self._machine.storage.layers.suspend(vm.id, record.incarnation)
            self._sync(record)
            image.write(path, facts, self._images(record), _telling(call, self._size(record)))
            self._machine.change(call, vm.id, lambda found: replace(found, saved=True))
        except BaseException:
            self._run_on(call, vm.id, time.monotonic() + UNDO)
            raise
        shutil.rmtree(self._images(record), ignore_errors=True)

    def _require_savable(self, record: Record) -> None:
        if record.privileged:
            # What filters its devices is lost with the group that it is attached to.
            raise Unimplemented(what="suspend of privileged containers", backend="lxc")
        if not record.built:
            raise DomainNotBuilt(id=record.vm)
        if not record.saved:
            life = self._machine.life(record)
            if not life.populated or life.status is not None or record.restored:
                raise BadPowerState(id=record.vm, actual="halted", expected=["running"])

    def _freeze(self, call: Call, record: Record) -> None:
        self._await_dump(call, record)
        self._inner(record).freeze(call.deadline)
        # CRIU freezes and thaws the inner group, within one that is not.
        self._machine.group(record).thaw(call.deadline)
        self._settle(call, record)
        # What comes in while its sockets are being read, or are gone, gets no answer.
        with suppress(NetworkError):
            vif.cable(self._machine, record, deadline=call.deadline, put_in=False)

    def _settle(self, call: Call, record: Record) -> None:
        """CRIU would stop the child of a vfork, and wait for ever for the parent to stop, which
        waits for the child."""
        inner, until = self._inner(record), time.monotonic() + SETTLE
        while any(map(cannot_be_stopped, inner.pids())):
            if time.monotonic() > until:
                reason = "the guest has a child of a vfork that executes nothing; try again"
                raise HypervisorError(call=call.micro_op, reason=reason)
            inner.thaw(call.deadline)
            call.pause(0.01)
            inner.freeze(call.deadline)

    def _dump(self, call: Call, record: Record) -> Facts:
        machine, place = self._machine, self._machine.place(record)
        images = self._images(record)
        images.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        facts = Facts(
            record=record,
            terminals=self._terminals(record),
            mounts={_mount_name(id): vbd.target for id, vbd in _mounted(record).items()},
        )
        machine.spawner.run(
            "dump",
            owner=record.vm,
            deadline=call.deadline,
            directory=str(place.path),
            images=str(images),
            init=machine.init(record),
            group=f"{self._path(record)}/c/i",
            mounts=facts.mounts,
            terminals=facts.terminals,
        )
        self._await_dump(call, record)
        self._require_dumped(record)
        return facts

    def _terminals(self, record: Record) -> list[str]:
        """The console's, and /dev/tty, which is that for whoever has it open: CRIU knows no
        controlling terminal that it has not made."""
        inside = Path(f"/proc/{self._machine.init(record)}/root/dev/tty")
        found = [self._machine.place(record).terminal.stat()]
        with suppress(OSError):
            found.append(inside.lstat())
        return list(dict.fromkeys(map(checkpoint.terminal_name, found)))

    def _await_dump(self, call: Call, record: Record) -> None:
        """Until nobody dumps the container any more; it is not broken off."""
        while locks.held(str(self._machine.place(record).dumper)):
            call.pause(0.02)

    def _require_dumped(self, record: Record) -> None:
        file = self._machine.place(record).dumped
        code: int | None = None
        with suppress(FileNotFoundError, ValueError):
            code = decoder(_Dumped).decode(file.read_bytes()).code
        if code != 0:
            reason = _cause(self._images(record) / "dump.log") or f"it ended with {code}"
            raise HypervisorError(call="vm_save", reason=f"criu: {reason}")

    def _sync(self, record: Record) -> None:
        """What it has written is on the disk before the memory that knows of it."""
        place = self._machine.place(record)
        for id, vbd in record.vbds.items():
            if vbd.medium is not None:
                fd = os.open(place.disk(id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    syscalls.syncfs(fd)
                finally:
                    os.close(fd)

    def resume_saved(self, call: Call, vm: VmId) -> None:
        """Have it run on where it was."""
        record = self._machine.record_for(call, vm)
        if record is not None:
            self._await_dump(call, record)
            self._run_on(call, vm, call.deadline)

    def _run_on(self, call: Call, vm: VmId, deadline: float) -> None:
        machine = self._machine
        record = machine.record_for(call, vm)
        if record is None or locks.held(str(machine.place(record).dumper)):
            return
        machine.storage.layers.resume(vm, record.incarnation)
        record = machine.change(call, vm, lambda found: replace(found, saved=False))
        with suppress(NetworkError):
            vif.cable(machine, record, deadline=deadline, put_in=True)
        self._inner(record).thaw(deadline)
        shutil.rmtree(self._images(record), ignore_errors=True)

    def check(self, call: Call, vm: Vm, path: Path) -> None:
        """Raises ImageInvalid unless it is this VM's, and whole."""
        self.require()
        image.check(path, vm.id, lambda _done: call.checkpoint())

    def drop(self, call: Call, vm: Vm, path: Path) -> None:
        """Remove an image, and what a save that was cut left of it."""
        image.drop(path)

    def restore(self, call: Call, vm: Vm, path: Path) -> None:
        """Make the container of an image, frozen, with what is plugged."""
        self.require()
        record, life = self._machine.require_live(call, vm.id)
        if record.restored and life.frozen and self._machine.place(record).init.exists():
            return
        if record.built and not record.restored:
            raise BadPowerState(id=vm.id, actual="running", expected=["halted"])
        self._clear(call, record)
        images = self._images(record)
        facts = image.unpack(path, vm.id, images, _telling(call, path.stat().st_size))
        _map_ids(images, record.first_id)
        self._mount_suspended(call, record)
        record = self._machine.change(call, vm.id, lambda found: _filled(found, facts.record))
        try:
            self._revive(call, record, facts)
        except BaseException:
            with suppress(OSError):
                self._clear(call, record)
            raise
        shutil.rmtree(images, ignore_errors=True)

    def _clear(self, call: Call, record: Record) -> None:
        """Nothing of an attempt that failed or was cut runs."""
        if record.restored:
            deadline = time.monotonic() + UNDO
            if not self._machine.strike(record.vm, record, deadline):
                reason = "processes of an earlier attempt do not end"
                raise HypervisorError(call=call.micro_op, reason=reason)
            self._machine.cgroups.group(record.group).remove(deadline)

    def _mount_suspended(self, call: Call, record: Record) -> None:
        """Volatile disks were plugged with new layers; those of the image count."""
        machine, place = self._machine, self._machine.place(record)
        for id, held in _mounted(record, root=True).items():
            config = held.config
            if config is not None and not config.persistent:
                machine.storage.release(call, record.vm, place.disk(id))
                waiting = machine.storage.prepare(
                    call,
                    replace(config, backend=held.medium),
                    at=place.disk(id),
                    user_namespace=None if record.privileged else place.user_namespace,
                    first_id=record.first_id,
                    suspended=True,
                )
                if isinstance(waiting, Waiting):
                    raise HypervisorError(call=call.micro_op, reason=f"{id} is not unpacked")

    def _revive(self, call: Call, record: Record, facts: Facts) -> None:
        machine, place = self._machine, self._machine.place(record)
        root = next((id for id, held in record.vbds.items() if held.position == 0), None)
        if root is None:
            reason = "nothing is plugged at position 0: it has no root file system"
            raise HypervisorError(call=call.micro_op, reason=reason)
        settings = limits.written(machine.limits(record), machine.cgroups.controllers)
        grouping.make(machine.cgroups.hierarchies[0], record.group, settings, record.first_id)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                machine.spawner.run(
                    "revive",
                    owner=record.vm,
                    deadline=call.deadline,
                    fds=(theirs.fileno(),),
                    directory=str(place.path),
                    images=str(self._images(record)),
                    group=self._path(record),
                    root=str(place.disk(root)),
                    mounts=_sources(record, facts.mounts, place.disk),
                    terminals=facts.terminals,
                    first_id=record.first_id,
                )
            self._attend(call, record, ours)
        machine.group(record).freeze(call.deadline)
        machine.watch.add(record.vm, place)
        metering.meter(machine.group(record), record.vbds.values())

    def _attend(self, call: Call, record: Record, talk: socket.socket) -> None:
        """Connect the container when CRIU has made its namespaces, and see it through."""
        talk.settimeout(0.1)
        while True:
            call.checkpoint()
            try:
                packet = talk.recv(1 << 16)
            except TimeoutError:
                continue
            said = decoder(_Said).decode(packet) if packet else _Said(error="its keeper died")
            if said.error is not None:
                raise HypervisorError(call=call.micro_op, reason=said.error)
            if said.init is not None:
                return
            self._connect(record, call.deadline)
            talk.send(b"g")

    def _connect(self, record: Record, deadline: float) -> None:
        """Give the new network namespace what the one had that the VIFs were plugged into."""
        machine = self._machine
        with Talk(deadline, netns=machine.place(record).network_namespace) as guest:
            guest.set_up(_LOOPBACK, up=True)
        for id, held in record.vifs.items():
            where = vif.port(machine, record, id, held)
            without_cable = replace(held.config, carrier=False)
            machine.network.plug(without_cable, where, deadline=deadline)

    def begin(self, call: Call, record: Record) -> None:
        """What comes before the first instruction of a container that was restored."""
        if not self._machine.life(record).populated:
            reason = f"nothing runs of {record.vm} any more"
            raise HypervisorError(call=call.micro_op, reason=reason)
        # Before the record: cut in between, the repetition finds them given.
        self._machine.storage.layers.resume(record.vm, record.incarnation)
        vif.cable(self._machine, record, deadline=call.deadline, put_in=True)
        self._machine.change(call, record.vm, lambda found: replace(found, restored=False))

    def _inner(self, record: Record) -> Group:
        """What its processes are in, and its own control groups."""
        return self._machine.cgroups.group(f"{record.group}/c/i")

    def _path(self, record: Record) -> str:
        """Its control group, from the topmost one."""
        base = self._machine.cgroups.hierarchies[0].base
        return f"/{(base / record.group).relative_to(CGROUPS)}"

    def _images(self, record: Record) -> Path:
        """Where CRIU's files are: not in memory, which they would take twice."""
        return self._machine.storage.checkpoints(record.vm) / record.incarnation

    def _size(self, record: Record) -> int:
        return sum(path.stat().st_size for path in self._images(record).iterdir())


def _filled(record: Record, saved: Record) -> Record:
    """What a container is that comes back from its image."""
    return replace(
        record,
        built=True,
        started=True,
        restored=True,
        memory_target=min(saved.memory_target, record.memory_limit),
        vcpus=saved.vcpus,
        init=saved.init,
        environment=saved.environment,
        hostname=saved.hostname,
        nesting=saved.nesting,
        scheduler=saved.scheduler,
        platform=saved.platform,
    )


def _mounted(record: Record, *, root: bool = False) -> dict[DeviceId, ContainerVbd]:
    """Its VBDs with something in them, that at `/` only if asked for."""
    return {
        id: vbd
        for id, vbd in record.vbds.items()
        if vbd.medium is not None and (root or vbd.position != 0)
    }


def _mount_name(id: DeviceId) -> str:
    return f"vbd.{name_of(id)}"


def _sources(
    record: Record, mounts: Mapping[str, str], disk: Callable[[DeviceId], Path]
) -> dict[str, str]:
    """Where on the host each of the image's VBDs is now."""
    named = {_mount_name(id): str(disk(id)) for id in _mounted(record)}
    return {name: named[name] for name in mounts if name in named}


def _telling(call: Call, size: int) -> image.Tick:
    """Say how far a file of this size is."""

    def tick(done: int) -> None:
        call.checkpoint()
        call.progress(min(done / max(size, 1), 1.0))

    return tick


def _cause(log: Path) -> str | None:
    try:
        return checkpoint.first_error(log.read_text(errors="replace").splitlines())
    except FileNotFoundError:
        return None


def _map_ids(images: Path, first_id: int) -> None:
    """Have the user namespace of an image map its ids to another range of the host's."""
    for path in images.glob("userns-*.img"):
        path.write_bytes(idmap.mapped(path.read_bytes(), first_id))
