import threading

import pytest

from backends.simulator.events import Listener, announce, listened


@pytest.fixture
def heard(tmp_path):
    changed = threading.Condition()
    told = []

    def needs_attention(vm):
        with changed:
            told.append(vm)
            changed.notify_all()

    listener = Listener(tmp_path / "default", needs_attention)

    def wait(vm):
        with changed:
            assert changed.wait_for(lambda: vm in told, 30)

    yield wait
    listener.close()


def test_what_is_announced_is_heard(tmp_path, heard):
    for vm in ("vm1", "vm2"):
        announce(tmp_path / "default", vm)
        heard(vm)


def test_with_nobody_listening_it_is_lost_without_harm(tmp_path):
    announce(tmp_path / "default", "vm1")
    listener = Listener(tmp_path / "default", lambda vm: None)
    assert listened(tmp_path / "default")
    listener.close()
    announce(tmp_path / "default", "vm1")
    assert not listened(tmp_path / "default")
    assert not listened(tmp_path / "nobody")


def test_a_full_pipe_loses_events_and_blocks_nobody(tmp_path):
    silent, over = threading.Event(), threading.Event()

    def busy(vm):
        silent.set()
        over.wait(30)

    listener = Listener(tmp_path / "default", busy)
    announce(tmp_path / "default", "first")
    assert silent.wait(30)
    for _ in range(2000):
        announce(tmp_path / "default", "x" * 64)
    over.set()
    listener.close()
