"""What liblxc says of an end."""

import pytest

from backends.lxc.apart.keeper import exit_code


@pytest.mark.parametrize(
    ("said", "expected"), [(0, 0), (1 << 8, 1), (2 << 8 | 0x7F, -2), (9 << 8 | 0x7F, -9)]
)
def test_a_code_or_minus_the_signal(said, expected):
    assert exit_code(said) == expected
