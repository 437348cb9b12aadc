"""Archives unpacked as root: what is kept, what is refused."""

import io
import os
import stat
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest

from backends.lxc.apart.archives import extract

#: cap_net_raw+ep, as setcap writes it.
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


@pytest.fixture
def target(tmp_path) -> Path:
    path = tmp_path / "target"
    path.mkdir()
    return path


def member(name: str, kind=tarfile.REGTYPE, **fields) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type = kind
    for field, value in {"mode": 0o644, "mtime": 1000, **fields}.items():
        setattr(found, field, value)
    return found


def archive(*members: tarfile.TarInfo, content=b"content") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as file:
        for one in members:
            one.size = len(content) if one.isreg() else 0
            file.addfile(one, io.BytesIO(content))
    return buffer.getvalue()


def unpack(data: bytes, target: Path, devices=False) -> None:
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        extract(io.BytesIO(data), fd, devices=devices)
    finally:
        os.close(fd)


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def facts(path: Path) -> tuple[int, int, int, float]:
    found = path.lstat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode), found.st_mtime


def test_what_a_member_is_is_kept(target):
    unpack(
        archive(
            member("./", tarfile.DIRTYPE, uid=3, gid=4, mode=0o1755),
            member("./sub/", tarfile.DIRTYPE, uid=1000, gid=1001, mode=0o500, mtime=2000),
            member("./sub/setuid", uid=1, gid=2, mode=0o6755),
            member(
                "./sub/link", tarfile.SYMTYPE, linkname="/etc/passwd", uid=5, gid=6, mode=0o777
            ),
            member("./sub/pipe", tarfile.FIFOTYPE, uid=7, gid=8, mode=0o622),
            member("./sub/hard", tarfile.LNKTYPE, linkname="./sub/setuid"),
        ),
        target,
    )
    assert facts(target) == (3, 4, 0o1755, 1000)
    assert facts(target / "sub") == (1000, 1001, 0o500, 2000)
    assert facts(target / "sub" / "setuid") == (1, 2, 0o6755, 1000)
    assert (target / "sub" / "setuid").read_bytes() == b"content"
    assert facts(target / "sub" / "link") == (5, 6, 0o777, 1000)
    assert (target / "sub" / "link").readlink() == Path("/etc/passwd")
    assert stat.S_ISFIFO((target / "sub" / "pipe").stat().st_mode)
    assert facts(target / "sub" / "pipe") == (7, 8, 0o622, 1000)
    assert (target / "sub" / "hard").samefile(target / "sub" / "setuid")


def test_capabilities_and_attributes_are_kept(target, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "ping").touch()
    os.chown(source / "ping", 5, 5)
    os.setxattr(source / "ping", "security.capability", CAPABILITY)
    os.setxattr(source / "ping", "user.note", b"\xff\0=\n1 a=b")
    words = ["tar", "--xattrs", "--xattrs-include=*", "-C", source, "-c", "."]
    unpack(subprocess.run(words, check=True, capture_output=True).stdout, target)

    assert os.getxattr(target / "ping", "security.capability") == CAPABILITY
    assert os.getxattr(target / "ping", "user.note") == b"\xff\0=\n1 a=b"


def test_an_archive_says_nothing_to_the_overlay_over_it(target):
    headers = {"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.a": "b"}
    unpack(archive(member("file", pax_headers=headers)), target)
    assert os.listxattr(target / "file") == ["user.a"]


@pytest.mark.parametrize("format", ["gnu", "posix"])
def test_holes_are_kept(target, tmp_path, format):
    with (tmp_path / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(64 << 20)
        file.write(b"middle")
        file.truncate(256 << 20)
    words = ["tar", f"--format={format}", "--sparse", "-C", tmp_path, "-c", "sparse"]
    unpack(subprocess.run(words, check=True, capture_output=True).stdout, target)

    found = (target / "sparse").stat()
    assert found.st_size == 256 << 20
    assert found.st_blocks * 512 < 1 << 20
    with (target / "sparse").open("rb") as file:
        assert file.read(5) == b"begin"
        file.seek(64 << 20)
        assert file.read(7) == b"middle\0"


def test_names_are_bytes(target):
    name = os.fsdecode(b"caf\xe9/" + "ü".encode() + b"\n")
    headers = {"errors": "surrogateescape", "encoding": "utf-8", "format": tarfile.GNU_FORMAT}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **headers) as file:
        file.addfile(member(name))
    unpack(buffer.getvalue(), target)
    assert (target / name).exists()


