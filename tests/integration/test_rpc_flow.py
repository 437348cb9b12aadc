"""Peers that are slow, vanish, or ask for too much cost what they may, and no more."""

import gc
import json
import resource
import socket
import threading
from pathlib import Path

import pytest
from msgspec import Raw
from rigs.rpcserver import LOOPS, call, error_of, running

from xenopsd.rpc.limits import Limits

MIB = 2**20


@pytest.fixture(scope="module", params=LOOPS)
def loop_name(request):
    return request.param


@pytest.fixture
def server(loop_name):
    with running(loop_name) as found:
        yield found


def waiting(server, count: int) -> None:
    server.eventually(lambda: len(server.service.waiting) == count)


def release(server, *values) -> None:
    """Answer the oldest waiting calls with these values."""

    def released() -> None:
        for value in values:
            server.service.waiting.pop(0).set_result(value)

    server.on_loop(released)


def resident() -> int:
    """The memory of this process, in bytes; the server is in it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


# Waiting


def test_answers_overtake_each_other(server):
    with server.peer() as peer:
        peer.send(call("UPDATES.get", 1) + call("UPDATES.get", 2) + call("VM.list", 3))
        assert peer.line()["id"] == 3
        release(server, "first")
        assert peer.line() == {"jsonrpc": "2.0", "result": "first", "id": 1}
        release(server, "second")
        assert peer.line()["id"] == 2


def test_a_batch_waits_for_its_last_member(server):
    with server.peer() as peer:
        members = [json.loads(call("UPDATES.get", 1)), json.loads(call("VM.list", 2))]
        peer.send(json.dumps(members).encode() + b"\n" + call("VM.list", 3))
        assert peer.line()["id"] == 3
        release(server, "late")
        assert [reply["id"] for reply in peer.line()] == [1, 2]


def test_a_peer_that_has_ended_is_still_answered(server):
    with server.peer() as peer:
        peer.send(call("UPDATES.get", 1) + call("VM.list", 2))
        peer.end()
        assert peer.line()["id"] == 2
        waiting(server, 1)
        release(server, "late")
        assert peer.line()["id"] == 1
        assert peer.rest() == b""


def test_too_many_waits_are_refused_and_reads_are_not(loop_name):
    with running(loop_name, Limits(waits=2)) as server, server.peer() as peer:
        peer.send(call("UPDATES.get", 1) + call("UPDATES.get", 2) + call("UPDATES.get", 3))
        reply = peer.line()
        assert (reply["id"], error_of(reply)) == (3, "TooManyRequests")
        assert error_of(peer.ask("VM.start", 4, id="a")) == "TooManyRequests"
        assert peer.ask("VM.list", 5)["id"] == 5
        release(server, "x", "y")
        assert {peer.line()["id"], peer.line()["id"]} == {1, 2}
        assert peer.ask("VM.start", 6, id="a")["id"] == 6


# Vanishing


@pytest.mark.parametrize("half_closed", [False, True], ids=["at once", "after it had ended"])
def test_of_a_peer_that_vanishes_reads_are_withdrawn_and_the_rest_goes_on(server, half_closed):
    peer = server.peer()
    peer.send(call("UPDATES.get", 1) + call("VM.add", 2, vm={"id": "a"}))
    waiting(server, 2)
    if half_closed:
        peer.end()
        server.on_loop(lambda: None)
    peer.close()
    server.eventually(lambda: server.server.connections == 0)
    assert server.service.waiting.pop(0).cancelled()
    assert not server.service.waiting[0].done()
    assert server.waits == 0
    unheard = ValueError("nobody hears this")
    server.on_loop(lambda: server.service.waiting.pop().set_exception(unheard))
    server.on_loop(gc.collect)
    assert server.complaints == []


def test_a_peer_that_vanishes_in_the_middle_of_a_request_leaves_nothing(server):
    peer = server.peer()
    peer.send(call("VM.list")[:-10])
    server.eventually(lambda: server.server.connections == 1)
    peer.close()
    server.eventually(lambda: server.server.connections == 0)


def test_what_was_sent_before_vanishing_is_accepted(server):
    peer = server.peer()
    for n in range(1000):
        message = json.loads(call("VM.start", 1, id=f"vm{n}"))
        del message["id"]
        peer.send(json.dumps(message).encode() + b"\n")
    peer.close()
    server.eventually(lambda: len(server.service.seen) == 1000)
    assert [found.id for found, _ in server.service.seen] == [f"vm{n}" for n in range(1000)]


# Not reading


def test_a_peer_that_does_not_read_is_not_read(server):
    server.service.metric = Raw(b'"' + b"x" * MIB + b'"')
    count = 20_000
    with server.peer() as peer, server.peer() as other:
        before = resident()
        sending = threading.Thread(target=peer.send, args=(call("VM.metrics") * count,))
        sending.start()
        server.eventually(lambda: bool(server.service.seen))
        for _ in range(100):
            assert other.ask("VM.list", 2)["id"] == 2
        # Their answers would be twenty gigabytes.
        assert (
            len([found for found, _ in server.service.seen if found.method == "VM.metrics"]) < 20
        )
        assert resident() - before < 64 * MIB
        server.service.metric = Raw(b'"short"')
        assert [peer.line()["id"] for _ in range(count)] == [1] * count
        sending.join()
        assert peer.ask("VM.list", 3)["id"] == 3


def test_waits_of_a_peer_that_does_not_read_are_not_encoded(server):
    count = 100
    with server.peer() as peer:
        peer.send(b"".join(call("UPDATES.get", n) for n in range(count)))
        waiting(server, count)
        before, answer = resident(), Raw(b'"' + b"x" * MIB + b'"')
        release(server, *[answer] * count)
        with server.peer() as other:
            assert other.ask("VM.list", 1)["id"] == 1
        assert server.waits > count // 2
        assert resident() - before < 32 * MIB
        assert {peer.line()["id"] for _ in range(count)} == set(range(count))
    server.eventually(lambda: server.waits == 0)


def test_a_peer_that_does_not_read_and_vanishes_is_forgotten(server):
    server.service.metric = Raw(b'"' + b"x" * MIB + b'"')
    peer = server.peer()
    peer.send(call("VM.metrics") * 100)
    server.eventually(lambda: bool(server.service.seen))
    peer.close()
    server.eventually(lambda: server.server.connections == 0)


def test_batches_that_wait_count_as_output(loop_name):
    with running(loop_name, Limits(output=MIB)) as server, server.peer() as peer:
        server.service.metric = Raw(b'"' + b"x" * MIB + b'"')
        members = [json.loads(call("UPDATES.get", 1)), json.loads(call("VM.metrics", 2))]
        peer.send((json.dumps(members).encode() + b"\n") * 5)
        waiting(server, 1)
        with server.peer() as other:
            other.ask("VM.list")
        assert len(server.service.waiting) == 1
        for _ in range(5):
            waiting(server, 1)
            release(server, "go")
            assert len(peer.line()) == 2


def test_a_peer_that_waits_unread_and_vanishes_is_forgotten(loop_name):
    with running(loop_name) as server:
        server.service.metric = Raw(b'"' + b"x" * MIB + b'"')
        members = [json.loads(call("UPDATES.get", 1)), json.loads(call("VM.metrics", 2))]
        peer = server.peer()
        peer.send(json.dumps(members).encode() + b"\n")
        waiting(server, 1)
        peer.close()
        server.eventually(lambda: server.server.connections == 0)
        assert server.service.waiting[0].cancelled()


def test_a_flood_of_one_peer_leaves_turns_to_others(server):
    with server.peer() as flooding, server.peer() as other:
        flooding.send(call("VM.list") * 300)
        assert other.ask("VM.list", 2)["id"] == 2
        assert [flooding.line()["id"] for _ in range(300)] == [1] * 300


# Updates


def test_a_subscription_answers_its_token_and_then_notifies(server):
    with server.peer() as peer:
        assert peer.ask("UPDATES.subscribe", 1, since="s")["result"] == "after s"
        subscription = server.service.subscriptions[0]
        server.on_loop(lambda: subscription.publish(b'{"next":"1"}'))
        assert peer.line() == {"jsonrpc": "2.0", "method": "updates", "params": {"next": "1"}}
        assert peer.ask("VM.list", 2)["id"] == 2
        server.on_loop(lambda: subscription.publish(b'{"next":"2"}'))
        assert peer.line()["params"] == {"next": "2"}
    server.eventually(lambda: subscription.closed)


def test_the_token_comes_before_the_first_updates(server):
    subscribe = server.service.subscribe

    def ready(since):
        made = subscribe(since)
        made.publish(b'{"next":"0"}')
        return made

    server.service.subscribe = ready
    with server.peer() as peer:
        assert peer.ask("UPDATES.subscribe", 1)["id"] == 1
        assert peer.line()["params"] == {"next": "0"}


def test_a_slow_subscriber_ends_with_the_last_state(server):
    padding = b"x" * MIB
    with server.peer() as peer:
        peer.ask("UPDATES.subscribe", 1)
        subscription = server.service.subscriptions[0]
        before = resident()
        for n in range(100):
            batch = b'{"n":%d,"x":"%s"}' % (n, padding)
            server.on_loop(lambda batch=batch: subscription.publish(batch))
        assert subscription.asked < 10
        assert resident() - before < 32 * MIB
        seen = [peer.line()["params"]["n"]]
        while seen[-1] != 99:
            seen.append(peer.line()["params"]["n"])
        assert seen == sorted(seen)
        assert len(seen) < 10


def test_a_second_subscription_replaces_the_first(server):
    with server.peer() as peer:
        peer.ask("UPDATES.subscribe", 1)
        peer.ask("UPDATES.subscribe", 2)
        first, second = server.service.subscriptions
        assert first.closed
        server.on_loop(lambda: second.publish(b"{}"))
        assert peer.line()["method"] == "updates"


def test_a_subscriber_that_has_ended_is_still_told_and_then_forgotten(server):
    peer = server.peer()
    peer.send(call("UPDATES.subscribe", 1))
    peer.end()
    assert peer.line()["id"] == 1
    subscription = server.service.subscriptions[0]
    server.on_loop(lambda: subscription.publish(b"{}"))
    assert peer.line()["method"] == "updates"
    peer.close()
    server.eventually(lambda: subscription.closed)


# Too many connections


def test_connections_of_a_user_are_limited(loop_name):
    with running(loop_name, Limits(connections=2)) as server:
        first, second = server.peer(), server.peer()
        assert first.ask("VM.list")["id"] == second.ask("VM.list")["id"] == 1
        with server.peer() as third:
            assert error_of(third.line()) == "TooManyRequests"
            assert third.rest() == b""
        first.close()
        server.eventually(lambda: server.server.connections == 1)
        with server.peer() as fourth:
            assert fourth.ask("VM.list")["id"] == 1
        second.close()


def test_running_out_of_descriptors_is_survived(server):
    with server.peer() as peer:
        assert peer.ask("VM.list")["id"] == 1
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        late = socket.socket(socket.AF_UNIX)
        used = late.fileno() + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
        try:
            late.connect(str(server.path))
            assert peer.ask("VM.list")["id"] == 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        late.settimeout(20)
        late.sendall(call("VM.list", 5))
        assert json.loads(late.recv(1000))["id"] == 5
        late.close()
