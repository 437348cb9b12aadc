"""A disk in memory that can be stopped at any byte, be full, be read-only, or fail an fsync.

It knows what an fsync has made durable, so that the power can be cut: every file and directory
then falls back to some state that it had since its last fsync, each on its own.
"""

import errno
from collections.abc import Callable, Iterator
from pathlib import Path


class DiskStopped(BaseException):
    """The daemon was killed here; no code of it runs after this."""


class File:
    def __init__(self) -> None:
        self.versions = [b""]
        self.lost = False

    @property
    def content(self) -> bytes:
        return self.versions[-1]

    def change(self, content: bytes) -> None:
        self.versions.append(content)

    def settle(self) -> None:
        # After a failed fsync the pages are called clean: a later one writes nothing.
        if not self.lost:
            self.versions = [self.versions[-1]]

    def power_cut(self, choose: Callable[[int], int]) -> None:
        at = choose(len(self.versions))
        content = self.versions[at]
        before = self.versions[at - 1] if at else content
        if content.startswith(before):
            grown = len(content) - len(before)
            kept = len(before) + choose(grown + 1)
            # The size may have reached the disk before the data.
            content = content[:kept] + bytes(choose(2) * (len(content) - kept))
        self.versions = [content]
        self.lost = False


class Directory:
    def __init__(self) -> None:
        self.versions: list[dict[str, File | Directory]] = [{}]

    @property
    def entries(self) -> "dict[str, File | Directory]":
        return dict(self.versions[-1])

    def change(self, entries: "dict[str, File | Directory]") -> None:
        self.versions.append(entries)

    def settle(self) -> None:
        self.versions = [self.versions[-1]]

    def power_cut(self, choose: Callable[[int], int]) -> None:
        self.versions = [self.versions[choose(len(self.versions))]]
        for node in self.versions[0].values():
            node.power_cut(choose)


class FaultyFile:
    def __init__(self, disk: "FaultyDisk", node: File) -> None:
        self._disk = disk
        self._node = node
        disk.open_files += 1

    def write(self, data: bytes) -> int:
        self._disk.refuse("write")
        size = min(len(data), self._disk.room(len(data)))
        if not size and data:
            raise OSError(errno.ENOSPC, "No space left on device")
        left = self._disk.left
        if left is not None and left < size:
            self._node.change(self._node.content + data[:left])
            self._disk.stop()
        self._disk.spend(size)
        self._disk.use(size)
        self._node.change(self._node.content + data[:size])
        return size

    def fsync(self) -> None:
        self._disk.step()
        try:
            self._disk.refuse("fsync")
        except OSError:
            self._node.lost = True
            raise
        self._node.settle()

    def truncate(self, size: int) -> None:
        self._disk.step()
        self._disk.refuse("truncate")
        self._disk.use(size - len(self._node.content))
        self._node.change(self._node.content[:size])

    def close(self) -> None:
        self._disk.check()
        self._disk.open_files -= 1


