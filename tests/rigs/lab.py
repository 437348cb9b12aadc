"""A daemon as a toolstack's author has it on the bench: VMs made, faults armed, ends checked.

What a sensible VM is, is checked here from outside: by the files of the simulator's world (see
docs/simulator-world.md) against what the daemon answers.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from rigs.daemon import DEADLINE, DaemonProcess, ended, eventually

from idl.client import Client
from idl.errors import DoesNotExist, XenopsError, from_object
from idl.metadata import Metadata
from idl.pci import Pci
from idl.task import Failed, Pending, Task
from idl.vbd import Local, Vbd
from idl.vif import Bridge, Vif
from idl.vm import PowerState, Vm, VmRecord

E = TypeVar("E", bound=XenopsError)

_numbers = itertools.count(1)

#: Faults that are armed by micro-op, with what disarms them.
COUNTED = ("fail", "hang")


class Lab:
    """A daemon, a client of it, and the VMs that one test has made there."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.client: Client = daemon.client()
        self._made: list[str] = []
        self._armed: list[tuple[str, list[str]]] = []

    # VMs

    def new_id(self, prefix: str = "vm") -> str:
        """An id that no other test uses."""
        id = f"{prefix}-{next(_numbers)}"
        self._made.append(id)
        return id

    def vm(
        self,
        *,
        disks: int = 1,
        nics: int = 1,
        id: str | None = None,
        vbds: Callable[[str], list[Vbd]] = lambda _id: [],
        pcis: Callable[[str], list[Pci]] = lambda _id: [],
        **fields: Any,
    ) -> str:
        """A halted VM with so many disks and interfaces, and with what else it is given."""
        id = id or self.new_id()
        if id not in self._made:
            self._made.append(id)
        self.client.vm.import_metadata(
            Metadata(
                vm=Vm(id=id, **fields),
                vbds=[
                    *(disk(id, f"disk{n}", Local(path=f"/images/{id}-{n}")) for n in range(disks)),
                    *vbds(id),
                ],
                vifs=[Vif(id=f"{id}/nic{n}", backend=Bridge(name="xenbr0")) for n in range(nics)],
                pcis=pcis(id),
            )
        )
        return id

    def running(self, **kwargs: Any) -> str:
        """The same, started."""
        id = self.vm(**kwargs)
        self.run(self.client.vm.start(id))
        return id

    def suspended(self, **kwargs: Any) -> str:
        """The same, suspended."""
        id = self.running(**kwargs)
        self.run(self.client.vm.suspend(id))
        return id

    def stat(self, id: str) -> VmRecord:
        """What VM.stat answers."""
        return self.client.vm.stat(id)

    def power_state(self, id: str) -> str:
        """Its power state."""
        return str(self.stat(id).state.power_state)

    # Tasks

    def run(self, task: str) -> Task:
        """The task when it has ended well."""
        return self.client.run(task, DEADLINE)

    def end(self, task: str) -> Task:
        """The task when it has ended."""
        return ended(self.client, task)

    def failure(self, task: str, kind: type[E]) -> E:
        """The error that a task ends with, of this class."""
        found = ended(self.client, task)
        assert isinstance(found.state, Failed), f"it did not fail: {found}"
        error = from_object(found.state.error)
        assert isinstance(error, kind), f"{type(error).__name__}: {error}"
        assert found.state.error.data["error"] == kind.__name__
        assert found.state.error.code == kind.code
        return error

    def began(self, task: str, micro_op: str | None = None) -> Task:
        """The task once it carries out a micro-op (this one)."""

        def begun() -> Task | None:
            found = self.client.task.stat(task)
            assert isinstance(found.state, Pending), f"it has ended: {found}"
            last = found.subtasks[-1] if found.subtasks else None
            if last is None or (micro_op is not None and last.name != micro_op):
                return None
            return found if last.state == "pending" else None

        found: Task = eventually(begun, why=f"task {task} at {micro_op}")
        return found

    # Faults

    def trigger(self, cmd: str, *args: Any) -> None:
        """DEBUG.trigger; what stays armed is disarmed at the end of the test."""
        given = [str(arg) for arg in args]
        self.client.debug.trigger(cmd, given)
        if cmd in COUNTED or cmd == "set-latency":
            self._armed.append((cmd, given))

    def disarm(self) -> None:
        """Nothing is slow, fails or hangs any more."""
        for cmd, args in self._armed:
            kept = args[2:] if cmd == "hang" else []
            self.client.debug.trigger(cmd, [args[0], "0", *kept])
        self._armed.clear()
        self.client.debug.trigger("undeaf", [])

    # Ends

    def close(self) -> None:
        """Remove what the test has made; nothing of it may be left."""
        self.disarm()
        for id in self._made:
            self.remove(id)
        self.client.close()

    def remove(self, id: str) -> None:
        """Shut a VM down hard, remove it, and find nothing of it left."""
        try:
            self.run(self.client.vm.shutdown(id))
            self.client.vm.remove(id)
        except DoesNotExist:
            return
        assert not self.client.vm.exists(id)
        left = [*residue(self.daemon, id), *self.layers(id)]
        assert not left, f"left of {id}: {left}"

    def restart(self, **environ: str) -> None:
        """Kill the daemon, start it again, and wait until it has recovered."""
        self.client.close()
        self.daemon.kill()
        self.daemon.start(environ)
        self.daemon.recovered()

    # Looking at the world

    def domain(self, id: str) -> dict[str, Any] | None:
        """The VM's domain, as it stands in the world."""
        return domain_of(self.daemon, id)

    @contextmanager
    def untouched(self, id: str) -> Iterator[None]:
        """Fails where what is done meanwhile changes anything of a VM but its age."""
        before = self._all_of(id)
        yield
        eventually(lambda: self._idle(id), why=f"{id} has nothing to do")
        assert self._all_of(id) == before

    def _all_of(self, id: str) -> list[Any]:
        record = plain(self.stat(id))
        del record["state"]["observed_at"]
        metadata = plain(self.client.vm.export_metadata(id))
        (metadata["extra"] or {}).pop("observed_at", None)
        devices = [plain(listed) for listed in _listed(self.client, id)]
        return [record, metadata, devices, self.domain(id), plugged(self.daemon, id)]

    def layers(self, id: str) -> list[str]:
        """The names of its layers."""
        directory = self.daemon.world / "layers" / id
        return sorted(path.name for path in directory.iterdir()) if directory.exists() else []

    def sensible(self, id: str, *states: str) -> str:
        """Fails unless the VM is sensible, in one of these states if any are given, and the
        world is what the daemon says; answers the state."""
        eventually(lambda: self._idle(id), why=f"{id} has nothing to do")
        found = check_sensible(self.daemon, self.client, id)
        assert not states or found in states, f"{found}, not {states}: {self.stat(id)}"
        return found

    def _idle(self, id: str) -> bool:
        """Nothing goes on, checks included, which queue_depth does not count."""
        queues = self.client.host.get_diagnostics().queues
        return self.stat(id).state.operation is None and id not in [q.vm for q in queues]


