"""What `xenops wait` says when it gives up."""

import pytest

from idl.vm import Attention, PowerState, Vm, VmRecord, VmState

DOUBT = Attention(reason="two domains", since=0.0)


@pytest.mark.parametrize(
    ("goal", "state", "told"),
    [
        pytest.param(
            "halted",
            VmState(power_state=PowerState.RUNNING),
            "VM web is running: waiting for it to be halted took longer than 0 s",
            id="a power state",
        ),
        pytest.param(
            "agent",
            VmState(power_state=PowerState.PAUSED, attention=DOUBT),
            "VM web is paused, and needs attention (two domains): waiting for its agent to answer"
            " took longer than 0 s",
            id="the agent of a VM in doubt",
        ),
    ],
)
def test_it_says_where_the_vm_is_and_what_it_waited_for(
    daemon, xenops, goal: str, state: VmState, told: str
):
    record = VmRecord(id="web", config=Vm(id="web"), state=state, pending={})
    daemon.answers |= {"UPDATES.last_id": "t.1", "VM.stat": record}
    found = xenops("wait", "web", "--for", goal, "--timeout", "0")
    assert (found.exit_code, told in found.stderr) == (4, True)
