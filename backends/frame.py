"""The frame around each micro-op of a backend."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

from backends.interface import Call
from idl.errors import HypervisorError

M = TypeVar("M")
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Frame:
    """Has `begin` go before a micro-op, and turns what the system refuses it into a
    HypervisorError. `begin` is given what carries the micro-op out, and the call."""

    begin: Callable[[Any, Call], None]

    def __call__(
        self, method: Callable[Concatenate[M, Call, P], R]
    ) -> Callable[Concatenate[M, Call, P], R]:
        """The micro-op in its frame."""

        @functools.wraps(method)
        def carry_out(ops: M, call: Call, /, *args: P.args, **kwargs: P.kwargs) -> R:
            self.begin(ops, call)
            try:
                return method(ops, call, *args, **kwargs)
            except OSError as error:
                raise HypervisorError(call=call.micro_op, reason=str(error)) from error

        return carry_out
