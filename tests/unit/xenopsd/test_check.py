"""What is refused before anything is started, and what --check-config prints."""

from typing import Annotated, Any

import pytest
from msgspec import Meta, Struct

from xenopsd.check import check, report, variable, where
from xenopsd.config import KEYS, ConfigError, load


class Options(Struct, forbid_unknown_fields=True):
    """A backend's section."""

    world: Annotated[str | None, Meta(description="where")] = None
    memory_total: int = 10


OPTIONS = {"simulator": Options}


def config(text: str = "", environ: dict[str, str] | None = None, **options: Any):
    return load(
        options, environ or {}, text, "/etc/xenopsd/x.toml", root=True, backends=("simulator",)
    )


def rows(text: str) -> dict[str, list[str]]:
    found = [line.split(maxsplit=2) for line in text.splitlines()]
    assert found[0] == ["KEY", "VALUE", "SOURCE"]
    return {row[0]: row[1:] for row in found[1:]}


def test_every_value_is_shown_with_where_it_comes_from():
    found = config(
        "jobs = 3\n[simulator]\nworld = '/w'\n",
        {"XENOPSD_LOG_LEVEL": "debug", "XENOPSD_SIMULATOR_MEMORY_TOTAL": "5"},
        workers=2,
    )
    shown = rows(report(found, OPTIONS))
    assert shown.keys() == {*KEYS, "simulator.world", "simulator.memory_total"}
    assert shown["workers"] == ["2", "command line: --workers"]
    assert shown["log.level"] == ['"debug"', "environment: XENOPSD_LOG_LEVEL"]
    assert shown["jobs"] == ["3", "file: /etc/xenopsd/x.toml"]
    assert shown["simulator.world"] == ['"/w"', "file: /etc/xenopsd/x.toml"]
    assert shown["simulator.memory_total"] == [
        "5",
        "environment: XENOPSD_SIMULATOR_MEMORY_TOTAL",
    ]
    assert shown["state_dir"] == ['"/var/lib/xenopsd/default"', "default"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(
            "backend = 'xen'", "backend: there is no xen; choose from simulator", id="backend"
        ),
        pytest.param(
            "[socket]\nreadonly_group = 'no-such'",
            "socket.readonly_group: there is no group no-such; "
            "make it with `groupadd --system no-such`",
            id="group",
        ),
    ],
)
def test_what_reading_cannot_know_is_refused(text, said):
    with pytest.raises(ConfigError) as raised:
        check(config(text), OPTIONS)
    assert str(raised.value) == f"file: /etc/xenopsd/x.toml: {said}"


def test_a_backends_section_is_refused_before_it_is_opened():
    with pytest.raises(ConfigError, match=r"unknown key simulator\.wordl"):
        check(config("[simulator]\nwordl = 'x'"), OPTIONS)


def test_what_can_start_is_not_refused():
    check(config("backend = 'simulator'\n[socket]\ngroup = 'root'"), OPTIONS)


def test_an_option_is_named_as_it_is_typed():
    assert where(config(state_dir="/s"), "state_dir") == "command line: --state-dir"
    assert variable("journal.fsync") == "XENOPSD_JOURNAL_FSYNC"
