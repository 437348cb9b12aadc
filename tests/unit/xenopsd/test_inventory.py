"""What is known of each VM, and that what is cached of it is never stale."""

import threading
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from rigs.values import (
    CARD0,
    CD,
    ETH0,
    META,
    OLD,
    ROOT,
    RUNNING,
    VM,
    domain,
    suspended,
)

from backends.interface import PluggedVbd
from idl.errors import DoesNotExist, MetadataCorrupt
from idl.vbd import VbdState
from idl.vif import VifState
from idl.vm import Attention, Console, PowerState, VmRecord
from journal.disk import RealDisk
from journal.intents import VmJournal
from journal.store import Damage
from xenopsd.inventory import Entry, Inventory


@pytest.fixture
def entry(tmp_path):
    made = Entry("vm1", VmJournal(RealDisk(), tmp_path / "journal"))
    made.meta = META
    return made


def decoded(entry):
    return msgspec.json.decode(entry.encoded(), type=VmRecord)


def test_until_it_is_observed_a_vm_is_as_it_was_recorded(entry):
    entry.extra = replace(RUNNING, observed_at=50.0)
    state = entry.state()
    assert (state.power_state, state.observed_at) == (PowerState.RUNNING, 50.0)
    assert state.domain_ids == []


def test_once_it_is_observed_a_vm_is_as_it_is(entry):
    entry.extra, entry.observed_at = RUNNING, 60.0
    assert entry.state().power_state is PowerState.HALTED
    entry.domain = domain(
        paused=True, guest_agent={"ip": "10.0.0.1"}, consoles=[Console(protocol="vnc", port=1)]
    )
    state = entry.state()
    assert state.power_state is PowerState.PAUSED
    assert state.domain_ids == ["7"]
    assert (state.incarnation, state.observed_at) == (OLD, 60.0)
    assert (state.vcpu_target, state.guest_agent) == (2, {"ip": "10.0.0.1"})
    assert state.consoles == entry.domain.consoles
    assert state.reason == "started"


def test_between_down_and_up_a_rebooting_vm_is_running(entry):
    entry.extra, entry.observed_at, entry.rebooting = RUNNING, 60.0, True
    assert entry.power_state is PowerState.RUNNING


def test_what_is_cached_is_given_until_something_changes(entry):
    first = entry.encoded()
    assert entry.encoded() is first
    entry.extra = suspended()
    entry.observed_at = 1.0
    entry.changed()
    assert decoded(entry).state.power_state is PowerState.SUSPENDED


def test_what_differs_from_what_runs_is_shown(entry):
    entry.extra, entry.domain, entry.observed_at = RUNNING, domain(), 1.0
    entry.meta = replace(META, vm=replace(VM, vcpu_max=8))
    assert set(decoded(entry).pending) == {"vcpu_max"}


def test_a_damaged_record_shows_no_configuration_and_says_why(entry):
    entry.meta = None
    entry.damaged = (Damage(Path("/state/vm/vm1/config.json"), "cut short"),)
    entry.attention = Attention(reason="cut short", since=1.0)
    found = decoded(entry)
    assert found.config is None
    assert found.state.attention == entry.attention
    with pytest.raises(MetadataCorrupt) as raised:
        entry.metadata()
    assert raised.value.path == "/state/vm/vm1/config.json"
    assert entry.objects() == [("vm", "vm1")]


def test_changes_from_many_threads_are_never_lost_to_the_cache(entry):
    """The last change is in what is read after it, whatever raced with whatever."""
    entry.observed_at = 1.0
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            entry.changed()

    threads = [threading.Thread(target=churn) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(2000):
            entry.extra = replace(entry.extra, reason=str(number))
            entry.changed()
            assert f'"reason":"{number}"'.encode() in bytes(entry.encoded())
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)


# Devices


def test_a_vbd_is_shown_as_it_is_in_the_domain(entry):
    assert entry.vbd(ROOT).state == VbdState(backend_present=ROOT.backend)
    entry.active = frozenset({ROOT.id})
    assert entry.vbd(ROOT).state == VbdState(active=True, backend_present=ROOT.backend)
    entry.domain = domain(vbds={ROOT.id: PluggedVbd(medium=None, detaching=True)})
    assert entry.vbd(ROOT).state == VbdState(active=True, plugged=True, detaching=True)


def test_a_vif_is_shown_as_it_is_in_the_domain(entry):
    assert entry.vif(ETH0).state == VifState()
    entry.domain = domain()
    assert entry.vif(ETH0).state == VifState(
        active=True, plugged=True, device="vif7.0", media_present=True
    )


def test_a_card_is_plugged_or_not(entry):
    assert not entry.pci(CARD0).state.plugged
    entry.domain = domain()
    assert entry.pci(CARD0).state.plugged


# The inventory


def test_a_vm_is_there_until_it_is_dropped(entry):
    inventory = Inventory()
    with pytest.raises(DoesNotExist) as raised:
        inventory.require("vm1")
    assert raised.value.facts() == {"kind": "VM", "id": "vm1"}
    inventory.put(entry)
    assert inventory.require("vm1") is inventory.get("vm1") is entry
    assert (list(inventory), len(inventory)) == ([entry], 1)
    inventory.drop("vm1")
    inventory.drop("vm1")
    assert inventory.get("vm1") is None


def test_it_may_change_while_it_is_gone_through(entry):
    inventory = Inventory()
    inventory.put(entry)
    for found in inventory:
        inventory.drop(found.id)
    assert len(inventory) == 0


@pytest.mark.parametrize(
    ("kind", "id"), [("VBD", CD.id), ("VIF", ETH0.id), ("PCI", CARD0.id)], ids=["VBD", "VIF", "PCI"]
)
def test_a_device_is_found_by_its_vm_and_its_kind(entry, kind, id):
    inventory = Inventory()
    inventory.put(entry)
    assert inventory.device_owner(kind, id) is entry
    others = {"VBD": ETH0.id, "VIF": CARD0.id, "PCI": CD.id}
    for wrong in ("vm1/no", "vm2/root", others[kind], "vm1"):
        with pytest.raises(DoesNotExist) as raised:
            inventory.device_owner(kind, wrong)
        assert raised.value.facts() == {"kind": kind, "id": wrong}


def test_every_object_of_a_vm_is_named(entry):
    assert entry.objects() == [
        ("vm", "vm1"),
        *(("vbd", v.id) for v in META.vbds),
        *(("vif", v.id) for v in META.vifs),
        *(("pci", p.id) for p in META.pcis),
    ]
