"""A VM with devices, its domains and its records, as values to plan and reconcile with."""

from typing import Any

import msgspec

from backends.interface import Domain, PluggedVbd, PluggedVif
from idl.host import FEATURES
from idl.metadata import Metadata
from idl.pci import Pci
from idl.vbd import Local, Vbd
from idl.vif import Bridge, Vif
from idl.vm import PowerState, Vm
from xenopsd.plan.plan import Limits, Snapshot
from xenopsd.record import Image, VmExtra

MIB = 2**20
NOW = 1_000_000.0
OLD, FRESH = "incarnation-old", "incarnation-fresh"
IMAGE, OTHER_IMAGE = "/state/suspend/vm1.image", "/elsewhere/vm1.image"

VM = Vm(
    id="vm1",
    memory_static_max=512 * MIB,
    memory_dynamic_max=512 * MIB,
    memory_dynamic_min=256 * MIB,
    vcpu_max=4,
    vcpus=2,
    xsdata={"key": "old"},
)
ISO = Local(path="/images/iso")
#: By position: data, root, cd; writable ones first: data, root, cd again but `base` before.
BASE = Vbd(id="vm1/base", position=0, mode="ro", backend=Local(path="/images/base"))
ROOT = Vbd(id="vm1/root", position=2, backend=Local(path="/images/root"))
DATA = Vbd(id="vm1/data", position=1, backend=Local(path="/images/data"))
CD = Vbd(id="vm1/cd", position=3, mode="ro", type="cdrom", backend=ISO)
ETH0 = Vif(id="vm1/eth0", position=0, backend=Bridge(name="xenbr0"))
ETH1 = Vif(id="vm1/eth1", position=1, backend=Bridge(name="xenbr0"))
CARD0 = Pci(id="vm1/card0", position=0, address="0000:00:01.0")
CARD1 = Pci(id="vm1/card1", position=1, address="0000:00:02.0")

#: Recorded in an order that no plan may follow.
META = Metadata(
    vm=VM,
    vbds=[BASE, CD, ROOT, DATA],
    vifs=[ETH1, ETH0],
    pcis=[CARD1, CARD0],
)
BARE = Metadata(vm=VM)


def domain(meta: Metadata = META, **fields: Any) -> Domain:
    """A running domain with every device of `meta` in it, in the order in which a start plugs."""
    vbds = sorted(meta.vbds, key=lambda v: (v.mode == "ro", v.position or 0))
    vifs = sorted(meta.vifs, key=lambda v: v.position or 0)
    pcis = sorted(meta.pcis, key=lambda p: p.position or 0)
    usual = Domain(
        id="7",
        name="vm1",
        vm="vm1",
        instance="default",
        incarnation=OLD,
        built=True,
        paused=False,
        vcpu_seconds=5.0,
        vcpus=2,
        memory_target=512 * MIB,
        memory_actual=512 * MIB,
        memory_limit=512 * MIB,
        device_model=True,
        vbds={v.id: PluggedVbd(medium=v.backend) for v in vbds},
        vifs={v.id: PluggedVif(device=f"vif7.{v.position}") for v in vifs},
        pcis=[p.id for p in pcis],
    )
    return msgspec.structs.replace(usual, **fields)


HALTED = VmExtra()
RUNNING = VmExtra(
    incarnation=OLD,
    boot="boot",
    settled=True,
    running=VM,
    power_state=PowerState.RUNNING,
    reason="started",
    last_start_time=NOW - 3600,
)
PAUSED = msgspec.structs.replace(RUNNING, power_state=PowerState.PAUSED)


def suspended(meta: Metadata = META, *, spent: bool = False) -> VmExtra:
    """The record of a suspended VM, everything of `meta` plugged at the time."""
    plugged = [d.id for d in (*meta.vbds, *meta.vifs, *meta.pcis)]
    return VmExtra(
        boot="boot",
        running=meta.vm,
        image=Image(path=IMAGE, incarnation=OLD, plugged=plugged, spent=spent),
        power_state=PowerState.SUSPENDED,
        reason="suspended",
    )


def snapshot(
    state: str = "running", *, meta: Metadata = META, features: frozenset[str] = FEATURES, **fields: Any
) -> Snapshot:
    """The VM halted, running, paused, suspended, stopped (not yet looked at) or a shell."""
    domains = {
        "running": domain(meta),
        "paused": domain(meta, paused=True),
        "stopped": domain(meta, stopped="poweroff"),
        "shell": domain(BARE, built=False, paused=True, device_model=False, vcpu_seconds=0.0),
    }
    extras = {"halted": HALTED, "suspended": suspended(meta), "paused": PAUSED, "shell": PAUSED}
    usual: dict[str, Any] = {
        "meta": meta,
        "extra": extras.get(state, RUNNING),
        "domain": domains.get(state),
        "fresh": FRESH,
        "image": IMAGE,
        "core": "/state/cores/vm1.core",
        "backend": "simulator",
        "features": features,
        "limits": Limits(shutdown_ack=60.0, crash_window=120.0, reboot_delay=15.0),
        "now": NOW,
    }
    return Snapshot(**{**usual, **fields})
