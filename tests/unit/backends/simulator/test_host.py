import pytest

from idl.errors import DoesNotExist, HypervisorError


def test_the_machine_is_as_it_was_configured(rig):
    stat = rig.backend.host.stat()
    assert stat.memory_total == 16 * 2**40
    assert stat.hypervisor.name == "simulator"
    assert stat.facts == {"world": str(rig.world)}


def test_the_log_names_the_domains(rig):
    rig.start()
    assert f"domain {rig.domain.id} vm1" in rig.backend.host.console_data()


def test_a_damaged_domain_is_neither_there_nor_not_there(rig):
    rig.start()
    path = rig.world / "domains" / "vm1.json"
    path.write_bytes(path.read_bytes().replace(b"crc32:", b"crc33:"))
    for look in (
        rig.backend.host.domains,
        lambda: rig.backend.host.domain("vm1"),
        lambda: rig.backend.host.leftovers("vm1"),
    ):
        with pytest.raises(HypervisorError):
            look()


def test_what_a_living_domain_has_is_no_leftover(rig):
    rig.start(rig.disk, rig.volatile)
    assert rig.backend.host.leftovers("vm1") == []


def test_metrics_are_of_every_device(rig):
    rig.start(rig.disk)
    rig.backend.vif.plug(rig.call("vif_plug"), rig.vm, rig.vif)
    found = rig.backend.host.metrics("vm1")
    assert list(found.disks) == ["vm1/disk"]
    assert list(found.networks) == ["vm1/eth0"]


def test_what_does_not_run_has_no_metrics(rig):
    with pytest.raises(DoesNotExist):
        rig.backend.host.metrics("vm1")
