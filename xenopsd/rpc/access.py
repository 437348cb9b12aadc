"""Who may connect and who may call what: pure rules over credentials and kinds of calls."""

from typing import Any

from idl.calls import Call, Debug, Read
from idl.errors import PermissionDenied
from xenopsd.rpc.service import Caller


def may_connect(caller: Caller, group: int | None) -> bool:
    """Root and the daemon's own user always; else the members of the socket's group."""
    return caller.privileged or (group is not None and group in caller.gids)


class Rule:
    """Who may make one kind of call; computed once a call, asked once a request."""

    __slots__ = ("_anywhere", "_method", "_privileged")

    def __init__(self, call: type[Call[Any]]) -> None:
        self._method = call.method
        self._anywhere = issubclass(call, Read)
        self._privileged = issubclass(call, Debug)

    def check(self, caller: Caller) -> None:
        """Raises: PermissionDenied. The parameters have not been looked at."""
        if caller.readonly and not self._anywhere:
            raise PermissionDenied(method=self._method)
        if self._privileged and not caller.privileged:
            raise PermissionDenied(method=self._method)
