"""What somebody has damaged in the run directory costs its own container."""

from collections.abc import Iterator

import pytest
from rigs.containers import ContainerHost, container_host


@pytest.fixture
def host() -> Iterator[ContainerHost]:
    with container_host() as found:
        yield found


def test_a_damaged_record_costs_its_own_vm(host):
    host.start("whole")
    host.start("torn", "exec sleep 1000000")
    (host.daemon.run_dir / "lxc" / "stray").touch()
    (host.daemon.run_dir / "lxc" / "default" / "torn" / "domain.json").write_bytes(b"{")
    group = host.group("torn")
    processes = group.pids()
    host.daemon.kill()
    host.daemon.start()
    host.daemon.recovered()
    assert host.state("whole").power_state == "running"
    assert host.state("whole").attention is None
    attention = host.state("torn").attention
    assert attention is not None
    assert "domain.json" in attention.reason
    # In doubt nothing is touched.
    assert group.pids() == processes
    host.run(host.client.vm.shutdown("torn"))
    assert host.state("torn").power_state == "halted"
    assert not group.populated()
    host.run(host.client.vm.start("torn"))
    assert host.state("torn").attention is None
