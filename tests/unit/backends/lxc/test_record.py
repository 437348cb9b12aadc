"""What is told of a container."""

from dataclasses import replace as changed

import pytest
from msgspec.structs import replace
from rigs.records import container

from backends.lxc.record import NOT_STARTED, ContainerVbd, Life, observed, reason, stopped
from idl.vbd import Local

RECORD = container()
STARTED = replace(RECORD, built=True, started=True, vcpus=2)
RUNS = Life(populated=True, kept=True, cpu_seconds=1.5, memory_used=2**20, console="/c.sock")


@pytest.mark.parametrize(
    ("code", "asked", "expected"),
    [
        (-1, None, "reboot"),
        (-2, None, "poweroff"),
        (-9, None, "crash"),
        (-15, "poweroff", "crash"),
        (0, None, "poweroff"),
        (0, "reboot", "reboot"),
        (1, "poweroff", "crash"),
        (137, None, "crash"),
    ],
)
def test_how_init_ended_says_why_the_container_stopped(code, asked, expected):
    assert reason(code, asked) == expected


def test_a_container_that_was_not_started_is_paused_and_has_not_stopped():
    found = observed(RECORD, NOT_STARTED)
    assert (found.paused, found.built, found.stopped, found.vcpu_seconds) == (True, False, None, 0)


def test_a_running_one_shows_what_is_measured_and_its_console():
    found = observed(STARTED, RUNS)
    assert (found.paused, found.stopped) == (False, None)
    assert (found.vcpu_seconds, found.memory_actual, found.vcpus) == (1.5, 2**20, 2)
    assert [(c.protocol, c.path) for c in found.consoles] == [("text", "/c.sock")]
    assert not found.uncooperative_balloon


def test_a_frozen_one_is_paused():
    assert observed(STARTED, changed(RUNS, frozen=True)).paused


def test_one_with_more_memory_than_its_target_is_uncooperative():
    assert observed(STARTED, changed(RUNS, memory_used=2**27)).uncooperative_balloon


def test_while_the_keeper_is_at_it_nothing_has_stopped():
    assert stopped(STARTED, Life(populated=False, kept=True)) is None


def test_a_container_without_its_keeper_runs_on():
    assert stopped(STARTED, Life(populated=True, kept=False)) is None


@pytest.mark.parametrize(("asked", "expected"), [(None, "crash"), ("poweroff", "poweroff")])
def test_an_end_that_nobody_saw_is_what_was_asked_for_or_a_crash(asked, expected):
    assert stopped(replace(STARTED, asked=asked), Life(populated=False, kept=False)) == expected


def test_devices_show_with_their_media():
    disk = Local(path="/images/a", format="directory")
    record = replace(STARTED, vbds={"web/a": ContainerVbd(position=1, target="/a", medium=disk)})
    assert observed(record, RUNS).vbds["web/a"].medium == disk


def test_a_saved_container_is_suspended_until_it_runs_on():
    saved = replace(STARTED, saved=True)
    frozen = changed(RUNS, frozen=True)
    assert stopped(saved, frozen) == "suspend"
    # Its image is complete: that its processes have been killed since changes nothing.
    assert stopped(saved, changed(NOT_STARTED, status=-9)) == "suspend"


def test_one_made_from_an_image_is_paused_whatever_is_there_of_it():
    restored = replace(STARTED, restored=True)
    for life in (NOT_STARTED, RUNS, changed(RUNS, frozen=True)):
        assert stopped(restored, life) is None
        assert observed(restored, life).paused
    assert stopped(restored, changed(NOT_STARTED, status=-9)) == "crash"
