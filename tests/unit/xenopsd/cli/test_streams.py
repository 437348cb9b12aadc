"""Whoever calls may have closed what others leave open."""

import io
import sys

from xenopsd.cli.streams import stand_in


def test_a_closed_stream_is_as_dev_null(monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    stand_in()
    with sys.stdin, sys.stdout, sys.stderr:
        assert sys.stdin.read() == ""
        assert not any(one.isatty() for one in (sys.stdin, sys.stdout, sys.stderr))
        print("nobody hears this", flush=True)


def test_what_an_encoding_lacks_is_escaped(monkeypatch):
    said = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(said, encoding="latin-1"))
    stand_in()
    print("日", end="", flush=True)
    assert said.getvalue() == b"\\u65e5"
