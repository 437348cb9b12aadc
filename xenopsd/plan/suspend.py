"""Suspend and resume. Pure.

The order is what makes them safe: an image counts from `vm_commit_image` on, before the
domain goes; it is spent, durably, before the first vCPU of its successor runs.
"""

from idl.calls import VmResume, VmSuspend
from idl.errors import ImageInvalid, Unimplemented
from idl.vm import PowerState
from xenopsd import microop
from xenopsd.microop import MicroOp
from xenopsd.plan.lifecycle import pci_plugs, plugs, tear_down
from xenopsd.plan.plan import Plan, Segment, Snapshot


def suspend(call: VmSuspend, snapshot: Snapshot) -> Plan:
    """VM.suspend."""
    if "suspend" not in snapshot.features:
        reason = snapshot.lacking.get("suspend")
        what = "suspend" if reason is None else f"suspend ({reason})"
        raise Unimplemented(what=what, backend=snapshot.backend)
    snapshot.require(PowerState.RUNNING)
    domain = snapshot.require_domain()
    image = call.image or snapshot.image
    plugged = [*domain.vbds, *domain.vifs, *domain.pcis]
    save = Segment(
        incarnation=domain.incarnation,
        steps=[
            *snapshot.scripts("vm-pre-suspend", "suspend"),
            microop.VmSave(image=image),
            microop.VmCommitImage(image=image, plugged=plugged),
        ],
    )
    post = snapshot.scripts("vm-post-suspend", "suspend", tolerant=True)
    return Plan(reason="suspended", segments=[save, tear_down(snapshot, hooks=post)])


def resume(call: VmResume, snapshot: Snapshot) -> Plan:
    """VM.resume."""
    snapshot.require(PowerState.SUSPENDED)
    recorded = snapshot.extra.image
    assert recorded is not None
    image = call.image or recorded.path
    if recorded.spent:
        raise ImageInvalid(path=image, reason="its memory has run on since it was written")
    run: list[MicroOp] = [] if call.paused else [microop.VmUnpause()]
    bring_back: list[MicroOp] = [
        microop.VmCheckImage(image=image),
        *snapshot.scripts("vm-pre-resume", "none"),
        microop.VmCreate(),
        # Devices first: what comes back from an image has their files and sockets open.
        *plugs(snapshot, recorded.plugged),
        microop.VmRestore(image=image),
        microop.VmCreateDeviceModel(),
        *[op for op in pci_plugs(snapshot) if microop.subject(op, "") in recorded.plugged],
        microop.VmSpendImage(image=image),
    ]
    finish: list[MicroOp] = [
        *run,
        microop.VmDropImage(image=image),
        *snapshot.scripts("vm-post-resume", "none", tolerant=True),
    ]
    return Plan(
        reason="resumed",
        segments=[
            Segment(incarnation=snapshot.fresh, steps=bring_back),
            Segment(incarnation=snapshot.fresh, steps=finish, finish=True),
        ],
    )
