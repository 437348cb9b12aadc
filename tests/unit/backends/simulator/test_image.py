import pytest

from backends.simulator import image
from backends.simulator.record import Record
from idl.errors import ImageInvalid

RECORD = Record(
    id="3", name="vm1", created=0.0, vm="vm1", instance="default", incarnation="i1", built=True
)


def test_an_image_holds_its_domain(tmp_path):
    image.write(tmp_path / "i", RECORD)
    assert image.read(tmp_path / "i") == RECORD
    assert [path.name for path in tmp_path.iterdir()] == ["i"]


def test_a_change_of_any_byte_shows():
    whole = image.encode(RECORD)
    for at in range(len(whole)):
        with pytest.raises(ValueError, match="it is"):
            image.decode(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])


def test_a_loss_of_any_tail_shows():
    whole = image.encode(RECORD)
    for length in range(len(whole)):
        with pytest.raises(ValueError, match="it is"):
            image.decode(whole[:length])


def test_something_after_it_shows():
    with pytest.raises(ValueError, match="it is"):
        image.decode(image.encode(RECORD) + b"\n")


def test_an_image_may_be_overwritten_even_a_damaged_one(tmp_path):
    path = tmp_path / "i"
    image.require_writable(path)
    path.write_bytes(image.encode(RECORD)[:80])
    image.require_writable(path)


@pytest.mark.parametrize("content", [b"", b"{}", b"precious"], ids=["empty", "JSON", "text"])
def test_nothing_else_is_overwritten(tmp_path, content):
    path = tmp_path / "i"
    path.write_bytes(content)
    with pytest.raises(ImageInvalid):
        image.require_writable(path)
    assert path.read_bytes() == content


def test_a_directory_is_not_overwritten(tmp_path):
    with pytest.raises(ImageInvalid):
        image.require_writable(tmp_path)


def test_where_it_cannot_be_written_nothing_is_left(tmp_path):
    with pytest.raises(ImageInvalid, match="No such file"):
        image.write(tmp_path / "missing" / "i", RECORD)
