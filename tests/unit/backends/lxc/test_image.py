"""Suspend images: everything comes back, and every damage shows."""

import pytest
from msgspec.structs import replace
from rigs.records import container

from backends.lxc import image
from backends.lxc.image import Facts
from idl.errors import ImageInvalid

RECORD = container()
FACTS = Facts(record=RECORD, terminals=["tty[8800:18]"], mounts={"vbd.data": "/mnt/data"})
FILES = {"core-1.img": b"core", "pages-1.img": bytes(range(256)) * 9000, "empty.img": b""}


def ignored(_done: int) -> None:
    pass


@pytest.fixture
def dumped(tmp_path):
    """What CRIU left."""
    directory = tmp_path / "dumped"
    directory.mkdir()
    for name, content in FILES.items():
        (directory / name).write_bytes(content)
    (directory / "dump.log").write_text("what happened")
    return directory


@pytest.fixture
def written(tmp_path, dumped):
    """An image."""
    path = tmp_path / "web.image"
    image.write(path, FACTS, dumped, ignored)
    return path


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_everything_but_the_log_comes_back(written, tmp_path):
    to = tmp_path / "checkpoints" / "i2"
    for _ in range(2):
        assert image.unpack(written, "web", to, ignored) == FACTS
        assert content(to) == FILES
    assert [path.name for path in to.parent.iterdir()] == ["i2"]
    assert to.parent.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in to.iterdir()} == {0o644}
    assert to.stat().st_mode & 0o777 == 0o755


def test_an_image_is_the_only_thing_that_is_written(written, dumped, tmp_path):
    assert sorted(tmp_path.iterdir()) == [dumped, written]
    assert image.check(written, "web", ignored) == FACTS


def test_an_image_is_of_one_vm(written):
    with pytest.raises(ImageInvalid, match="of VM web") as refused:
        image.check(written, "other", ignored)
    assert refused.value.path == str(written)


def test_progress_is_told_up_to_the_end(written):
    told: list[int] = []
    image.check(written, "web", told.append)
    assert told == sorted(told)
    assert written.stat().st_size - 4096 < told[-1] <= written.stat().st_size


def damaged():
    size = 2_500_000
    flips = {f"byte {at}": (at, 1) for at in (0, 5, 18, 19, 20, 60, 300, 600, 1500, 2048, 3000)}
    return {**flips, "middle": (size // 2, 1), "last": (-1, 1), "before the seal": (-70, 1)}


@pytest.mark.parametrize(("at", "bit"), damaged().values(), ids=damaged().keys())
def test_a_flipped_bit_shows(written, tmp_path, at, bit):
    whole = bytearray(written.read_bytes())
    whole[at % len(whole)] ^= bit
    written.write_bytes(whole)
    require_invalid(written, tmp_path)


@pytest.mark.parametrize("left", [0, 1, 18, 19, 20, 21, 100, 700, 2000, -66, -65, -64, -10, -1])
def test_a_short_image_shows(written, tmp_path, left):
    written.write_bytes(written.read_bytes()[:left])
    require_invalid(written, tmp_path)


@pytest.mark.parametrize("more", [b"\n", b"0" * 64 + b"\n", b"\0" * 4096])
def test_a_longer_image_shows(written, tmp_path, more):
    written.write_bytes(written.read_bytes() + more)
    require_invalid(written, tmp_path)


def require_invalid(path, tmp_path):
    to = tmp_path / "to"
    with pytest.raises(ImageInvalid) as refused:
        image.check(path, "web", ignored)
    assert refused.value.path == str(path)
    with pytest.raises(ImageInvalid):
        image.unpack(path, "web", to, ignored)
    assert not to.exists()
    assert list(tmp_path.glob(".to*")) == []


def test_no_image_is_refused(tmp_path):
    with pytest.raises(ImageInvalid, match="No such file"):
        image.check(tmp_path / "nothing", "web", ignored)


def test_what_cannot_be_written_is_an_invalid_image(dumped, tmp_path):
    with pytest.raises(ImageInvalid, match="No such file"):
        image.write(tmp_path / "nowhere" / "web.image", FACTS, dumped, ignored)


def test_a_save_that_is_broken_off_leaves_the_former_image(written, dumped, tmp_path):
    def broken_off(_done: int) -> None:
        raise InterruptedError

    later = replace(FACTS, terminals=["tty[8801:18]"])
    with pytest.raises(ImageInvalid):
        image.write(written, later, dumped, broken_off)
    assert image.check(written, "web", ignored) == FACTS
    assert sorted(tmp_path.iterdir()) == [dumped, written]


def test_what_is_no_image_stays(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("not an image")
    with pytest.raises(ImageInvalid, match="not overwritten"):
        image.require_writable(precious)
    image.drop(precious)
    assert precious.read_text() == "not an image"


def test_an_image_and_what_a_cut_save_left_can_be_dropped(written, dumped, tmp_path):
    (tmp_path / "web.image.partial").write_bytes(b"")
    image.require_writable(written)
    for _ in range(2):
        image.drop(written)
        assert list(tmp_path.iterdir()) == [dumped]
    image.require_writable(written)
