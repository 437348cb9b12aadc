"""Who may connect to which socket, asked by processes of other users."""

import json
import os
import subprocess
import sys

import pytest
from rigs.rpcserver import call, error_of, running

NOBODY = 65534
GROUP = 54321

as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can start a process of another user"
)

ASK = """
import os, socket, sys
# The interpreter may be where only root can start it: become nobody here.
os.setgroups([int(group) for group in sys.argv[3:]])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
peer = socket.socket(socket.AF_UNIX)
peer.settimeout(20)
peer.connect(sys.argv[1])
peer.sendall(sys.argv[2].encode())
read = b""
while b"\\n" not in read and (data := peer.recv(65536)):
    read += data
sys.stdout.buffer.write(read)
"""


def ask_as_nobody(path, request: bytes, *groups: int):
    """The answer that a process of nobody gets, in these supplementary groups."""
    found = subprocess.run(
        [sys.executable, "-c", ASK, str(path), request.decode(), *map(str, groups)],
        cwd="/",
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert found.returncode == 0, found.stderr.decode()
    return json.loads(found.stdout)


@pytest.fixture(scope="module", params=[None, GROUP], ids=["no group", "a group"])
def server(request):
    with running(group=request.param if os.geteuid() == 0 else None) as found:
        found.service.debug = True
        yield found


@pytest.fixture(params=["path", "readonly"], ids=["read-write", "read-only"])
def path(request, server):
    return getattr(server, request.param)


def test_the_own_user_may_always(server, path):
    with server.peer(readonly=path == server.readonly) as peer:
        assert peer.ask("VM.list")["id"] == 1
        assert server.service.seen[-1][1].privileged


@as_root
def test_anybody_else_is_refused_whatever_the_mode(server, path):
    reply = ask_as_nobody(path, call("VM.list"))
    assert reply["error"]["data"] == {"error": "PermissionDenied", "method": "connect"}
    assert reply["id"] is None


@as_root
def test_a_member_of_the_group_may(server, path):
    reply = ask_as_nobody(path, call("VM.list"), 5, GROUP)
    if server.group is None:
        assert error_of(reply) == "PermissionDenied"
        return
    assert reply["result"] == ["a", "b"]
    caller = server.service.seen[-1][1]
    assert (caller.uid, caller.privileged) == (NOBODY, False)
    assert caller.gids == {NOBODY, 5, GROUP}


@as_root
def test_the_refused_read_why_even_after_sending_much(server, path):
    reply = ask_as_nobody(path, call("VM.list", "x" * 60_000))
    assert error_of(reply) == "PermissionDenied"


@as_root
def test_refused_connections_do_not_stay(server, path):
    ask_as_nobody(path, call("VM.list"))
    server.eventually(lambda: server.server.connections == 0)


def test_the_read_only_socket_refuses_before_it_looks_at_params(server):
    with server.peer(readonly=True) as peer:
        assert error_of(peer.ask("VM.start", 1, nonsense=True)) == "PermissionDenied"
        assert error_of(peer.ask("VM.export_metadata", 1, id="a")) == "PermissionDenied"
        assert peer.ask("VM.stat", 2, id="a")["result"] == {"id": "a"}
        assert server.service.seen[-1][1].readonly
