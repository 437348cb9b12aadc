"""Precedence, refusals that name the key, and what a reload changes."""

from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from xenopsd.config import (
    KEYS,
    RESERVED,
    ConfigError,
    changes,
    load,
    pool_size,
    read,
    section,
    taken,
)

FILE = "/etc/xenopsd/default.toml"
BACKENDS = ("simulator", "libvirt")


def config(
    text: str = "",
    environ: dict[str, str] | None = None,
    options: dict[str, Any] | None = None,
):
    return load(options or {}, environ or {}, text, FILE, root=True, backends=BACKENDS)


def refusal(*args: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        config(*args)
    return str(raised.value)


@pytest.mark.parametrize(
    ("text", "environ", "options", "workers", "origin"),
    [
        pytest.param("", {}, {}, 4, "default", id="default"),
        pytest.param("workers = 5", {}, {}, 5, "file", id="file over default"),
        pytest.param(
            "workers = 5",
            {"XENOPSD_WORKERS": "6"},
            {},
            6,
            "environment",
            id="environment over file",
        ),
        pytest.param(
            "workers = 5",
            {"XENOPSD_WORKERS": "6"},
            {"workers": 7},
            7,
            "command line",
            id="command line over environment",
        ),
        pytest.param("workers = 5", {}, {"workers": None}, 5, "file", id="an option not given"),
        pytest.param("", {}, {"workers": "7"}, 7, "command line", id="an option as text"),
        pytest.param("", {"XENOPSD_WORKERS": ""}, {}, 4, "default", id="an empty variable"),
    ],
)
def test_precedence(text, environ, options, workers, origin):
    found = config(text, environ, options)
    assert (found.workers, found.origin("workers")) == (workers, origin)


@pytest.mark.parametrize(
    ("origin", "remembered", "size"),
    [
        pytest.param({}, None, 4, id="nothing remembered"),
        pytest.param({}, 9, 9, id="remembered over default"),
        pytest.param(
            {"environ": {"XENOPSD_WORKERS": "6"}}, 9, 9, id="remembered over environment"
        ),
        pytest.param({"text": "workers = 6"}, 9, 9, id="remembered over file"),
        pytest.param({"options": {"workers": 6}}, 9, 6, id="command line over remembered"),
    ],
)
def test_the_size_of_the_pool(origin, remembered, size):
    assert pool_size(config(**origin), remembered) == size


def test_everything_can_be_set_in_the_file():
    found = config(
        """
        instance = "blue"
        backend = "simulator"
        state_dir = "/srv/state"
        run_dir = "/srv/run"
        workers = 2
        debug = true
        [log]
        level = "debug"
        [socket]
        group = "kvm"
        [journal]
        fsync = "always"
        [memory]
        host_reserve = 1024
        overcommit = 1.5
        [paths]
        disks = ["/disks", "/more"]
        [deadlines]
        short = 3
        [hooks]
        directory = "/etc/hooks"
        [simulator]
        memory_total = 7
        """
    )
    assert (found.instance, found.backend, found.state_dir) == (
        "blue",
        "simulator",
        Path("/srv/state"),
    )
    assert (found.log.level, found.socket.group, found.journal.fsync) == (
        "debug",
        "kvm",
        "always",
    )
    assert (found.memory.host_reserve, found.memory.overcommit) == (1024, 1.5)
    assert found.paths.disks == (Path("/disks"), Path("/more"))
    assert found.paths.images[0] == Path("/srv/state/images")
    assert found.deadlines.short == 3.0
    assert found.hooks.directory == Path("/etc/hooks")
    assert found.backends == {"simulator": {"memory_total": 7}}


def test_defaults_depend_on_the_instance_and_the_user():
    found = load({"instance": "blue"}, {"HOME": "/h"}, None, None)
    assert found.state_dir == Path("/h/.local/state/xenopsd/blue")
    assert found.run_dir == Path("/h/.cache/xenopsd/run")
    assert found.paths.kernels == (
        Path("/h/.local/state/xenopsd/blue/images"),
        Path("/var/lib/xenopsd/images"),
        Path("/dev/disk"),
    )


@pytest.mark.parametrize(
    ("environ", "key", "value"),
    [
        pytest.param({"XENOPSD_DEBUG": "1"}, "debug", True, id="a flag"),
        pytest.param({"XENOPSD_JOURNAL_FSYNC": "always"}, "journal.fsync", "always", id="nested"),
        pytest.param(
            {"XENOPSD_CRASH_LOOP_WINDOW": "1.5"}, "crash_loop.window", 1.5, id="two underscores"
        ),
        pytest.param(
            {"XENOPSD_PATHS_DISKS": "/a:/b"}, "paths.disks", (Path("/a"), Path("/b")), id="a list"
        ),
    ],
)
def test_environment(environ, key, value):
    found: Any = config(environ=environ)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_reserved_variables_and_those_of_others_are_left_alone():
    environ = dict.fromkeys(RESERVED, "x") | {"HOME": "/", "XENOPS_SOCKET": "/s"}
    assert config(environ=environ) == config()


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        pytest.param(
            ("worker = 3",),
            f"{FILE}: unknown key worker; did you mean workers?",
            id="an unknown key",
        ),
        pytest.param(
            ("[journal]\nfsnc = 'auto'",),
            f"{FILE}: unknown key journal.fsnc; did you mean journal.fsync?",
            id="an unknown key of a section",
        ),
        pytest.param(
            ("[simulater]\nworld = 1",),
            f"{FILE}: unknown key simulater; did you mean simulator?",
            id="an unknown section",
        ),
        pytest.param(("zzz = 1",), f"{FILE}: unknown key zzz", id="an unknown key like no other"),
        pytest.param(
            ("journal = 1",), f"{FILE}: journal is a section: write [journal]", id="no section"
        ),
        pytest.param(
            ("workers = 0",),
            f"{FILE}: workers: expected int >= 1 (size of the worker pool",
            id="out of range",
        ),
        pytest.param(
            ("workers = '4'",), f"{FILE}: workers: expected int, got str (", id="a wrong type"
        ),
        pytest.param(
            ("[journal]\nfsync = 'never'",),
            f"{FILE}: journal.fsync: 'never' is not one of auto, always (",
            id="enum",
        ),
        pytest.param(
            ("instance = '.x'",),
            f"{FILE}: instance: '.x' is not allowed (name of the instance: 1 to 64 of A-Z",
            id="a bad name",
        ),
        pytest.param(
            ("[paths]\ndisks = ['a']",),
            f"{FILE}: paths.disks: expected an absolute path",
            id="a relative path",
        ),
        pytest.param(("workers = ",), f"{FILE}: not valid TOML: ", id="no TOML"),
        pytest.param(
            ("", {"XENOPSD_WORKERS": "many"}),
            "environment variable XENOPSD_WORKERS: workers: expected int, got str",
            id="a variable that is no number",
        ),
        pytest.param(
            ("", {"XENOPSD_WORKER": "1"}),
            "environment: unknown variable XENOPSD_WORKER; did you mean XENOPSD_WORKERS?",
            id="an unknown variable",
        ),
        pytest.param(
            ("", {}, {"workers": 2000}),
            "option --workers: workers: expected int <= 1024",
            id="an option out of range",
        ),
        pytest.param(
            ("", {}, {"state_dirs": "/"}),
            "command line: unknown key state_dirs; did you mean state_dir?",
            id="an unknown option",
        ),
    ],
)
def test_refusals_name_the_place_and_the_key(args, expected):
    assert refusal(*args).startswith(expected)


