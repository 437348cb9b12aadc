"""Logging, set up once: events with their facts, to stderr.

An event is a constant snake_case name; everything that varies is a key. What the context is about
(task, vm, debug_info) is merged into every line. JSON lines where a machine reads,
readable ones on a terminal. Levels below the configured one cost a method that does nothing.
What libraries say through `logging` becomes an event too, so that every line stays JSON.
"""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

#: Without locals: they may hold what a VM's owner wrote into its configuration.
_FRAMES = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=20)

#: One variable for all facts: structlog's own, one a key, cost a micro-op four times as much.
_facts: ContextVar[Mapping[str, Any] | None] = ContextVar("facts", default=None)

_encoder = msgspec.json.Encoder(enc_hook=repr)


def setup(level: str, stream: TextIO | None = None) -> None:
    """Send the events of that level and above to stderr (or `stream`); may be called again
    when the level was changed.
    """
    out = stream or sys.stderr
    structlog.configure(
        processors=_readable() if out.isatty() else _lines(),
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=(
            structlog.PrintLoggerFactory(out)
            if out.isatty()
            else structlog.BytesLoggerFactory(out.buffer)
        ),
        # A cached logger would keep the level that it was first used with.
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Library()], force=True)


@contextmanager
def about(facts: Mapping[str, Any]) -> Iterator[None]:
    """Have every event that this thread or task logs meanwhile bear these facts."""
    before = _facts.set(facts)
    try:
        yield
    finally:
        _facts.reset(before)


class _Library(logging.Handler):
    """Passes on what a library logs."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno,
            "library_logged",
            library=record.name,
            message=record.getMessage(),
            exc_info=record.exc_info,
        )


def _shared() -> list[Processor]:
    return [
        _merge,
        structlog.processors.add_log_level,
        structlog.processors.StackInfoRenderer(),
    ]


def _lines() -> list[Processor]:
    return [
        *_shared(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.ExceptionRenderer(_FRAMES),
        _encode,
    ]


def _readable() -> list[Processor]:
    stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
    return [*_shared(), stamp, _console()]


def _console() -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)


def _merge(logger: Any, name: str, event: EventDict) -> EventDict:  # noqa: ARG001  # structlog's signature
    facts = _facts.get()
    return event if facts is None else {**facts, **event}


def _encode(logger: Any, name: str, event: EventDict) -> bytes:  # noqa: ARG001  # structlog's signature
    return _encoder.encode(event)
