"""Other instances of the host, that answer, are away, or are deaf."""

import socket
from pathlib import Path

import pytest

from idl.errors import InvalidParameter, MigrationFailed
from idl.metadata import Metadata
from idl.vm import Vm
from xenopsd import neighbour
from xenopsd.neighbour import Neighbourhood


@pytest.fixture
def deaf(tmp_path, monkeypatch) -> Path:
    """The run directory of an instance `deaf`, which takes connections and says nothing."""
    monkeypatch.setattr(neighbour, "PROMPT", 0.05)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "deaf.sock"))
        listening.listen()
        yield tmp_path


def test_who_is_not_there_is_told(tmp_path):
    neighbours = Neighbourhood(tmp_path)
    with pytest.raises(InvalidParameter, match="start it first"):
        neighbours.find("away")
    with pytest.raises(MigrationFailed, match="start xenopsd"):
        neighbours.entrust("away", Metadata(vm=Vm(id="a")))


def test_who_does_not_answer_is_not_waited_for_again_soon(deaf, monkeypatch):
    now = [100.0]
    neighbours = Neighbourhood(deaf, clock=lambda: now[0])
    with pytest.raises(InvalidParameter, match="it does not answer in time"):
        neighbours.find("deaf")
    monkeypatch.setattr(neighbour, "Client", None)
    for _ in range(100):
        with pytest.raises(InvalidParameter, match="it did not answer just now"):
            neighbours.find("deaf")
    monkeypatch.undo()
    monkeypatch.setattr(neighbour, "PROMPT", 0.05)
    now[0] += neighbour.DEAF
    with pytest.raises(InvalidParameter, match="it does not answer in time"):
        neighbours.find("deaf")
