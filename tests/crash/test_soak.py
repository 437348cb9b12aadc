"""Seconds of the soak (`make soak` runs for minutes), and that it notices what it should."""

import math
import signal
from pathlib import Path

import pytest
from rigs.daemon import DEADLINE
from soak.crowd import History
from soak.followers import Poller, differences
from soak.report import markdown, text
from soak.run import VMS, Soak, parts
from soak.trend import Sample, error, slope, trends
from soak.verify import wrong

SEED = 11
SECONDS = 12


def samples(**rises):
    """Twelve quiet moments, in which these counts rise by so much each."""
    level = {"rss": 50 * 2**20, "descriptors": 30, "threads": 20, "files": 8}
    return [
        Sample(
            float(n), n * 100, **{name: at + n * rises.get(name, 0) for name, at in level.items()}
        )
        for n in range(12)
    ]


def test_after_random_operations_faults_and_kills_everybody_agrees(place: Path):
    directory = place / "soak"
    directory.mkdir()
    soak = Soak(directory, SEED, SECONDS)
    soak.run()
    assert soak.history.operations > len(VMS)
    assert soak.history.answers["ok"]
    assert soak.history.events["kill"]
    assert soak.returns
    assert len(soak.samples) > 2


def test_what_should_not_be_there_is_noticed(place: Path):
    directory = place / "left"
    directory.mkdir()
    soak = Soak(directory, SEED, 0)
    soak.daemon.start()
    try:
        left = soak.daemon.world / "layers" / VMS[0]
        left.mkdir(parents=True)
        with soak.daemon.client() as client:
            found = wrong(soak.daemon, client, VMS)
    finally:
        soak.daemon.remove()
    assert [vm for vm, _what in found] == [VMS[0]]
    assert str(left) in found[0][1]


def test_a_daemon_that_ends_by_itself_is_noticed(place: Path):
    directory = place / "ended"
    directory.mkdir()
    soak = Soak(directory, SEED, 0)
    soak.daemon.start()
    try:
        soak.chaos.harass()
        soak.daemon.process.send_signal(signal.SIGSEGV)
        soak.daemon.process.wait(DEADLINE)
        with pytest.raises(AssertionError, match="ended by itself with -11"):
            soak.chaos.strike()
    finally:
        soak.daemon.remove()


def test_a_follower_that_was_not_told_is_noticed():
    follower = Poller.__new__(Poller)  # without a daemon to follow
    follower.records = {("vm", "a"): "running", ("task", "t"): False, ("vif", "a/gone"): {}}
    found = differences(
        follower, {("vm", "a"): "running", ("task", "t"): True, ("vbd", "a/x"): {}}
    )
    assert [line.partition(":")[0] for line in found] == [
        "Poller knows of task t",
        "Poller knows of vbd a/x",
        "Poller knows of vif a/gone",
    ]


def test_the_line_is_the_one_of_least_squares():
    assert slope([0, 1, 2, 3], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert slope([2, 2], [1, 5]) == 0


def test_its_error_is_what_the_points_beside_it_leave():
    assert error([0, 1, 2, 3], [1, 3, 2, 4]) == pytest.approx(0.424264, rel=1e-4)
    assert error([0, 1, 2, 3], [1, 3, 5, 7]) == pytest.approx(0.0)
    assert error([0, 1], [1, 3]) == error([2, 2, 2], [1, 5, 3]) == math.inf


@pytest.mark.parametrize("name", ["descriptors", "threads", "files"])
def test_one_more_in_each_round_is_a_leak(name):
    assert [trend.name for trend in trends(samples(**{name: 1})) if trend.leaks] == [name]


def test_memory_leaks_where_it_rises_much_and_for_each_operation():
    assert [trend.name for trend in trends(samples(rss=2**20 * 2)) if trend.leaks] == ["rss"]
    assert not [trend for trend in trends(samples(rss=2**17)) if trend.leaks]
    assert not [trend for trend in trends(samples()) if trend.leaks]


def test_the_history_keeps_what_may_never_be_answered():
    history = History()
    history.note("a", "start", "InternalError")
    history.note("a", "pause", "BadPowerState")
    history.note("", "kill")
    assert len(history.broken) == 1
    assert [line.split()[2] for line in history.of("a")] == ["start", "pause", "kill"]
    assert [line.split()[2] for line in history.of("b")] == ["kill"]


def test_the_page_says_how_long_it_was_and_what_leaks():
    history = History()
    history.note("a", "start", "ok")
    history.note("a", "start", "BadPowerState")
    page = markdown("3 minutes, seed 1", history, samples(files=1), [], 4)
    assert "The last run: 3 minutes, seed 1" in page
    assert "| files | 11 | 19 | 0.01000 ± 0.00000 | 3600 | LEAKS |" in page
    assert "start 1 of 2" in page
    assert "LEAKS" not in text(history, samples(), [], 4)


def test_no_part_is_longer_than_the_daemon_remembers_tasks():
    assert parts(60, 1) == [15] * 4
    assert parts(16, 1) == [8, 8]
    assert parts(10, 20) == [0.5] * 20
