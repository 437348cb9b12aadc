"""A VM changes hands between two real daemons, and either dies at every point of that.

Wherever the cut is, exactly one of the two has the VM afterwards, with its layer and the claim,
and it starts there.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from rigs.daemon import DaemonProcess, eventually
from rigs.outside import nothing_of, untidy

from idl.client import Client, ConnectionFailed
from idl.errors import OwnedByAnother, XenopsError
from idl.metadata import Metadata
from idl.vbd import Local, Vbd
from idl.vm import Vm

A_POINTS = (
    *("journal:append,1", "journal:append,2", "vm_pack_layers:before,1", "vm_pack_layers:after,1"),
    *("journal:append,3", "vm_hand_over:before,1", "vm_hand_over:after,1", "journal:append,4"),
    *("vm_remove_record:before,1", "vm_remove_record:after,1"),
)
B_POINTS = (
    *("journal:append,1", "vm_take_layers:before,1", "vm_take_layers:after,1"),
    *("journal:append,2", "journal:end,1"),
)


class Pair:
    """Two daemons of one host, a VM at the first, and what an outsider finds of it."""

    def __init__(self, directory: Path) -> None:
        self.run_dir = directory / "run"
        self.daemons = {name: self._daemon(directory, name) for name in ("a", "b")}
        self.number = 0

    def _daemon(self, directory: Path, name: str) -> DaemonProcess:
        daemon = DaemonProcess(
            directory / name, "--instance", name, "--run-dir", str(self.run_dir)
        )
        daemon.socket = self.run_dir / f"{name}.sock"
        daemon.start({"XENOPSD_KILL_TRACE": str(directory / f"{name}.trace")})
        daemon.recovered()
        return daemon

    def vm(self) -> str:
        """A new one, halted, with a layer that must not be lost."""
        self.number += 1
        id = f"vm-{self.number}"
        base = Local(path="/images/base.qcow2", format="qcow2", overlay=True)
        with self.client("a") as client:
            client.vm.import_metadata(
                Metadata(vm=Vm(id=id, name="precious"), vbds=[Vbd(id=f"{id}/disk", backend=base)])
            )
            client.run(client.vm.start(id))
            client.run(client.vm.shutdown(id))
            eventually(lambda: not client.host.get_diagnostics().queues)
        self.layer("a", id).write_text(self.layer("a", id).read_text() + "\n")
        return id

    def client(self, name: str) -> Client:
        return self.daemons[name].client()

    def layer(self, name: str, id: str) -> Path:
        return self.daemons[name].world / "layers" / id / "disk.json"

    def release(self, id: str) -> None:
        with suppress(ConnectionFailed, XenopsError), self.client("a") as client:
            client.vm.release(id, "b", timeout=60.0)

    def arm(self, name: str, point: str) -> None:
        with self.client(name) as client:
            client.debug.trigger("kill-at", point.split(","))

    def start(self, name: str) -> None:
        self.daemons[name].start()
        self.daemons[name].recovered()

    def quiet(self) -> None:
        for name in self.daemons:
            with self.client(name) as client:
                eventually(lambda: not client.host.get_diagnostics().queues)

    def owner(self, id: str) -> str:
        """Who has it; fails unless exactly one has all of it, and the other nothing."""
        self.quiet()
        found = []
        for name in self.daemons:
            with self.client(name) as client:
                found += [name] if client.vm.exists(id) else []
        assert len(found) == 1, f"{id} is at {found}"
        (owner,) = found
        other = "b" if owner == "a" else "a"
        state = self.daemons[other].state_dir
        # The claim is the owner's, and looked at below.
        left = nothing_of(state, Path("/none"), id, other)
        assert left == [], f"{other} still has {left}"
        assert self.layer(owner, id).read_text().endswith("\n\n"), "its layer went with it"
        claim = json.loads((self.run_dir / "owners" / id).read_text())
        assert claim["instance"] == owner
        for name, daemon in self.daemons.items():
            assert untidy(daemon.state_dir, self.run_dir) == []
            incoming = daemon.state_dir / "incoming"
            assert not incoming.exists() or list(incoming.iterdir()) == [], f"{name} has parcels"
        self._use(owner, other, id)
        return owner

    def _use(self, owner: str, other: str, id: str) -> None:
        with self.client(owner) as client:
            record = client.vm.stat(id)
            assert record.state.attention is None, record.state.attention
            assert (record.state.power_state, record.config.name) == ("halted", "precious")
            client.run(client.vm.start(id))
            client.run(client.vm.shutdown(id))
        with self.client(other) as client, pytest.raises(OwnedByAnother):
            client.vm.add(Vm(id=id))

    def close(self) -> None:
        for daemon in self.daemons.values():
            daemon.remove()


@pytest.fixture(scope="module")
def pair(place: Path) -> Iterator[Pair]:
    found = Pair(place / "release")
    yield found
    found.close()


def test_an_uncut_release_passes_the_points_below(pair: Pair, place: Path):
    traces = {name: place / "release" / f"{name}.trace" for name in ("a", "b")}
    id = pair.vm()
    for trace in traces.values():
        trace.write_bytes(b"")
    pair.release(id)
    pair.quiet()
    passed = {name: trace.read_text().split() for name, trace in traces.items()}
    for name, points in (("a", A_POINTS), ("b", B_POINTS)):
        expected = {point.partition(",")[0] for point in points}
        assert set(passed[name]) == expected
        counts = {int(p.rpartition(",")[2]) for p in points if p.startswith("journal:append")}
        assert passed[name].count("journal:append") == max(counts)
    assert pair.owner(id) == "b"


@pytest.mark.parametrize("point", A_POINTS)
def test_the_giver_dies(pair: Pair, point: str):
    id = pair.vm()
    pair.arm("a", point)
    pair.release(id)
    pair.daemons["a"].wait()
    pair.start("a")
    assert pair.owner(id) == "b", "carried on"


@pytest.mark.parametrize("point", B_POINTS)
def test_the_taker_dies(pair: Pair, point: str):
    id = pair.vm()
    pair.arm("b", point)
    pair.release(id)
    pair.daemons["b"].wait()
    pair.start("b")
    assert pair.owner(id) == "b", "its record was there"


@pytest.mark.parametrize("point", A_POINTS)
@pytest.mark.parametrize("claims", ["claims kept", "claims lost"])
@pytest.mark.parametrize("first", ["a", "b"])
def test_the_giver_dies_and_then_the_host(pair: Pair, point: str, claims: str, first: str):
    """The run directory is a memory's, so its claims go with the host."""
    id = pair.vm()
    pair.arm("a", point)
    pair.release(id)
    pair.daemons["a"].wait()
    pair.daemons["b"].kill()
    if claims == "claims lost":
        for claim in (pair.run_dir / "owners").iterdir():
            claim.unlink()
    pair.start(first)
    pair.start("b" if first == "a" else "a")
    handed = first == "b" or point in A_POINTS[A_POINTS.index("vm_hand_over:after,1") :]
    assert pair.owner(id) == ("b" if handed else "a")


def test_layers_that_could_not_be_taken_wait_for_the_next_operation(pair: Pair):
    id = pair.vm()
    with pair.client("b") as client:
        client.debug.trigger("fail", ["vm_take_layers", "1"])
    pair.release(id)
    # It has the record, and its layers wait in their parcel: whatever comes next takes them.
    with pair.client("b") as client:
        client.run(client.vm.start(id))
        client.run(client.vm.shutdown(id))
    assert pair.owner(id) == "b"
