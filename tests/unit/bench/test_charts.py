"""The ticks of an axis."""

from bench.charts import ticks


def test_a_wide_range_has_powers_of_ten():
    assert ticks(0.05, 264) == [0.01, 0.1, 1, 10, 100, 1000]


def test_a_narrow_one_has_steps_between_them():
    assert ticks(48, 246) == [20, 50, 100, 200, 500]


def test_ends_that_are_ticks_are_the_ends():
    assert ticks(10, 1000) == [10, 100, 1000]
    assert ticks(1, 1) == [1]
