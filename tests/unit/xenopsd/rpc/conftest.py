"""A service whose answers are values in a table."""

import asyncio
from typing import Any

import pytest

from idl.calls import Call
from xenopsd.rpc.dispatch import Context, Dispatcher
from xenopsd.rpc.limits import Limits, Usage
from xenopsd.rpc.service import Caller, Subscription


class TableService:
    """Answers a call with what stands under its method, or with what is made of the call."""

    def __init__(self, *, debug: bool = False) -> None:
        self.debug = debug
        self.answers: dict[str, Any] = {}
        self.seen: list[tuple[Call[Any], Caller]] = []

    def answer(self, call: Call[Any], caller: Caller) -> Any:
        self.seen.append((call, caller))
        answer = self.answers.get(call.method)
        return answer(call) if callable(answer) else answer

    def openrpc(self) -> bytes:
        return b'{"openrpc":"1.3.2"}'

    def metrics(self) -> bytes:
        return b"up 1\n"

    def health(self) -> tuple[bool, bytes]:
        return True, b"{}"

    def subscribe(self, since: str | None) -> Subscription:
        raise NotImplementedError


ROOT = Caller(uid=0, gids=frozenset({0}), readonly=False, privileged=True)


@pytest.fixture
def service() -> TableService:
    return TableService()


@pytest.fixture
def debug_service() -> TableService:
    return TableService(debug=True)


@pytest.fixture
def usage() -> Usage:
    return Usage(Limits(waits=3))


@pytest.fixture
def root() -> Caller:
    return ROOT


@pytest.fixture
def context(usage: Usage) -> Context:
    return Context(ROOT, usage)


@pytest.fixture
def dispatcher(service: TableService) -> Dispatcher:
    return Dispatcher(service)


@pytest.fixture
def loop():
    made = asyncio.new_event_loop()
    yield made
    made.close()
