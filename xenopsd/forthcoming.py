"""Calls about a VM that is still being added, kept until it is there.

A client that sends VM.add and VM.start without waiting means the VM that it has just added. Such
calls are accepted in the order sent, right after the addition has ended; if it failed, they are
answered that there is no such VM. On the event loop alone.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from idl import calls
from idl.calls import Call
from idl.errors import TooManyRequests
from idl.ids import vm_of


class Forthcoming:
    """What waits for additions. `accept` answers a call: a value or a future; it may raise.
    At most `limit` calls wait for one VM."""

    def __init__(self, accept: Callable[[Call[Any]], Any], limit: int) -> None:
        self._accept = accept
        self._limit = limit
        self._waiting: dict[str, list[tuple[Call[Any], asyncio.Future[Any]]]] = {}

    def expect(self, vm: str, added: "asyncio.Future[Any]") -> None:
        """From now on `vm` is being added, until `added` is done."""
        if vm not in self._waiting:
            self._waiting[vm] = []
            added.add_done_callback(partial(self._come, vm))

    def keep(self, call: Call[Any]) -> "asyncio.Future[Any] | None":
        """A future of the answer where the call's VM is being added, else None.

        Raises TooManyRequests.
        """
        waiting = self._waiting.get(_vm(call))
        if waiting is None:
            return None
        if len(waiting) >= self._limit:
            raise TooManyRequests(limit=self._limit, queued=len(waiting))
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        waiting.append((call, answer))
        return answer

    def _come(self, vm: str, _added: object) -> None:
        # Taken out before any is accepted: what is sent from now on stands behind them.
        for call, answer in self._waiting.pop(vm):
            try:
                found = self._accept(call)
            except Exception as error:  # noqa: BLE001  # it goes to whoever asked, as any does
                _fail(answer, error)
                continue
            if asyncio.isfuture(found):
                found.add_done_callback(partial(_pass_on, answer))
                answer.add_done_callback(partial(_withdraw, found))
            elif not answer.done():
                answer.set_result(found)


def _vm(call: Call[Any]) -> str:
    """The VM that a call is about, "" where it is about none or makes one itself."""
    match call:
        case calls.VmAdd() | calls.VmImportMetadata():
            return ""
        case calls.VbdAdd():
            return vm_of(call.vbd.id)
        case calls.VifAdd():
            return vm_of(call.vif.id)
        case calls.PciAdd():
            return vm_of(call.pci.id)
        case calls.Operation() | calls.Queued():
            # A device's id begins with its VM's, and a VM's is the whole.
            return vm_of(call.id)  # type: ignore[union-attr]  # every other one has an id
        case _:
            return ""


def _pass_on(answer: "asyncio.Future[Any]", found: "asyncio.Future[Any]") -> None:
    if found.cancelled():
        answer.cancel()
    elif error := found.exception():
        _fail(answer, error)
    elif not answer.done():
        answer.set_result(found.result())


def _withdraw(found: "asyncio.Future[Any]", answer: "asyncio.Future[Any]") -> None:
    if answer.cancelled():
        found.cancel()


def _fail(answer: "asyncio.Future[Any]", error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)
