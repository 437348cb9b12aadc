"""Bases of everything that travels, and the annotated numbers they are made of.

What clients send is strict (an unknown field is an error); what the daemon answers is
not, so that an older client reads a newer daemon's answer.
"""

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

Bytes: TypeAlias = Annotated[int, Meta(ge=0, le=2**62, description="bytes")]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=1e9, description="seconds")]
Timestamp: TypeAlias = Annotated[float, Meta(description="Unix seconds")]
Text: TypeAlias = Annotated[str, Meta(max_length=65536)]


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client may send: unknown fields are refused."""


class Fact(Struct, frozen=True, kw_only=True):
    """What the daemon says: fields may be added later."""
