"""The planner's table: which plan each operation has. Pure."""

from idl import calls
from idl.calls import Operation
from idl.errors import Unimplemented
from xenopsd import microop
from xenopsd.plan import devices, lifecycle, suspend
from xenopsd.plan.plan import Plan, Segment, Snapshot


def plan(operation: Operation, snapshot: Snapshot) -> Plan:  # noqa: PLR0911, PLR0912, C901  # a table
    """The micro-ops that carry an operation out, for the VM as it is now.

    Raises the errors that VM's state or records call for; then nothing has been touched.
    """
    match operation:
        case calls.VmStart():
            return lifecycle.start(operation, snapshot)
        case calls.VmShutdown():
            return lifecycle.shutdown(operation, snapshot)
        case calls.VmReboot():
            return lifecycle.reboot(operation, snapshot)
        case calls.VmPause():
            return lifecycle.pause(snapshot)
        case calls.VmUnpause():
            return lifecycle.unpause(snapshot)
        case calls.VmDelay():
            return lifecycle.delay(operation, snapshot)
        case calls.VmCreate() | calls.VmBuild() | calls.VmCreateDeviceModel() | calls.VmDestroy():
            return lifecycle.single(operation, snapshot)
        case calls.VmSuspend():
            return suspend.suspend(operation, snapshot)
        case calls.VmResume():
            return suspend.resume(operation, snapshot)
        case calls.VbdPlug() | calls.VifPlug() | calls.PciPlug():
            return devices.plug(operation, snapshot)
        case calls.VbdUnplug() | calls.VifUnplug() | calls.PciUnplug():
            return devices.unplug(operation, snapshot)
        case calls.VbdInsert():
            return devices.insert(operation, snapshot)
        case calls.VbdEject():
            return devices.eject(operation, snapshot)
        case (
            calls.VifMove()
            | calls.VifSetCarrier()
            | calls.VifSetLockingMode()
            | calls.VifSetIpv4Configuration()
            | calls.VifSetIpv6Configuration()
            | calls.VifSetRate()
        ):
            return devices.set_vif(operation, snapshot)
        case calls.VmSetVcpus():
            return devices.set_vcpus(operation, snapshot)
        case calls.VmSetMemoryDynamicRange():
            return devices.set_memory(operation, snapshot)
        case calls.VmSetXsdata():
            return devices.set_xsdata(operation, snapshot)
        case calls.VmForget():
            return Plan(segments=[Segment(finish=True, steps=[microop.VmRemoveRecord()])])
        case _:
            raise Unimplemented(what=operation.method, backend=snapshot.backend)
