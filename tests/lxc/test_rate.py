"""The limit of a VIF, measured with what passes between two guests."""

import contextlib
import socket
import threading
import time

import pytest
from rigs.netlab import LIMIT, Guest, Lab, soon, within

from idl.vif import Locked, Rate

#: Half a megabyte a second: little for the slowest machine.
RATE = Rate(kbps=4_000)
SECOND = RATE.kbps * 125


@pytest.fixture
def lab():
    made = Lab()
    yield made
    made.close()


def opened() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


def pour(mouth: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            mouth.sendall(bytes(1 << 16))


def take(ear: socket.socket, amount: int) -> None:
    while amount > 0:
        got = ear.recv(min(amount, 1 << 20))
        assert got
        amount -= len(got)


def throughput(lab: Lab, sender: Guest, receiver: Guest, amount: int) -> float:
    """Bytes a second that reach the receiver, once what may pass at once has passed."""
    address = f"10.9.0.{lab.guests.index(receiver) + 1}"

    def now() -> tuple[int, float]:
        # Counted on the wire: TCP hands over in lumps, when what was lost has come again.
        counters = lab.network.counters(receiver.port.device, deadline=soon())
        return counters["rx_bytes"], time.monotonic()

    with within(receiver.netns, opened) as listener, within(sender.netns, opened) as mouth:
        for one in (listener, mouth):
            one.settimeout(LIMIT)
        listener.bind((address, 5001))
        listener.listen()
        mouth.connect((address, 5001))
        source = threading.Thread(target=pour, args=[mouth])
        source.start()
        with listener.accept()[0] as ear:
            ear.settimeout(LIMIT)
            take(ear, amount * 3 // 4)
            before = now()
            take(ear, amount)
            after = now()
        source.join()
    return (after[0] - before[0]) / (after[1] - before[1])


@pytest.mark.parametrize("mode", ["plugged", "changed", "locked"])
def test_both_directions_are_limited(lab, mode):
    one, two = lab.guest(), lab.plugged()
    limited = lab.usual(one, rate=RATE)
    if mode == "locked":
        limited = lab.usual(one, rate=RATE, locking_mode=Locked(ipv4=["10.9.0.1"]))
    plain = lab.usual(one)
    lab.network.plug(plain if mode == "changed" else limited, one.port, deadline=soon())
    if mode == "changed":
        lab.network.configure(limited, "rate", one.port, before=plain, deadline=soon())
    assert SECOND / 1.5 < throughput(lab, one, two, 2 * SECOND) < SECOND * 1.5
    assert SECOND / 1.5 < throughput(lab, two, one, 2 * SECOND) < SECOND * 1.5


def test_without_a_limit_far_more_passes(lab):
    one, two = lab.guest(), lab.plugged()
    limited, plain = lab.usual(one, rate=RATE), lab.usual(one)
    lab.network.plug(limited, one.port, deadline=soon())
    lab.network.configure(plain, "rate", one.port, before=limited, deadline=soon())
    assert throughput(lab, one, two, 30 * SECOND) > SECOND * 5
    assert throughput(lab, two, one, 30 * SECOND) > SECOND * 5
