"""What every command is given: the way to the daemon."""

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from xenopsd.places import places, socket_path

if TYPE_CHECKING:
    from idl.client import Client


@dataclass(slots=True)
class Session:
    """One invocation; it connects when a command calls. `named` says that the socket itself was
    named, on the line or in the environment, and not its instance.
    """

    socket: Path
    named: bool = True
    program: str = "xenops"
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
        return cls(socket_path(run, instance), named=False)

    @classmethod
    def on(cls, ctx: click.Context) -> "Session":
        """The session of a command line: what is typed counts more than the environment."""
        root = ctx.find_root()
        typed = [name for name in ("socket", "instance") if _typed(root, name)]
        socket = root.params.get("socket")
        if typed == ["instance"]:
            socket = None
        instance = root.params.get("instance") or "default"
        session = cls.of(socket, instance, os.environ, root=os.geteuid() == 0)
        words = (word for name in typed for word in (f"--{name}", str(root.params[name])))
        session.program = shlex.join(["xenops", *words])
        return session

    def typed(self, text: str) -> str:
        """A text whose commands reach the same daemon when they are typed, and one that is named
        as an instance beside it.
        """
        if self.named:
            text = re.sub(r"xenops --instance (\S+) ", self._beside, text)
        return re.sub(r"xenops (?!--)", lambda _: f"{self.program} ", text)

    def _beside(self, found: "re.Match[str]") -> str:
        return (
            shlex.join(["xenops", "--socket", str(self.socket.with_name(f"{found[1]}.sock"))])
            + " "
        )

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


def _typed(root: click.Context, name: str) -> bool:
    return root.get_parameter_source(name) is ParameterSource.COMMANDLINE
