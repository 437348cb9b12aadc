"""The cycle collector after the load."""

import gc
import weakref

import pytest

from xenopsd import collector


class Node:
    """May be a part of a cycle."""

    def __init__(self):
        self.itself = self


@pytest.fixture(autouse=True)
def _as_before():
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_what_stands_is_left_out():
    standing = Node()
    collector.spare()
    assert not any(found is standing for found in gc.get_objects())


def test_a_cycle_that_comes_later_is_still_found():
    collector.spare()
    gone = weakref.ref(Node())
    assert gone() is not None
    kept = [[] for _ in range(collector.THRESHOLDS[0] + 1000)]
    assert gone() is None
    assert kept
