"""Which daemon a line names, and commands that reach it again."""

from pathlib import Path

import click
import pytest

from xenopsd.cli import main
from xenopsd.cli.session import Session

ENVIRON = {"XENOPSD_RUN_DIR": "/run/x", "XENOPSD_INSTANCE": "red"}


def on(monkeypatch: pytest.MonkeyPatch, *line: str, **environ: str) -> Session:
    for name in ("XENOPS_SOCKET", "XENOPSD_INSTANCE", "XENOPSD_RUN_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**ENVIRON, **environ}.items():
        monkeypatch.setenv(name, value)
    context: click.Context = main.make_context("xenops", [*line, "list"])
    return Session.on(context)


@pytest.mark.parametrize(
    ("line", "environ", "socket"),
    [
        pytest.param((), {}, "/run/x/red.sock", id="an instance of the environment"),
        pytest.param((), {"XENOPS_SOCKET": "/s"}, "/s", id="a socket of the environment"),
        pytest.param(("--instance", "blue"), {}, "/run/x/blue.sock", id="an instance"),
        pytest.param(
            ("--instance", "blue"),
            {"XENOPS_SOCKET": "/s"},
            "/run/x/blue.sock",
            id="an instance counts more than the environment",
        ),
        pytest.param(("--socket", "/t", "--instance", "blue"), {}, "/t", id="both"),
    ],
)
def test_what_is_typed_counts_more(monkeypatch, line, environ, socket: str):
    assert on(monkeypatch, *line, **environ).socket == Path(socket)


@pytest.mark.parametrize(
    ("line", "typed"),
    [
        pytest.param((), "xenops show a, or xenops list", id="by the environment"),
        pytest.param(
            ("--instance", "b"),
            "xenops --instance b show a, or xenops --instance b list",
            id="an instance",
        ),
        pytest.param(
            ("--socket", "/a b"),
            "xenops --socket '/a b' show a, or xenops --socket '/a b' list",
            id="a socket",
        ),
    ],
)
def test_the_next_command_reaches_the_same_daemon(monkeypatch, line, typed: str):
    assert on(monkeypatch, *line).typed("xenops show a, or xenops list") == typed


def test_an_instance_that_is_named_is_the_one_beside(monkeypatch):
    text = "xenops --instance blue show a"
    assert on(monkeypatch, "--instance", "red").typed(text) == text
    assert on(monkeypatch, "--socket", "/r/d.sock").typed(text) == (
        "xenops --socket /r/blue.sock show a"
    )


def test_a_socket_that_may_not_be_used_is_for_the_connection_to_tell(monkeypatch, tmp_path):
    monkeypatch.setattr("os.access", lambda *_: False)
    assert on(monkeypatch, "--socket", str(tmp_path)).socket == tmp_path
