"""Some points of the sweep of containers (`make sweep-lxc` does them all), and that it notices
what it should."""

import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest
from crash.bench import Case
from crash.containers.cases import OPERATIONS
from crash.containers.lab import ContainerLab, opened

BY_NAME = {operation.name: operation for operation in OPERATIONS}

CASES = (
    Case(BY_NAME["VM.start"], "vif_plug:after,1"),
    Case(BY_NAME["VM.start"], "vm_unpause:after,1"),
    Case(BY_NAME["VM.shutdown hard"], "vm_destroy:before,1"),
    Case(BY_NAME["VBD.plug"], "vbd_plug:after,1"),
    Case(BY_NAME["guest reboots"], "vm_destroy:after,1"),
)


@pytest.fixture(scope="module")
def lab() -> Iterator[ContainerLab]:
    with opened(ContainerLab) as lab:
        yield lab


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_crash_leaves_what_the_interface_promises(lab: ContainerLab, case: Case):
    assert lab.carry_out(case).failure == ""


def test_what_is_left_over_is_noticed(lab: ContainerLab):
    operation = BY_NAME["VM.pause"]
    device = f"l{lab.instance[1:]}"
    mark = lab.outside.names.mark("vm-gone", "life")

    def prepare(bed):
        operation.prepare(bed)
        subprocess.run(["ip", "link", "add", device, "type", "bridge"], check=True)
        subprocess.run(["ip", "link", "set", device, "alias", f"{mark} net"], check=True)

    try:
        failure = lab.carry_out(Case(replace(operation, prepare=prepare))).failure
    finally:
        subprocess.run(["ip", "link", "delete", device], check=False)
    assert "interface of xenopsd" in failure
