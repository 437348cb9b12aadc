"""VMs by the thousand: added, started, shut down, each call seen to its end."""

import time
from collections.abc import Sequence

from bench.wire import Call, Connection


def vm_ids(count: int) -> list[str]:
    return [f"vm-{n}" for n in range(count)]


def add(client: Connection, ids: Sequence[str]) -> None:
    """Halted VMs with a VBD and a VIF each."""
    client.pipeline([("VM.import_metadata", {"metadata": _metadata(id)}) for id in ids])


def operate(client: Connection, method: str, ids: Sequence[str]) -> float:
    """One operation on each VM, pipelined; the seconds until each was seen completed.

    RuntimeError where one was not.
    """
    began = time.perf_counter()
    tasks = client.pipeline([(method, {"id": id}) for id in ids])
    waits: list[Call] = [("TASK.wait", {"id": task, "timeout": 100.0}) for task in tasks]
    ended = client.pipeline(waits)
    seconds = time.perf_counter() - began
    for task in ended:
        if task["state"]["type"] != "completed":
            raise RuntimeError(f"{method} did not complete: {task}")
    return seconds


def _metadata(id: str) -> dict[str, object]:
    disk = {"type": "local", "path": f"/images/{id}", "format": "raw"}
    return {
        "vm": {"id": id},
        "vbds": [{"id": f"{id}/disk", "backend": disk}],
        "vifs": [{"id": f"{id}/nic", "backend": {"type": "bridge", "name": "br0"}}],
    }
