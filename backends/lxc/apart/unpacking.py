"""The job that unpacks an image, once for all who use it.

`DIRECTORY/KEY/` is there when it is whole, on the disk too: `root` and `image.json`. Until then
it is `.KEY.partial`, locked by whoever is at it, so that what an interrupted one has left is told
from what is under way.
"""

import bz2
import errno
import fcntl
import gzip
import hashlib
import json
import lzma
import os
import stat
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

from backends.lxc.apart.archives import extract
from backends.lxc.apart.removing import remove
from backends.lxc.apart.syscalls import die_with_parent, syncfs

_ZSTD = b"\x28\xb5\x2f\xfd"
#: What an archive that does not end well raises.
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, gzip.BadGzipFile)


def unpack_image(
    *,
    directory: str,
    key: str,
    squashfs: bool,
    devices: bool,
    record: dict[str, Any],
    fds: list[int],
) -> dict[str, bool]:
    """Unpack the file whose descriptor is given, a tar archive (plain, gzip, bzip2, xz, zstd) or
    with `squashfs` that. `record` goes to `image.json`, with the file's digest. Answers whether
    it is `done`: not where somebody else is at it.

    Raises OSError; then nothing is left."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    target, partial = f"{directory}/{key}", f"{directory}/.{key}.partial"
    with _locked(partial) as mine:
        if os.path.isdir(target):
            with suppress(OSError):
                os.rmdir(partial)
            return {"done": True}
        if mine:
            _empty(partial)
            _unpack(fds[0], partial, squashfs=squashfs, devices=devices, record=record)
            os.rename(partial, target)
            _sync(directory)
    return {"done": mine}


@contextmanager
def _locked(path: str) -> Iterator[bool]:
    """Make a directory and lock it; False where somebody else has."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield _lock(fd, path)
    finally:
        os.close(fd)


def _lock(fd: int, path: str) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever had it may have renamed or removed it: what is there now is another's.
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        return False


def _unpack(
    fd: int, partial: str, *, squashfs: bool, devices: bool, record: dict[str, Any]
) -> None:
    """All of it, or nothing is left."""
    file = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        before = os.fstat(file)
        os.mkdir(f"{partial}/root", 0o755)
        if squashfs:
            _unsquash(file, f"{partial}/root", devices=devices)
        else:
            _untar(file, f"{partial}/root", devices=devices)
        digest = _digest(file)
        if os.fstat(file).st_mtime_ns != before.st_mtime_ns:
            raise OSError(errno.ESTALE, "it changed while it was unpacked")
        _note(partial, {**record, "digest": digest})
    except BaseException:
        remove(partial)
        raise
    finally:
        os.close(file)


def _empty(directory: str) -> None:
    """Remove what one that was interrupted has left."""
    for name in os.listdir(directory):
        remove(f"{directory}/{name}")


def _untar(file: int, root: str, *, devices: bool) -> None:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _plain(file) as stream:
            extract(stream, fd, devices=devices)
            while stream.read(1 << 20):  # what is after the end has its checksum, too
                pass
    except _DAMAGE as error:
        raise OSError(errno.EBADMSG, f"the archive is damaged or cut short: {error}") from error
    finally:
        os.close(fd)


@contextmanager
def _plain(file: int) -> Iterator[IO[bytes]]:
    """The archive without its compression, whatever its name says of that."""
    head = os.pread(file, 6, 0)
    if head.startswith(_ZSTD):
        with _unzstd(file) as stream:
            yield stream
        return
    with os.fdopen(os.dup(file), "rb") as stream:
        if head.startswith(b"\x1f\x8b"):
            yield cast("IO[bytes]", gzip.GzipFile(fileobj=stream))
        elif head.startswith(b"BZh"):
            yield bz2.BZ2File(stream)
        elif head.startswith(b"\xfd7zXZ\0"):
            yield lzma.LZMAFile(stream)  # noqa: SIM115  # closed with the stream
        else:
            yield stream


@contextmanager
def _unzstd(file: int) -> Iterator[IO[bytes]]:
    with _program("zstd", "-dcq", stdin=file, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None, "a pipe"
        yield process.stdout


def _unsquash(file: int, root: str, *, devices: bool) -> None:
    source = f"/proc/self/fd/{file}"
    with _program("unsquashfs", "-f", "-n", "-q", "-d", root, source, pass_fds=[file]):
        pass
    if not devices:
        _remove_devices(root)


@contextmanager
def _program(*words: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A program that dies with this process. Raises OSError with what it says of a failure."""
    parent = os.getpid()
    try:
        process = subprocess.Popen(  # noqa: S603  # no word of it is a client's
            words,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: die_with_parent(parent),  # noqa: PLW1509  # there are no threads
            **options,
        )
    except FileNotFoundError as error:
        raise OSError(errno.ENOENT, f"the program {words[0]} is not installed") from error
    with process:
        yield process
        assert process.stderr is not None, "a pipe"
        said = process.stderr.read().decode(errors="replace").strip()
    if process.returncode != 0:
        raise OSError(errno.EBADMSG, f"{words[0]}: {said[-500:] or process.returncode}")


def _remove_devices(root: str) -> None:
    for above, _, names in os.walk(root):
        for name in names:
            path = f"{above}/{name}"
            mode = os.lstat(path).st_mode
            if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                os.unlink(path)


def _digest(file: int) -> str:
    with os.fdopen(os.dup(file), "rb") as stream:
        stream.seek(0)
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _note(partial: str, record: dict[str, Any]) -> None:
    """The record, once all the rest is on the disk."""
    with open(f"{partial}/image.json", "w", encoding="utf-8") as file:
        json.dump(record, file)
        file.flush()
        syncfs(file.fileno())


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