def test_device_nodes_are_for_the_privileged(target):
    data = archive(
        member("dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        member("dev/disk", tarfile.BLKTYPE, devmajor=7, devminor=0),
        member("dev/same", tarfile.LNKTYPE, linkname="dev/null"),
        member("dev/file"),
    )
    unpack(data, target)
    assert names(target / "dev") == ["file"]
    (target / "dev" / "file").unlink()
    unpack(data, target, devices=True)
    found = (target / "dev" / "null").stat()
    assert stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(1, 3)
    assert stat.S_IMODE(found.st_mode) == 0o666
    assert (target / "dev" / "same").samefile(target / "dev" / "null")


def test_a_later_member_replaces_an_earlier_one(target):
    unpack(
        archive(
            member("link", tarfile.SYMTYPE, linkname="/etc"),
            member("link", tarfile.DIRTYPE, mode=0o755),
            member("link/file"),
            member("file", tarfile.SYMTYPE, linkname="/etc/passwd"),
            member("file"),
            member("empty", tarfile.DIRTYPE),
            member("empty"),
            member("linked", tarfile.DIRTYPE, mode=0o700),
            member("linked", tarfile.SYMTYPE, linkname="link"),
        ),
        target,
    )
    assert (target / "link" / "file").read_bytes() == b"content"
    assert not (target / "link").is_symlink()
    assert (target / "file").read_bytes() == b"content"
    assert (target / "empty").is_file()
    assert facts(target / "link")[2] == 0o755


def test_members_beneath_a_link_within_are_where_it_leads(target):
    unpack(
        archive(
            member("usr/bin", tarfile.DIRTYPE, mode=0o755),
            member("bin", tarfile.SYMTYPE, linkname="usr/bin"),
            member("bin/sh"),
        ),
        target,
    )
    assert (target / "usr" / "bin" / "sh").is_file()


ESCAPES = {
    "absolute": [member("/tmp/escape")],
    "above": [member("sub/../../escape")],
    "hard link above": [member("escape", tarfile.LNKTYPE, linkname="../secret")],
    "hard link to the root": [member("escape", tarfile.LNKTYPE, linkname="/etc/passwd")],
    "beneath a link above": [
        member("link", tarfile.SYMTYPE, linkname=".."),
        member("link/escape"),
    ],
    "beneath a link to the root": [
        member("link", tarfile.SYMTYPE, linkname="/tmp"),
        member("link/escape"),
    ],
    "hard link beneath a link above": [
        member("link", tarfile.SYMTYPE, linkname=".."),
        member("escape", tarfile.LNKTYPE, linkname="link/secret"),
    ],
    "a directory in a link's place": [
        member("link", tarfile.SYMTYPE, linkname=".."),
        member("link/escape", tarfile.DIRTYPE),
    ],
}


@pytest.mark.parametrize("members", ESCAPES.values(), ids=ESCAPES)
def test_what_leads_out_is_refused_by_name(target, members):
    (target.parent / "secret").touch()
    with pytest.raises(OSError, match=r"the member .*escape"):
        unpack(archive(*members), target)
    assert names(target.parent) == ["secret", "target"]
    assert (target.parent / "secret").stat().st_nlink == 1


def test_what_is_not_known_is_refused(target):
    with pytest.raises(OSError, match="the member odd is of a kind that is not known"):
        unpack(archive(member("odd", b"Z")), target)


def test_a_link_to_nothing_is_told(target):
    with pytest.raises(OSError, match="the member hard: No such file"):
        unpack(archive(member("hard", tarfile.LNKTYPE, linkname="none")), target)


WHOLE = archive(member("one"), member("two"))


@pytest.mark.parametrize("length", [0, 100, 512, 700, 1024, 1400, 2048])
def test_an_archive_that_was_cut_short_is_no_archive(target, length):
    assert len(WHOLE) > 2048
    with pytest.raises(tarfile.TarError):
        unpack(WHOLE[:length], target)


def test_a_damaged_header_is_not_the_end(target):
    with pytest.raises(tarfile.TarError):
        unpack(WHOLE[:1024] + b"x" * 512 + WHOLE[1536:], target)