class Options(Struct, forbid_unknown_fields=True):
    world: str | None = None
    memory_total: int = 10
    bridges: tuple[str, ...] = ()


def test_a_backends_section_in_its_own_type():
    found = config("[simulator]\nworld = '/w'", {"XENOPSD_SIMULATOR_MEMORY_TOTAL": "5"})
    assert section(found, "simulator", Options) == Options(world="/w", memory_total=5)
    assert section(found, "libvirt", Options) == Options()


def test_a_list_of_a_backend_is_split_where_it_is_a_text():
    found = config("", {"XENOPSD_SIMULATOR_BRIDGES": "br0:br1"})
    assert section(found, "simulator", Options).bridges == ("br0", "br1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "[simulator]\nwordl = ''",
            "backend simulator: unknown key simulator.wordl; did you mean simulator.world?",
            id="an unknown key",
        ),
        pytest.param(
            "[simulator]\nmemory_total = []",
            "backend simulator: expected int, got array - at memory_total",
            id="a wrong type",
        ),
    ],
)
def test_a_backends_section_is_checked(text, expected):
    with pytest.raises(ConfigError) as raised:
        section(config(text), "simulator", Options)
    assert str(raised.value) == expected


def test_changes_are_live_or_need_a_restart():
    old = config("workers = 2\n[simulator]\nworld = '/a'")
    new = config("debug = true\n[log]\nlevel = 'error'\n[simulator]\nworld = '/b'")
    assert changes(old, new) == (("workers", "log.level"), ("debug", "simulator.world"))
    assert changes(old, old) == ((), ())


def test_a_reload_takes_the_live_keys_alone():
    old = config("workers = 2\n[log]\nlevel = 'error'\n[simulator]\nworld = '/a'")
    new = config("workers = 3\njobs = 9\n[simulator]\nworld = '/b'")
    running = taken(old, new)
    assert (running.workers, running.jobs, running.log.level) == (3, 8, "info")
    assert running.backends == {"simulator": {"world": "/a"}}
    assert (running.origin("workers"), running.origin("jobs")) == ("file", "default")


def test_the_next_reload_still_finds_that_a_restart_is_needed():
    old, new = config(), config("jobs = 9\n[simulator]\nworld = '/b'")
    once = taken(old, new)
    assert changes(once, new) == ((), ("jobs", "simulator.world"))
    assert changes(once, old) == ((), ())


def test_every_key_is_explained_and_has_a_variable_of_its_own():
    assert all(key.text for key in KEYS.values())
    assert len({key.variable for key in KEYS.values()}) == len(KEYS)
    assert KEYS["journal.fsync"].variable == "XENOPSD_JOURNAL_FSYNC"
    assert KEYS["log.level"].live
    assert not KEYS["state_dir"].live


def test_the_first_usual_file_is_read(tmp_path):
    directory = tmp_path / "xenopsd"
    directory.mkdir()
    environ = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": "/h"}
    (directory / "xenopsd.toml").write_text("workers = 1")
    assert read({}, environ, root=False).workers == 1
    (directory / "blue.toml").write_text("workers = 2")
    assert read({"instance": "blue"}, environ, root=False).workers == 2
    assert read({}, environ | {"XENOPSD_INSTANCE": "blue"}, root=False).workers == 2


def test_a_named_file_must_exist(tmp_path):
    (tmp_path / "x.toml").write_text("workers = 3")
    assert read({}, {}, root=False, file=tmp_path / "x.toml").workers == 3
    assert read({}, {"XENOPSD_CONFIG": str(tmp_path / "x.toml")}, root=False).workers == 3
    with pytest.raises(ConfigError, match=r"none\.toml: the config file cannot be read"):
        read({}, {}, root=False, file=tmp_path / "none.toml")


def test_directories_of_the_command_line_may_be_relative():
    found = read({"state_dir": "here"}, {}, root=True, file="/dev/null")
    assert found.state_dir == Path.cwd() / "here"
