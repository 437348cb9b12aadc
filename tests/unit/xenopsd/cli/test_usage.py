"""What VMs use, in columns."""

import pytest

from idl.vm import PowerState, Vm, VmMetrics, VmRecord, VmState
from xenopsd.cli.output import Output
from xenopsd.cli.usage import TITLES, columns, shown

USED = VmMetrics(
    id="web",
    observed_at=150.0,
    cpu_seconds=75.0,
    memory=3 << 20,
    disks={"web/a": {"read_bytes": 1024, "write_bytes": 1024}, "web/b": {"read_bytes": 1024}},
    networks={"web/n": {"rx_bytes": 512, "tx_bytes": 1 << 20}},
)


def record(state: PowerState = PowerState.RUNNING, began: float | None = 100.0) -> VmRecord:
    ids = [] if state is PowerState.HALTED else ["1"]
    found = VmState(
        power_state=state, domain_ids=ids, last_start_time=began, memory_target=64 << 20
    )
    return VmRecord(id="web", config=Vm(id="web"), state=found)


def row(found: VmRecord, *used: VmMetrics) -> list[str]:
    return [column.text(found) for column in columns({one.id: one for one in used})]


def test_use_is_told_since_the_start():
    assert row(record(), USED) == ["150.0%", "3 MiB of 64 MiB", "3 KiB", "1 MiB"]


@pytest.mark.parametrize(
    ("found", "used"),
    [
        pytest.param(record(), [], id="nothing is known of it"),
        pytest.param(record(), [VmMetrics(id="web")], id="not read yet"),
        pytest.param(record(began=151.0), [USED], id="read before its start"),
        pytest.param(record(PowerState.HALTED), [USED], id="it does not run any more"),
        pytest.param(record(began=None), [USED], id="it never ran"),
    ],
)
def test_nothing_is_told_of_what_is_not_known(found, used):
    assert row(found, *used) == ["", "", "", ""]


@pytest.mark.parametrize(
    ("output", "asks"),
    [
        (Output(), False),
        (Output("wide"), True),
        (Output("wide", ("VM", "NAME")), False),
        (Output("table", ("VM", "CPU")), True),
        (Output("json"), False),
        (Output("name"), False),
    ],
)
def test_it_is_asked_for_where_it_is_shown(output, asks):
    assert shown(output) is asks
    assert tuple(column.title for column in columns({})) == TITLES