class FaultyDisk:
    """`stop_after(n)`: n units from now every call raises DiskStopped; a byte written is a unit,
    and so is every other operation that changes something. `space`: bytes still free. `faults`:
    operation -> errno that it fails with, "*" for all that change something.
    """

    def __init__(self) -> None:
        self.root = Directory()
        self.left: int | None = None
        self.stopped = False
        self.space: int | None = None
        self.faults: dict[str, int] = {}
        self.open_files = 0

    # -- faults

    def stop_after(self, units: int) -> None:
        self.left = units

    def restart(self) -> None:
        """The daemon starts again; what reached the kernel is there, and the faults are gone."""
        self.left = None
        self.stopped = False
        self.space = None
        self.faults = {}
        self.open_files = 0

    def power_cut(self, choose: Callable[[int], int]) -> None:
        """The host crashes and starts again; `choose(n)` decides between n possibilities."""
        self.root.power_cut(choose)
        self.restart()

    def stop(self) -> None:
        self.stopped = True
        raise DiskStopped

    def check(self) -> None:
        if self.stopped:
            raise DiskStopped

    def spend(self, units: int) -> None:
        self.check()
        if self.left is not None:
            self.left -= units

    def step(self) -> None:
        self.check()
        if self.left is not None and self.left < 1:
            self.stop()
        self.spend(1)

    def refuse(self, operation: str) -> None:
        self.check()
        everything = None if operation in {"read", "names"} else self.faults.get("*")
        number = self.faults.get(operation, everything)
        if number is not None:
            raise OSError(number, errno.errorcode[number])

    def room(self, size: int) -> int:
        return size if self.space is None else self.space

    def use(self, size: int) -> None:
        if self.space is not None:
            self.space -= size

    # -- looking

    def node(self, path: Path) -> File | Directory:
        self.check()
        node: File | Directory = self.root
        for name in path.parts[1:]:
            if not isinstance(node, Directory):
                raise NotADirectoryError(errno.ENOTDIR, "Not a directory")
            if name not in node.entries:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory")
            node = node.entries[name]
        return node

    def file(self, path: Path) -> File:
        node = self.node(path)
        if not isinstance(node, File):
            raise IsADirectoryError(errno.EISDIR, "Is a directory")
        return node

    def directory(self, path: Path) -> Directory:
        node = self.node(path)
        if not isinstance(node, Directory):
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory")
        return node

    def put(self, path: Path, content: bytes) -> None:
        """Write a file from outside, durably and without faults."""
        self.mkdir(path.parent)
        node = File()
        node.versions = [content]
        self._change(path, node)
        self.directory(path.parent).settle()

    def _change(self, path: Path, node: File | Directory | None) -> None:
        parent = self.directory(path.parent)
        entries = parent.entries
        entries.pop(path.name, None)
        if node is not None:
            entries[path.name] = node
        parent.change(entries)

    # -- the Disk protocol

    def open_append(self, path: Path, *, empty: bool = False) -> FaultyFile:
        try:
            node = self.file(path)
        except FileNotFoundError:
            self.step()
            self.refuse("open")
            node = File()
            self._change(path, node)
        self.refuse("open")
        if empty and node.content:
            self.use(-len(node.content))
            node.change(b"")
        return FaultyFile(self, node)

    def read(self, path: Path) -> bytes:
        self.refuse("read")
        return self.file(path).content

    def chunks(self, path: Path) -> Iterator[bytes]:
        content = self.read(path)
        for at in range(0, len(content), 50):
            yield content[at : at + 50]

    def exists(self, path: Path) -> bool:
        try:
            self.node(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def is_directory(self, path: Path) -> bool:
        return self.exists(path) and isinstance(self.node(path), Directory)

    def names(self, directory: Path) -> list[str]:
        self.refuse("names")
        return sorted(self.directory(directory).entries)

    def mkdir(self, path: Path) -> None:
        if self.exists(path):
            self.directory(path)
            return
        self.mkdir(path.parent)
        self.step()
        self.refuse("mkdir")
        self._change(path, Directory())

    def rename(self, source: Path, target: Path) -> None:
        node = self.node(source)
        self.step()
        self.refuse("rename")
        assert source.parent == target.parent, "renaming is in one step within one directory only"
        parent = self.directory(source.parent)
        entries = parent.entries
        del entries[source.name]
        entries[target.name] = node
        parent.change(entries)

    def exchange(self, one: Path, other: Path) -> bool:
        assert one.parent == other.parent, "swapping is in one step within one directory only"
        if not self.exists(one) or not self.exists(other):
            return False
        self.step()
        self.refuse("rename")
        parent = self.directory(one.parent)
        entries = parent.entries
        entries[one.name], entries[other.name] = entries[other.name], entries[one.name]
        parent.change(entries)
        return True

    def link(self, source: Path, target: Path) -> None:
        node = self.file(source)
        if self.exists(target):
            raise FileExistsError(errno.EEXIST, "File exists")
        self.step()
        self.refuse("link")
        self._change(target, node)

    def remove(self, path: Path) -> None:
        if not self.exists(path):
            return
        self.use(-len(self.file(path).content))
        self.step()
        self.refuse("remove")
        self._change(path, None)

    def rmtree(self, path: Path) -> None:
        for name in self.names(path):
            if self.is_directory(path / name):
                self.rmtree(path / name)
            else:
                self.remove(path / name)
        self.step()
        self.refuse("remove")
        self._change(path, None)

    def fsync_dir(self, path: Path) -> None:
        self.step()
        self.refuse("fsync_dir")
        self.directory(path).settle()
