"""How the server comes and goes."""

import asyncio
import threading
import time

import pytest
from msgspec import Raw
from rigs.rpcserver import DEADLINE, LOOPS, call, running

from xenopsd.rpc.limits import Limits
from xenopsd.rpc.listener import AddressInUse, listen


@pytest.fixture(params=LOOPS)
def server(request):
    with running(request.param, Limits(linger=0.3)) as found:
        yield found


def close(server) -> None:
    asyncio.run_coroutine_threadsafe(server.server.close(), server.loop).result(DEADLINE)


def test_a_live_server_is_left_alone(server):
    with pytest.raises(AddressInUse):
        listen(server.path)
    with server.peer() as peer:
        assert peer.ask("VM.list")["id"] == 1


def test_at_the_end_what_is_ready_is_answered(server):
    with server.peer() as waiting, server.peer() as idle:
        waiting.send(call("UPDATES.get", 1) + call("UPDATES.get", 2))
        server.eventually(lambda: len(server.service.waiting) == 2)

        def release_and_stop():
            server.service.waiting[0].set_result("in time")
            return asyncio.ensure_future(server.server.close())

        server.on_loop(release_and_stop)
        assert waiting.line() == {"jsonrpc": "2.0", "result": "in time", "id": 1}
        assert waiting.rest() == idle.rest() == b""
    assert not server.path.exists()
    assert not server.readonly.exists()


def test_a_peer_that_does_not_read_does_not_hold_the_end_up(server):
    server.service.metric = Raw(b'"' + b"x" * 2**22 + b'"')
    with server.peer() as peer:
        peer.send(call("VM.metrics"))
        server.eventually(lambda: bool(server.service.seen))
        begun = time.monotonic()
        close(server)
        assert time.monotonic() - begun < DEADLINE / 2
    assert server.server.connections == 0


def test_after_the_end_nobody_gets_in(server):
    close(server)
    with pytest.raises(OSError):  # noqa: PT011 -- there is no file any more
        server.peer()


def test_connecting_while_it_ends_is_harmless(server):
    def connect() -> None:
        for _ in range(200):
            try:
                server.peer().close()
            except OSError:
                return

    threads = [threading.Thread(target=connect) for _ in range(4)]
    for thread in threads:
        thread.start()
    close(server)
    for thread in threads:
        thread.join()
    assert server.server.connections == 0
