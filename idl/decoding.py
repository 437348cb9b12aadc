"""Decoders of JSON, built one at a time.

While msgspec (0.22) takes a class of records apart, Python code runs in between. A thread that
builds a decoder meanwhile, for whatever has that class in it, gets one that is half filled, and
its first use ends the process (SIGSEGV). One that is built may be used by any thread.
"""

import threading
from functools import cache
from typing import Any

import msgspec

_building = threading.Lock()


@cache
def decoder(kind: Any) -> "msgspec.json.Decoder[Any]":
    """The decoder of a type."""
    with _building:
        return msgspec.json.Decoder(kind)