def disk(vm: str, name: str, backend: Local, **fields: Any) -> Vbd:
    """A VBD."""
    return Vbd(id=f"{vm}/{name}", backend=backend, **fields)


def domain_of(daemon: DaemonProcess, id: str) -> dict[str, Any] | None:
    """The VM's domain, read as an outsider does: again where a write was caught halfway."""
    path = daemon.world / "domains" / f"{id}.json"

    def read() -> list[Any]:
        try:
            text = path.read_bytes()
            return [json.loads(text)["domain"] if text.strip() else None]
        except FileNotFoundError:
            return [None]
        except ValueError:
            return []

    found: dict[str, Any] | None = eventually(read, why=f"{path} can be read")[0]
    return found


def plugged(daemon: DaemonProcess, id: str) -> list[str]:
    """What is plugged for a VM, whichever instance says so."""
    found = (daemon.world / "plugged").glob(f"*/{id}/*")
    return sorted(path.name for path in found if not path.name.startswith("."))


def residue(daemon: DaemonProcess, id: str) -> list[str]:
    """What a halted VM may not have: a domain, something plugged, a layer of an incarnation."""
    found = plugged(daemon, id)
    if domain_of(daemon, id) is not None:
        found.append(f"domain of {id}")
    for path in (daemon.world / "layers" / id).glob("*@*.json"):
        if not path.name.endswith("@suspended.json"):
            found.append(path.name)
    return found


