"""Tar archives unpacked into a directory, and never beside it.

Owners, modes, times, extended attributes and holes are kept. A member that would be made
anywhere else is refused, and so is an archive that does not end as one does: what was cut short
is no image.
"""

import errno
import os
import stat
import tarfile
from typing import IO, NoReturn, Self, cast

from backends.lxc.apart.syscalls import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, openat2

_RULES = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
_CHUNK = 1 << 20
_ZEROS = bytes(_CHUNK)
_XATTR = "SCHILY.xattr."
#: What an overlay over it would take for its own.
_OVERLAYS = "trusted.overlay."


class _Member(tarfile.TarInfo):
    """A member. The library takes a header that is damaged or missing for the end."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # not in the stubs
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


def extract(stream: IO[bytes], root: int, *, devices: bool) -> None:
    """Unpack a tar archive, plain by now, into an open empty directory; with `devices` also
    device nodes. Raises OSError naming the member, tarfile.TarError."""
    tree = _Tree(root, devices=devices)
    with tarfile.open(
        fileobj=stream, mode="r|", tarinfo=_Member, encoding="utf-8", errors="surrogateescape"
    ) as archive:
        while (member := archive.next()) is not None:
            tree.add(archive, member)
            archive.members.clear()  # type: ignore[attr-defined]  # else all stay in memory
    tree.finish()


class _Tree:
    """What has been unpacked so far. The directory that was last written to is kept open."""

    def __init__(self, root: int, *, devices: bool) -> None:
        self._root = root
        self._devices = devices
        self._skipped: set[tuple[str, ...]] = set()
        self._directories: list[tuple[str, tarfile.TarInfo]] = []
        self._last: tuple[tuple[str, ...], int] | None = None

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        parts = _parts(member.name) or _refuse(member, "has no place in the archive's directory")
        try:
            if len(parts) == 1:  # the directory itself
                self._directories.append((".", member))
            elif self._wanted(member, parts):
                self._make(archive, member, parts)
        except OSError as error:
            if error.errno in {errno.EXDEV, errno.ELOOP}:
                _refuse(member, "is beneath a link that leads out of the archive's directory")
            if error.errno == errno.EBADMSG:
                raise
            reason = error.strerror or str(error)
            raise OSError(error.errno, f"the member {member.name}: {reason}") from error

    def finish(self) -> None:
        """Give directories what making their content has changed."""
        for path, member in reversed(self._directories):
            try:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                fd = openat2(path, flags, _RULES, at=self._root)
            except (NotADirectoryError, FileNotFoundError):
                continue  # a later member has replaced it
            try:
                _dress(fd, member)
            finally:
                os.close(fd)
        self._close()

    def _wanted(self, member: tarfile.TarInfo, parts: tuple[str, ...]) -> bool:
        node = (member.ischr() or member.isblk()) and not self._devices
        if node or (member.islnk() and _parts(member.linkname) in self._skipped):
            self._skipped.add(parts)
            return False
        return True

    def _make(
        self, archive: tarfile.TarFile, member: tarfile.TarInfo, parts: tuple[str, ...]
    ) -> None:
        parent, leaf = self._parent(parts[:-1]), parts[-1]
        if member.isdir():
            _make_directory(parent, leaf)
            self._directories.append(("/".join(parts), member))
            return
        _clear(parent, leaf)
        if member.isreg():
            _make_file(archive, member, parent, leaf)
        elif member.islnk():
            self._make_link(member, parent, leaf)
        elif member.issym():
            os.symlink(member.linkname, leaf, dir_fd=parent)
            _own(member, parent, leaf)
        else:
            os.mknod(
                leaf, _node(member), os.makedev(member.devmajor, member.devminor), dir_fd=parent
            )
            _own(member, parent, leaf)
            os.chmod(leaf, stat.S_IMODE(member.mode), dir_fd=parent)

    def _make_link(self, member: tarfile.TarInfo, parent: int, leaf: str) -> None:
        """A hard link, which the library names as the archive does."""
        target = _parts(member.linkname) or _refuse(member, "is a link that leads out of it")
        # Not the directory kept open: that is `parent`.
        fd = openat2("/".join(target[:-1]), os.O_PATH | os.O_DIRECTORY, _RULES, at=self._root)
        try:
            os.link(target[-1], leaf, src_dir_fd=fd, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(fd)

    def _parent(self, parts: tuple[str, ...]) -> int:
        """A directory, made where the archive has not said that there is one."""
        if self._last is None or self._last[0] != parts:
            fd = self._opened(parts)
            self._close()
            self._last = parts, fd
        return self._last[1]

    def _opened(self, parts: tuple[str, ...]) -> int:
        try:
            return openat2("/".join(parts), os.O_PATH | os.O_DIRECTORY, _RULES, at=self._root)
        except FileNotFoundError:
            above = self._opened(parts[:-1])
            try:
                os.mkdir(parts[-1], 0o755, dir_fd=above)
            finally:
                os.close(above)
            return self._opened(parts)

    def _close(self) -> None:
        if self._last is not None:
            os.close(self._last[1])
            self._last = None


def _parts(name: str) -> tuple[str, ...] | None:
    """A path beneath `.`, which is its first part; None for one that leads out."""
    parts = tuple(part for part in name.split("/") if part not in {"", "."})
    return None if name.startswith("/") or ".." in parts else (".", *parts)


def _refuse(member: tarfile.TarInfo, why: str) -> NoReturn:
    raise OSError(errno.EBADMSG, f"the member {member.name} {why}")


def _make_directory(parent: int, leaf: str) -> None:
    try:
        os.mkdir(leaf, 0o700, dir_fd=parent)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(leaf, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(leaf, dir_fd=parent)
            os.mkdir(leaf, 0o700, dir_fd=parent)


def _clear(parent: int, leaf: str) -> None:
    """What a later member of the same name replaces."""
    try:
        os.unlink(leaf, dir_fd=parent)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        os.rmdir(leaf, dir_fd=parent)


def _make_file(archive: tarfile.TarFile, member: tarfile.TarInfo, parent: int, leaf: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(leaf, flags, 0o600, dir_fd=parent)
    try:
        # What the library offers for a member cannot read from a stream without an end to seek.
        source = cast("IO[bytes]", archive.fileobj)
        source.seek(member.offset_data)
        for offset, size in _extents(member):
            _copy(source, fd, offset, size)
        os.ftruncate(fd, member.size)
        _dress(fd, member)
    finally:
        os.close(fd)


def _extents(member: tarfile.TarInfo) -> list[tuple[int, int]]:
    """Where a file has data: offsets and sizes."""
    # The stubs say that it is a number.
    return cast("list[tuple[int, int]] | None", member.sparse) or [(0, member.size)]


def _copy(source: IO[bytes], fd: int, offset: int, size: int) -> None:
    """Copy so many bytes; whole chunks of zeros are holes."""
    end = offset + size
    while offset < end:
        chunk = source.read(min(_CHUNK, end - offset))
        if not chunk:
            raise tarfile.ReadError("unexpected end of data")
        if chunk != _ZEROS:
            _write(fd, chunk, offset)
        offset += len(chunk)


def _write(fd: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


def _node(member: tarfile.TarInfo) -> int:
    if member.isfifo():
        return stat.S_IFIFO
    if member.ischr():
        return stat.S_IFCHR
    if member.isblk():
        return stat.S_IFBLK
    _refuse(member, f"is of a kind that is not known here: {member.type!r}")


def _own(member: tarfile.TarInfo, parent: int, leaf: str) -> None:
    os.chown(leaf, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
    os.utime(leaf, (member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)


def _dress(fd: int, member: tarfile.TarInfo) -> None:
    """Owner, mode, attributes and times: an owner takes set-id bits and capabilities away."""
    os.fchown(fd, member.uid, member.gid)
    os.fchmod(fd, stat.S_IMODE(member.mode))
    for key, value in member.pax_headers.items():
        name = key.removeprefix(_XATTR)
        if name != key and not name.startswith(_OVERLAYS):
            os.setxattr(fd, name, value.encode("utf-8", "surrogateescape"))
    os.utime(fd, (member.mtime, member.mtime))
