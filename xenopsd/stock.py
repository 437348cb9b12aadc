"""What exists on the host: our domains by mark and record, and all else, which is foreign.

It looks, and never touches; what it finds changed becomes a check of that VM.
"""

import threading
import time
from collections.abc import Iterator, Sequence

import structlog
from msgspec.structs import replace

from backends.interface import Backend, Domain
from idl.errors import XenopsError
from idl.host import ForeignDomain
from idl.vm import VmMetrics
from xenopsd.executor import Executor
from xenopsd.state import State

log = structlog.get_logger(__name__)

#: Seconds between looks at the host.
OBSERVE = 10.0


class Stock:
    """The domains of the host as they were last seen."""

    def __init__(self, executor: Executor, state: State) -> None:
        self._executor = executor
        self._state = state
        self._inventory = executor.context.inventory
        self._memory = executor.context.memory
        self._lost: set[str] = set()
        #: Our domains that have a record, by VM.
        self.found: dict[str, Domain] = {}

    def retake(self, backend: Backend) -> None:
        """Take it again; what cannot be seen now is seen later."""
        try:
            self.take(backend.host.domains())
        except XenopsError as error:
            log.warning("host_not_observed", error=str(error))

    def take(self, domains: Sequence[Domain]) -> None:
        """What exists: ours by mark and record, all else foreign."""
        foreign: list[ForeignDomain] = []
        found: dict[str, Domain] = {}
        lost: set[str] = set()
        for domain in domains:
            ours = domain.instance == self._state.instance and domain.vm is not None
            if ours and domain.vm is not None and self._inventory.get(domain.vm) is not None:
                found[domain.vm] = domain
                continue
            if ours and domain.vm is not None:
                self._memory.set(domain.vm, domain.memory_held)
                lost.add(domain.vm)
            why = "no record of this instance has it" if ours else "it bears no mark of this one"
            foreign.append(ForeignDomain(id=domain.id, name=domain.name, why=why))
        self._state.foreign = foreign
        self.found = found
        for vm in self._lost - lost:
            if self._inventory.get(vm) is None:
                self._memory.release(vm)
        self._lost = lost

    def observe(self, backend: Backend, ending: threading.Event) -> None:
        """Every few seconds: counters of running VMs, and a look for what no event told of."""
        while not ending.wait(OBSERVE):
            try:
                self.take(backend.host.domains())
            except XenopsError as error:
                log.warning("host_not_observed", error=str(error))
                continue
            for entry in self._inventory:
                differs = _differs(entry.domain, self.found.get(entry.id))
                if entry.running is None and (differs or entry.contested is not None):
                    self._executor.check(entry.id)
            self._state.vm_metrics = dict(self._sample(backend))

    def _sample(self, backend: Backend) -> Iterator[tuple[str, VmMetrics]]:
        for id in self.found:
            try:
                yield id, replace(backend.host.metrics(id), observed_at=time.time())
            except XenopsError as error:
                log.debug("metrics_missing", vm=id, error=str(error))


def _differs(known: Domain | None, found: Domain | None) -> bool:
    """Whether what was observed is another domain, or one that has stopped since."""
    if known is None or found is None:
        return known is not found
    return (known.incarnation, known.stopped) != (found.incarnation, found.stopped)
