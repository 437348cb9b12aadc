"""Memory moved between VMs: squeezed out of running ones for a start, and given back after.

Targets are set on a queue of the host's own: through the VMs' queues two starts would wait on
each other.
"""

import structlog

from idl.errors import NotEnoughMemory, XenopsError
from xenopsd import microop
from xenopsd.execution import BackendCall, Balance, Execution
from xenopsd.executor import Executor
from xenopsd.inventory import Entry
from xenopsd.memory import Balloon, squeeze, stretch

log = structlog.get_logger(__name__)

HOST_MEMORY = "host/memory"


class Ballooning:
    """Finds room for VMs that start, and uses the room of those that stopped."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._context = executor.context
        #: Some running VM may have less memory than it could.
        self._squeezed = True

    def reserve(self, vm: str, minimum: int, maximum: int) -> int | None:
        """Bytes granted of the range; None while others are being squeezed for it.

        Raises NotEnoughMemory.
        """
        granted = self._context.memory.reserve(vm, minimum, maximum)
        if granted is not None:
            self._squeezed = self._squeezed or granted < maximum
            return granted
        free = self._context.memory.free
        targets = squeeze(minimum - free, self._balloons(except_for=vm))
        if targets is None:
            spare = sum(b.target - b.minimum for b in self._balloons(except_for=vm).values())
            raise NotEnoughMemory(needed=minimum, free=free + max(0, spare))
        self._squeezed = True
        self._send(targets)
        return None

    def release(self, vm: str) -> None:
        """A domain is gone: what it had may go back to those that were squeezed."""
        self._context.memory.release(vm)
        if not self._squeezed:
            return
        self._squeezed = False
        balloons = self._balloons(except_for=vm)
        if any(b.target < b.maximum for b in balloons.values()):
            self._squeezed = True
            targets = stretch(self._context.memory.free, balloons)
            if targets:
                self._send(targets)

    def _send(self, targets: dict[str, int]) -> None:
        self._executor.enqueue(Execution(Balance(targets), HOST_MEMORY))

    def _balloons(self, *, except_for: str) -> dict[str, Balloon]:
        """VMs that may be ballooned now: running, with nothing going on."""
        if "balloon" not in self._context.performer.backend.features:
            return {}
        found: dict[str, Balloon] = {}
        for entry in self._context.inventory:
            domain, running = entry.domain, entry.extra.running
            idle = entry.running is None and entry.attention is None
            if entry.id == except_for or domain is None or running is None or not idle:
                continue
            if domain.paused or domain.stopped or domain.uncooperative_balloon:
                continue
            vm = entry.meta.vm if entry.meta else running
            # More than it was started with it cannot have, whatever its record says by now.
            most = min(vm.memory_dynamic_max, domain.memory_limit or vm.memory_dynamic_max)
            found[entry.id] = Balloon(domain.memory_target, vm.memory_dynamic_min, most)
        return found

    def balance(self, request: Balance, execution: Execution) -> None:
        """Set balloon targets, past the VMs' queues: two starts would wait on each other."""
        for id, target in request.targets.items():
            entry = self._context.inventory.get(id)
            if entry is None or entry.running is not None or entry.meta is None:
                continue
            try:
                self._set_target(execution, entry, target)
            except XenopsError as error:
                log.warning("balloon_failed", vm=id, target=target, error=str(error))

    def _set_target(self, execution: Execution, entry: Entry, target: int) -> None:
        """Bring one VM's balloon to a target, outside its queue. Raises XenopsError."""
        was = entry.domain.memory_target if entry.domain else target
        op = microop.VmSetMemory(target=target, was=was)
        seconds = self._context.deadlines.short
        call = BackendCall(
            execution,
            microop.name(op),
            entry.extra.incarnation or "",
            self._context.clock() + seconds,
            seconds=seconds,
            progress=lambda _fraction: None,
            clock=self._context.clock,
        )
        self._context.performer.perform(entry, op, call)
        # What is observed is written by the holder of the VM's lease alone.
        self._executor.check(entry.id)
