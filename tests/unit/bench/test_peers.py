"""Asking LXD for the state of its first instance."""

import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import msgspec
import pytest

from bench.peers import Unavailable, lxd_state

ANSWERS = {
    "/1.0/instances": {"metadata": ["/1.0/instances/c1"]},
    "/1.0/instances/c1/state": {"metadata": {"status": "Running"}},
}


class Lxd(BaseHTTPRequestHandler):
    """As much of its REST API as is asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = msgspec.json.encode(ANSWERS[self.path])
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""

    def address_string(self):
        return "a Unix socket"


@pytest.fixture
def lxd(tmp_path):
    path = tmp_path / "lxd.sock"
    with socketserver.UnixStreamServer(str(path), Lxd) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield path
        server.shutdown()
        thread.join()


def test_the_first_instance_is_asked_again_and_again(lxd):
    with lxd_state([lxd]) as state:
        assert state() == state() == ANSWERS["/1.0/instances/c1/state"]


def test_an_lxd_that_is_not_there_is_no_error():
    with pytest.raises(Unavailable, match="LXD is not installed"), lxd_state([Path("/nowhere")]):
        pass


def test_an_lxd_without_instances_cannot_be_measured(lxd, monkeypatch):
    monkeypatch.setitem(ANSWERS, "/1.0/instances", {"metadata": []})

    with pytest.raises(Unavailable, match="no instance"), lxd_state([lxd]):
        pass
