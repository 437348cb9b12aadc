"""What every command is given: the way to the daemon."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from xenopsd.places import places, socket_path

if TYPE_CHECKING:
    from idl.client import Client


@dataclass(slots=True)
class Session:
    """One invocation; it connects when a command calls."""

    socket: Path
    _client: "Client | None" = field(default=None, init=False)

    @classmethod
    def of(
        cls, socket: Path | None, instance: str, environ: Mapping[str, str], *, root: bool
    ) -> "Session":
        """The session with the socket that was named, else with that of the instance."""
        if socket is not None:
            return cls(socket)
        named = environ.get("XENOPSD_RUN_DIR")
        run = Path(named) if named else places(environ, root=root).run
        return cls(socket_path(run, instance))

    @property
    def client(self) -> "Client":
        """The client, connected at its first call."""
        if self._client is None:
            from idl.client import Client

            self._client = Client(self.socket)
        return self._client

    def renew(self) -> None:
        """Forget a connection whose use was cut short: it may hold half an answer, and closing
        it would wait for who reads it.
        """
        self._client = None

    def close(self) -> None:
        """Let go of the daemon."""
        if self._client is not None:
            self._client.close()
