"""What liblxc says of an end."""

import os
import subprocess
import sys

import pytest

from backends.lxc.apart import locks
from backends.lxc.apart.keeper import KEEPER, await_other, exit_code


@pytest.mark.parametrize(
    ("said", "expected"), [(0, 0), (1 << 8, 1), (2 << 8 | 0x7F, -2), (9 << 8 | 0x7F, -9)]
)
def test_a_code_or_minus_the_signal(said, expected):
    assert exit_code(said) == expected


def test_another_keeper_is_waited_for_no_longer_than_it_lives(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lock = locks.take(KEEPER)
    assert lock is not None
    with pytest.raises(TimeoutError):
        await_other(0.05)
    os.close(lock)
    with pytest.raises(OSError, match="has not started"):
        await_other(0.05)


def test_what_another_keeper_has_started_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "init").write_text(f"{os.getpid()}\n")
    assert await_other(0.05) == os.getpid()


def test_an_init_that_was_quick_has_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "init").write_text(f"{_gone()}\n")
    with pytest.raises(OSError, match="has not started"):
        await_other(0.05)
    (tmp_path / "status").write_text('{"code": 3}')
    assert await_other(0.05) > 0


def _gone() -> int:
    with subprocess.Popen(["true"]) as process:
        pass
    return process.pid


def test_no_signal_stays_ignored_not_even_the_c_librarys_own():
    """32 is one of those: it was found ignored by what had started the daemon."""
    ignoring = (
        "import ctypes, struct, sys; libc = ctypes.CDLL(None)\n"
        "from backends.lxc.apart import syscalls\n"
        "number = syscalls._RT_SIGACTION[__import__('os').uname().machine]\n"
        "ignored = struct.pack('QQQQ', 1, 0, 0, 0)\n"
        "for signal in (1, 13, 32):\n"
        "    assert libc.syscall(number, signal, ignored, None, 8) == 0\n"
        "if sys.argv[1] == 'default': syscalls.default_signals()\n"
        "print([l for l in open('/proc/self/status') if l.startswith('SigIgn')][0].split()[1])\n"
    )
    found = [
        int(
            subprocess.run(
                [sys.executable, "-c", ignoring, what], check=True, capture_output=True, text=True
            ).stdout,
            16,
        )
        for what in ("as it is", "default")
    ]
    assert found[0] & (1 << 31 | 1 << 12 | 1)
    assert found[1] == 0
