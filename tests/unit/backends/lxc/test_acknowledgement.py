"""Which signal a first process takes for a request."""

import signal

import pytest

from backends.lxc.acknowledgement import choose, number, taken


def status(*, caught: tuple[int, ...] = (), blocked: tuple[int, ...] = ()) -> str:
    def mask(signals: tuple[int, ...]) -> str:
        return f"{sum(1 << (s - 1) for s in signals):016x}"

    return f"Name:\tinit\nSigBlk:\t{mask(blocked)}\nSigCgt:\t{mask(caught)}\n"


SYSTEMD = (*range(signal.SIGRTMIN, signal.SIGRTMIN + 7),)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("SIGPWR", 30), ("SIGRTMIN+3", 37), ("SIGRTMAX-1", 63), ("SIGTERM", 15)],
)
def test_a_signal_by_its_name(name, expected):
    assert number(name) == expected


@pytest.mark.parametrize("name", ["SIGNONE", "SIG_DFL", "9", "", "SIGRTMIN+x"])
def test_what_is_no_signal(name):
    with pytest.raises(ValueError, match=r"signal|literal"):
        number(name)


@pytest.mark.parametrize(
    ("program", "found", "poweroff", "reboot"),
    [
        ("systemd", status(blocked=SYSTEMD), signal.SIGRTMIN + 4, signal.SIGRTMIN + 5),
        ("init", status(blocked=SYSTEMD), signal.SIGRTMIN + 4, signal.SIGRTMIN + 5),
        ("busybox", status(blocked=(10, 12, 15)), signal.SIGUSR2, signal.SIGTERM),
        ("busybox", status(caught=(15,)), signal.SIGTERM, signal.SIGTERM),
        ("nginx", status(caught=(2, 15)), signal.SIGTERM, signal.SIGINT),
        ("init", status(caught=(2, 15, 30)), signal.SIGPWR, signal.SIGINT),
        ("sleep", status(), signal.SIGPWR, signal.SIGINT),
    ],
)
def test_the_signal_is_one_that_the_program_takes(program, found, poweroff, reboot):
    assert choose("poweroff", program, found) == poweroff
    assert choose("reboot", program, found) == reboot


def test_a_signal_without_a_handler_is_not_taken():
    assert not taken(status(), signal.SIGTERM)
    assert taken(status(caught=(15,)), signal.SIGTERM)
    assert taken(status(blocked=(15,)), signal.SIGTERM)


def test_a_process_that_is_gone_has_taken_it():
    assert taken("", signal.SIGTERM)
