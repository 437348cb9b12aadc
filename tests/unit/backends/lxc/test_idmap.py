"""The user namespace in CRIU's images."""

import pytest

from backends.lxc import idmap

#: As CRIU 3.17 wrote it of a container with the ids 1,879,048,192 and on.
MAGIC = bytes.fromhex("1943565406494755")


def image(body: str) -> bytes:
    raw = bytes.fromhex(body)
    return MAGIC + len(raw).to_bytes(4, "little") + raw


def test_ids_are_mapped_to_another_range():
    # Two extents of 0, the first id of the range, 65536.
    one = "080010c09a0c18808004"
    assert idmap.mapped(image("0a00"), 200_000) == image(f"0a0a{one}120a{one}")


def test_the_range_that_it_had_gives_the_same_image():
    had = idmap.mapped(image("0a00"), 1_879_048_192)
    assert idmap.mapped(had, 1_879_048_192) == had
    assert len(had) == 12 + 2 * (2 + 2 + 6 + 4)


def test_what_is_too_short_is_refused():
    with pytest.raises(ValueError, match="damaged"):
        idmap.mapped(MAGIC, 200_000)
