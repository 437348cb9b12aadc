r"""Identifiers as they stand on the wire.

The patterns are part of the published schema, so they keep to what JSON Schema and
Python's `re` read alike; `(?!\n)` is there because Python's `$` also matches before a
final newline.
"""

from typing import Annotated, TypeAlias

from msgspec import Meta

_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}"
#: What a VM and an instance may be called.
NAME_PATTERN = rf"^{_NAME}(?!\n)$"

VmId: TypeAlias = Annotated[
    str,
    Meta(
        pattern=NAME_PATTERN,
        description="1 to 64 of A-Z a-z 0-9 . _ -, not starting with . or -",
    ),
]
InstanceName: TypeAlias = Annotated[
    str,
    Meta(
        pattern=NAME_PATTERN,
        description="1 to 64 of A-Z a-z 0-9 . _ -, not starting with . or -",
    ),
]
DeviceId: TypeAlias = Annotated[
    str, Meta(pattern=rf"^{_NAME}/{_NAME}(?!\n)$", description="VM/NAME")
]
#: A task id chosen by a client; ids made by the daemon have the same form.
TaskId: TypeAlias = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}(?!\n)$", description="1 to 64 of A-Z a-z 0-9 . _ -")
]
#: Any id in a question: what does not exist is told as such, whatever its form.
AnyId: TypeAlias = str


def vm_of(device: DeviceId) -> VmId:
    """The VM part of a device id."""
    return device.partition("/")[0]


def name_of(device: DeviceId) -> str:
    """The NAME part of a device id."""
    return device.partition("/")[2]
