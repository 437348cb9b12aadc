"""Another instance of this host, as this one talks to it: a client like any other."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from idl.client import AnswerTimeout, Client, ConnectionFailed
from idl.errors import InvalidParameter, MigrationFailed
from idl.metadata import Metadata

#: Seconds for an answer that needs no queue, and for which one that gave none is not asked again.
PROMPT = 2.0
DEAF = 10.0


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An instance that answers: its backend, and where its state is."""

    instance: str
    backend: str
    state_dir: str


@dataclass(slots=True)
class Neighbourhood:
    """The instances of a run directory."""

    run_dir: Path
    clock: Callable[[], float] = time.monotonic
    #: Until when they are not asked: a worker waits for each answer, and operations need workers.
    _deaf: dict[str, float] = field(default_factory=dict)

    def find(self, instance: str) -> Neighbour:
        """Ask an instance what it is. Raises InvalidParameter where none of that name answers."""
        socket = self._socket(instance)
        if self.clock() < self._deaf.get(instance, 0.0):
            raise _absent(instance, socket, "it did not answer just now")
        try:
            with Client(socket, PROMPT, reconnect=0) as client:
                found = client.host.query()
                places = client.host.get_diagnostics().places
        except ConnectionFailed as error:
            if isinstance(error, AnswerTimeout):
                self._deaf[instance] = self.clock() + DEAF
            raise _absent(instance, socket, error.reason) from error
        self._deaf.pop(instance, None)
        return Neighbour(found.instance, found.backend, places["state_dir"])

    def entrust(self, instance: str, metadata: Metadata) -> None:
        """Have an instance record a VM. Raises what it answers, MigrationFailed where it does
        not."""
        try:
            with Client(self._socket(instance), reconnect=0) as client:
                client.vm.import_metadata(metadata)
        except ConnectionFailed as error:
            raise MigrationFailed(phase="hand over", reason=str(error)) from error

    def _socket(self, instance: str) -> Path:
        return self.run_dir / f"{instance}.sock"


def _absent(instance: str, socket: Path, why: str) -> InvalidParameter:
    reason = f"no instance {instance} answers at {socket} ({why}); start it first"
    return InvalidParameter(name="instance", reason=reason)
