"""Faults of our own: told to a client by a number, to the log in full."""

import uuid

import structlog

from idl.errors import InternalError

log = structlog.get_logger(__name__)


def incident(error: BaseException, **facts: str) -> InternalError:
    """Log a stray exception and name it; its text never leaves the daemon otherwise."""
    number = uuid.uuid4().hex[:16]
    log.error("incident", incident=number, exc_info=error, **facts)
    return InternalError(incident=number)
