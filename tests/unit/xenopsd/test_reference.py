"""The reference of the configuration: up to date, and complete."""

import os
import re
import shutil
import subprocess
import tomllib

import pytest

from backends import registry
from xenopsd.config import KEYS, keys, load
from xenopsd.reference import ROOT, default, manual, page, rendered, type_of

OPTIONS = [key for name, kind in registry.options().items() for key in keys(kind, f"{name}.")]


@pytest.mark.parametrize("path", rendered(), ids=str)
def test_what_is_committed_is_as_the_declaration(path):
    assert (ROOT / path).read_text() == rendered()[path], "run `python -m xenopsd.reference`"


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
def test_the_man_page_is_sound(tmp_path):
    (tmp_path / "xenopsd.8").write_text(manual())
    shown = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", str(tmp_path / "xenopsd.8")],
        env={"PATH": os.environ["PATH"], "MANWIDTH": "200", "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert shown.stderr == ""
    assert "XENOPSD_JOURNAL_FSYNC" in shown.stdout


def test_every_key_has_a_row():
    shown = re.findall(r"^\| `([a-z_.]+)` \| \S", page(), re.MULTILINE)
    assert sorted(shown) == sorted([*KEYS, *(key.name for key in OPTIONS)])


def test_the_example_is_read():
    (text,) = re.findall(r"```toml.*?\n(.*?)```", page(), re.DOTALL)
    found = load({}, {}, text, "example.toml")
    assert set(found.origins) >= {"workers", "log.level", "socket.group"}
    assert tomllib.loads(text)["workers"] == found.workers


@pytest.mark.parametrize(
    ("key", "type", "shown"),
    [
        ("workers", "whole number, at least 1, at most 1024", "4"),
        ("memory.overcommit", "number, more than 0, at most 1000", "1.0"),
        ("log.level", "`debug` or `info` or `warning` or `error`", '"info"'),
        ("hooks.directory", "directory or null", "null"),
        ("run_dir", "directory", '"/run/xenopsd"'),
        ("debug", "true or false", "false"),
    ],
)
def test_types_and_defaults_are_said_in_words(key, type, shown):
    assert type_of(KEYS[key].type) == type
    assert default(KEYS[key]) == shown


def test_no_backends_option_claims_to_be_live():
    # A reload passes nothing on to an open backend.
    assert OPTIONS
    assert [key.name for key in OPTIONS if key.live or not key.text] == []


def test_what_is_a_time_or_a_size_has_a_unit():
    known = {key.name: key.unit for key in (*KEYS.values(), *OPTIONS)}
    assert {known[name] for name in known if name.startswith("deadlines.")} == {"seconds"}
    assert known["memory.host_reserve"] == known["simulator.memory_total"] == "bytes"
    assert known["workers"] == ""
