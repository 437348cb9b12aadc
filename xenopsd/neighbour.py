"""Another instance of this host, as this one talks to it: a client like any other."""

from dataclasses import dataclass
from pathlib import Path

from idl.client import Client, ConnectionFailed
from idl.errors import InvalidParameter, MigrationFailed
from idl.metadata import Metadata

#: Seconds for an answer that needs no queue.
PROMPT = 5.0


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An instance that answers: its backend, and where its state is."""

    instance: str
    backend: str
    state_dir: str


def find(run_dir: Path, instance: str) -> Neighbour:
    """Ask an instance what it is. Raises InvalidParameter where none of that name answers."""
    socket = _socket(run_dir, instance)
    with Client(socket, PROMPT, reconnect=0) as client:
        try:
            found = client.host.query()
            places = client.host.get_diagnostics().places
        except ConnectionFailed as error:
            reason = f"no instance {instance} answers at {socket} ({error.reason}); start it first"
            raise InvalidParameter(name="instance", reason=reason) from error
    return Neighbour(found.instance, found.backend, places["state_dir"])


def entrust(run_dir: Path, instance: str, metadata: Metadata) -> None:
    """Have an instance record a VM. Raises what it answers, MigrationFailed where it does not."""
    socket = _socket(run_dir, instance)
    with Client(socket, reconnect=0) as client:
        try:
            client.vm.import_metadata(metadata)
        except ConnectionFailed as error:
            raise MigrationFailed(phase="hand over", reason=str(error)) from error


def _socket(run_dir: Path, instance: str) -> Path:
    return run_dir / f"{instance}.sock"