def check_sensible(daemon: DaemonProcess, client: Client, id: str) -> str:
    """Fails unless the VM is sensible and the world is what the daemon says."""
    record = client.vm.stat(id)
    state = record.state
    assert state.attention is None, f"{id}: {state.attention}"
    # The journal is crossed out a moment after the task has ended.
    eventually(lambda: _crossed_out(daemon, client, id), why=f"the journal of {id} is empty")
    match state.power_state:
        case PowerState.RUNNING | PowerState.PAUSED:
            _check_live(daemon, client, record)
        case PowerState.HALTED | PowerState.SUSPENDED:
            assert not residue(daemon, id), f"left of {id}: {residue(daemon, id)}"
            assert state.domain_ids == [], f"{id} has no domain, and yet {state.domain_ids}"
            assert state.incarnation is None
            _check_unplugged(client, id)
            _check_image(daemon, client, id, suspended=state.power_state == PowerState.SUSPENDED)
    return str(state.power_state)


def _crossed_out(daemon: DaemonProcess, client: Client, id: str) -> bool:
    journal = daemon.state_dir / "vm" / id / "journal"
    open_intents = [intent for intent in client.host.get_diagnostics().journal if intent.vm == id]
    return not open_intents and (not journal.exists() or journal.stat().st_size == 0)


def _check_live(daemon: DaemonProcess, client: Client, record: VmRecord) -> None:
    id, state = record.id, record.state
    domain = domain_of(daemon, id)
    assert domain is not None, f"{id} is {state.power_state} and has no domain"
    assert domain["vm"] == id
    assert domain["incarnation"] == state.incarnation
    assert [domain["id"]] == state.domain_ids
    assert domain.get("built"), f"{id} is not built"
    assert domain.get("stopped") is None, f"{id} has stopped: {domain['stopped']}"
    assert domain.get("paused", True) == (state.power_state == PowerState.PAUSED)
    devices = _devices(client, id)
    shown = {name for name, present in devices.items() if present}
    in_domain = {
        f"{kind}:{device.partition('/')[2]}"
        for kind, shelf in (("vbd", "vbds"), ("vif", "vifs"), ("pci", "pcis"))
        for device in domain.get(shelf, {})
    }
    assert shown == in_domain, f"{id}: shown {shown}, in the domain {in_domain}"
    entries = {f"{name}@{state.incarnation}" for name in shown}
    assert set(plugged(daemon, id)) == entries, f"{id}: {plugged(daemon, id)} for {entries}"


def _check_unplugged(client: Client, id: str) -> None:
    present = [name for name, present in _devices(client, id).items() if present]
    assert not present, f"{id} has no domain, and yet {present} show as plugged"


def _check_image(daemon: DaemonProcess, client: Client, id: str, *, suspended: bool) -> None:
    extra = client.vm.export_metadata(id).extra or {}
    image = extra.get("image")
    if not suspended:
        assert image is None, f"{id} is halted and has an image: {image}"
        own = daemon.state_dir / "suspend" / f"{id}.image"
        assert not own.exists(), f"{id} is halted and {own} is left"
        return
    assert image is not None
    assert not image.get("spent"), f"{id}: its image is spent"
    assert Path(image["path"]).exists(), f"{id}: its image is gone"


def _devices(client: Client, id: str) -> dict[str, bool]:
    """KIND:NAME of each device, and whether it shows as plugged."""
    kinds = zip(("vbd", "vif", "pci"), _listed(client, id), strict=True)
    return {
        f"{kind}:{d.id.partition('/')[2]}": d.state.plugged for kind, found in kinds for d in found
    }


def _listed(client: Client, id: str) -> Iterable[Any]:
    return client.vbd.list(id), client.vif.list(id), client.pci.list(id)


def check_memory(daemon: DaemonProcess, client: Client, total: int) -> None:
    """Fails unless exactly the domains of the world have memory reserved, with nothing going on."""
    ids = [path.stem for path in (daemon.world / "domains").glob("*.json")]
    domains = [domain for id in ids if (domain := domain_of(daemon, id)) is not None]
    held = sum(max(d["memory_target"], d.get("memory_actual", 0)) for d in domains)
    free = client.host.stat().memory_free
    assert free == total - held, f"{total - free} bytes are reserved, domains have {held}"


def plain(value: Any) -> Any:
    """A typed value as the JSON that it travels as."""
    return json.loads(msgspec.json.encode(value))


def raises(kind: type[E], call: Callable[[], Any]) -> E:
    """The error, of exactly this class, that a call is answered with."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return caught.value
