"""The user namespace in CRIU's images. Pure.

An image begins with two magic numbers; then comes the length of a message of protobuf, and that:
`uid_map` and `gid_map`, each an extent of `first`, `lower_first` and `count`.
"""

import struct

from backends.lxc.apart.namespaces import IDS

_HEADER = struct.Struct("<III")
_UIDS, _GIDS = 1, 2
_FIRST, _LOWER, _COUNT = 1, 2, 3
_BYTES = 2


def mapped(image: bytes, first_id: int) -> bytes:
    """The image of a namespace that maps a container's ids to `first_id` and on.

    Raises ValueError for what is no such image."""
    if len(image) < _HEADER.size:
        raise ValueError("it is damaged")
    *magic, _ = _HEADER.unpack_from(image)
    fields = ((_FIRST, 0), (_LOWER, first_id), (_COUNT, IDS))
    extent = b"".join(bytes([key << 3]) + _number(value) for key, value in fields)
    both = b"".join(
        bytes([key << 3 | _BYTES]) + _number(len(extent)) + extent for key in (_UIDS, _GIDS)
    )
    return _HEADER.pack(*magic, len(both)) + both


def _number(value: int) -> bytes:
    """As protobuf writes it: seven bits a byte, the lowest first."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
