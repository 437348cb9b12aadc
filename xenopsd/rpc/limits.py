"""How much of everything one request, one connection and one user may take."""

from dataclasses import dataclass

from idl.errors import TooManyRequests


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes, counts, and seconds for `linger`."""

    request: int = 4 * 2**20
    #: Unsent output of a connection above which it is not read.
    output: int = 2**20
    #: Input that was read and not yet looked at, above which a connection is not read.
    backlog: int = 2**18
    headers: int = 2**14
    id: int = 4096
    batch_members: int = 1000
    batch_reply: int = 64 * 2**20
    #: More commas than any batch of real calls of 4 MiB has.
    batch_commas: int = 400_000
    #: Per user id.
    connections: int = 4096
    waits: int = 16_384
    #: Requests of one connection that are accepted before others have their turn.
    turn: int = 10
    #: How long a connection that was refused may still take to read why.
    linger: float = 1.0
    #: What such a connection may still send.
    discard: int = 16 * 2**20


DEFAULT = Limits()


class Usage:
    """What one user id has open: connections, and calls that wait for their answer."""

    __slots__ = ("_limits", "connections", "waits")

    def __init__(self, limits: Limits = DEFAULT) -> None:
        self._limits = limits
        self.connections = 0
        self.waits = 0

    @property
    def full(self) -> bool:
        """Whether no further call may wait."""
        return self.waits >= self._limits.waits

    def too_many_waits(self) -> TooManyRequests:
        return TooManyRequests(limit=self._limits.waits, queued=self.waits)

    def connect(self) -> None:
        """Count a connection.

        Raises: TooManyRequests, and it is not counted.
        """
        if self.connections >= self._limits.connections:
            raise TooManyRequests(limit=self._limits.connections, queued=self.connections)
        self.connections += 1
