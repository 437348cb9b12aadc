"""What a figure is held to, and how it is put."""

import pytest

from bench.rows import Row, at_least, at_most, number, percentile, slope


def row(measured, bar):
    return Row("s", "what", "ms", measured, bar)


@pytest.mark.parametrize(
    ("measured", "bar", "verdict"),
    [
        (150.0, at_most(200), "held, 25 % to spare"),
        (200.0, at_most(200), "held, 0 % to spare"),
        (250.0, at_most(200), "missed by 25 %"),
        (1500.0, at_least(1000), "held, 50 % to spare"),
        (900.0, at_least(1000), "missed by 10 %"),
        (None, at_least(1000), "not measured"),
        (900.0, None, ""),
    ],
)
def test_a_verdict_says_by_how_much(measured, bar, verdict):
    assert row(measured, bar).verdict == verdict


def test_what_was_not_measured_is_neither_held_nor_missed():
    assert row(None, at_most(1)).held is None
    assert row(1.0, None).held is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.0123"), (1.5, "1.50"), (12.34, "12.3"), (123456.7, "123,457")],
)
def test_a_number_has_three_digits_that_count(value, text):
    assert number(value) == text


def test_a_percentile_is_one_of_the_values():
    values = [float(n) for n in range(100, 0, -1)]

    assert percentile(values, 50) == 51
    assert percentile(values, 99) == 100
    assert percentile([7.0], 99) == 7
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_a_slope_is_that_of_the_line_of_least_squares():
    assert slope([(0, 1), (1, 3), (2, 5)]) == 2
    assert slope([(0, 0), (1, 1), (2, 0)]) == 0
    assert slope([(3, 4)]) == 0
    assert slope([(1, 4), (1, 5)]) == 0
