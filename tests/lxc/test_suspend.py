"""Suspend where CRIU does not work: the host says why, and nothing is begun."""

import pytest
from rigs.containers import container_host

from idl.errors import Unimplemented
from idl.vm import PowerState


@pytest.fixture
def host():
    with container_host() as found:
        yield found


def test_a_host_that_cannot_suspend_says_why_at_once(host):
    stat = host.client.host.stat()
    reason = stat.facts.get("suspend")
    if reason is None:
        pytest.skip("CRIU works here: tests/rig suspends")
    host.start("web", "while :; do sleep 1; done")
    with pytest.raises(Unimplemented) as refused:
        host.run(host.client.vm.suspend("web"))
    assert refused.value.facts() == {"what": f"suspend ({reason})", "backend": "lxc"}
    assert host.state("web").power_state == PowerState.RUNNING
