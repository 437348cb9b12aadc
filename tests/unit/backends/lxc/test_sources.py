"""What clients name, and which of it is opened."""

import os
from pathlib import Path

import pytest

from backends.lxc.sources import Identity, opened, require_no_links
from idl.errors import InvalidParameter, StorageError


@pytest.fixture
def root(tmp_path) -> Path:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "file").write_text("content")
    (tmp_path / "outside").write_text("secret")
    return root


def test_what_is_beneath_is_open_until_the_end(root):
    with opened(f"{root}/file", [Path("/nowhere"), root]) as source:
        assert source.kind == "file"
        assert source.identity.size == 7
        assert os.path.samestat(os.fstat(source.fd), (root / "file").stat())
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(source.fd)


def test_the_root_itself_is_beneath(root):
    with opened(str(root), [root]) as source:
        assert source.kind == "directory"


def test_links_within_are_followed(root):
    (root / "sub" / "link").symlink_to("../file")
    with opened(f"{root}/sub/link", [root]) as source:
        assert source.kind == "file"


@pytest.mark.parametrize("target", ["../outside", "/etc/passwd", "/proc/self/root", "loop"])
def test_links_that_lead_out_are_not(root, target):
    (root / "loop").symlink_to(target)
    with (
        pytest.raises(InvalidParameter, match=f"by a link: {root}"),
        opened(f"{root}/loop", [root]),
    ):
        pass


@pytest.mark.parametrize("path", ["file", "{root}/../outside", "{root}/sub/../file"])
def test_paths_are_plain(root, path):
    with (
        pytest.raises(InvalidParameter, match="has to be absolute"),
        opened(path.format(root=root), [root]),
    ):
        pass


def test_elsewhere_is_refused_with_what_is_allowed(root):
    with (
        pytest.raises(InvalidParameter, match=f"paths.disks allows: {root}, /other"),
        opened("/etc/passwd", [root, Path("/other")]),
    ):
        pass


def test_what_is_not_there_is_told(root):
    with (
        pytest.raises(StorageError, match="root/none: No such file"),
        opened(f"{root}/none", [root]),
    ):
        pass


def test_a_pipe_is_no_disk(root):
    os.mkfifo(root / "pipe")
    with pytest.raises(StorageError, match="neither"), opened(f"{root}/pipe", [root]):
        pass


def test_below_dev_only_block_devices_are_named():
    with (
        pytest.raises(StorageError, match="/dev/null is no block device"),
        opened("/dev/null", [Path("/dev")]),
    ):
        pass


def identity(**fields) -> Identity:
    usual = {"device": 1, "inode": 2, "size": 3, "mtime_ns": 4, "boot": "a"}
    return Identity(**{**usual, **fields})


@pytest.mark.parametrize("field", ["device", "inode", "size", "mtime_ns"])
def test_a_change_is_seen(field):
    assert identity().same(identity())
    assert not identity().same(identity(**{field: 9}))


def test_numbers_of_devices_last_for_a_boot():
    assert identity().same(identity(device=9, boot="b"))
    assert not identity().same(identity(mtime_ns=9, boot="b"))


@pytest.mark.parametrize("target", ["/mnt/a/b", "/mnt", "/srv/mnt/a"])
def test_no_link_is_on_the_way_to_a_disk(root, target):
    srv = root.with_name("srv")
    srv.mkdir()
    for disk in (root, srv):
        (disk / "mnt").symlink_to("/tmp")
    with pytest.raises(StorageError, match=f"link on the way to {target}"):
        require_no_links({"/": root, "/srv": srv, target: srv})


@pytest.mark.parametrize("target", ["/sub", "//sub/missing/a", "/file/a", "/srv/sub"])
def test_what_is_no_link_is_the_start_s_to_tell(root, target):
    """Also below another disk, which hides a link."""
    srv = root.with_name("srv")
    srv.mkdir()
    (root / "srv").mkdir()
    (root / "srv" / "sub").symlink_to("/tmp")
    require_no_links({"/": root, "/srv/": srv, target: srv})
