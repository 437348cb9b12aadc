"""What a line of the log holds."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from xenopsd import log


class Stream(io.TextIOWrapper):
    """stderr, as a file or as a terminal."""

    def __init__(self, *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(), write_through=True)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def text(self) -> str:
        written = self.buffer.getvalue()  # type: ignore[attr-defined]  # a BytesIO
        return written.decode()

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def test_a_line_is_json_with_its_facts_and_its_context():
    stream = Stream()
    log.setup("info", stream)
    with log.about({"task": "t", "vm": "a"}):
        structlog.get_logger().info("micro_op_done", seconds=0.5, path=pytest)
    (line,) = stream.lines()
    assert isinstance(line.pop("time"), str)
    assert line == {
        "event": "micro_op_done",
        "level": "info",
        "task": "t",
        "vm": "a",
        "seconds": 0.5,
        "path": repr(pytest),
    }


def test_facts_are_of_their_context_alone():
    stream = Stream()
    log.setup("info", stream)
    with log.about({"vm": "a", "task": "t"}):
        with log.about({"vm": "b"}):
            structlog.get_logger().info("inner", task="u")
        structlog.get_logger().info("outer")
    structlog.get_logger().info("outside")
    found = [(line["event"], line.get("vm"), line.get("task")) for line in stream.lines()]
    assert found == [("inner", "b", "u"), ("outer", "a", "t"), ("outside", None, None)]


def test_lower_levels_are_not_logged_until_the_level_is_changed():
    stream, logger = Stream(), structlog.get_logger()
    log.setup("warning", stream)
    logger.info("lost")
    log.setup("debug", stream)
    logger.debug("kept")
    assert [line["event"] for line in stream.lines()] == ["kept"]


def test_an_exception_is_part_of_its_line():
    stream = Stream()
    log.setup("info", stream)
    try:
        raise LookupError("why")
    except LookupError:
        structlog.get_logger().exception("failed")
    (line,) = stream.lines()
    assert "LookupError" in json.dumps(line["exception"])


def test_what_libraries_log_is_json_as_well():
    stream = Stream()
    log.setup("info", stream)
    logging.getLogger("asyncio").warning("slow %s", "callback")
    logging.getLogger("asyncio").info("chatter")
    (line,) = stream.lines()
    assert (line["event"], line["library"], line["message"]) == (
        "library_logged",
        "asyncio",
        "slow callback",
    )


def test_a_terminal_gets_readable_lines():
    stream = Stream(terminal=True)
    log.setup("info", stream)
    structlog.get_logger().info("started", instance="default")
    assert "started" in stream.text()
    assert not stream.text().startswith("{")
