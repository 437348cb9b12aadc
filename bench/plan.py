"""How much is measured: in full, or just enough to see that every scenario works."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Plan:
    """`directory`: where servers may write. `sizes`: numbers of VMs, for the curves."""

    directory: Path
    vms: int = 1000
    rounds: int = 5
    calls: int = 4000
    churn: int = 30
    is_quick: bool = False
    sizes: tuple[int, ...] = (10, 100, 1000, 5000, 10_000)


def quick(directory: Path) -> Plan:
    """For a smoke test: seconds, and figures that mean nothing."""
    return Plan(directory, vms=20, rounds=1, calls=50, churn=2, sizes=(5, 10), is_quick=True)
