"""What liblxc says of an end."""

import os

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
    with pytest.raises(OSError, match="liblxc said nothing"):
        await_other(0.05)


def test_what_another_keeper_has_started_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "init").write_text("42\n")
    assert await_other(0.05) == 42
