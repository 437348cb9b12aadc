"""What is plugged, as the host has it: one directory entry for each, beside the domains.

An entry `KIND:NAME@INCARNATION` under `WORLD/plugged/INSTANCE/VM/` stands for an attachment, an
interface or a bound device. It outlives the domain unless somebody removes it, as a real one
would: so a leak shows. Entries are hard links to one empty file, since a link costs a fraction
of a new file.
"""

import errno
import os
from pathlib import Path
from typing import Literal

from idl.ids import DeviceId, VmId, name_of, vm_of

Kind = Literal["vbd", "vif", "pci"]

_ENTRY = ".entry"


class Ledger:
    """The entries of one instance."""

    def __init__(self, path: Path) -> None:
        path.mkdir(exist_ok=True)
        self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.close(self._new_file(_ENTRY))

    def close(self) -> None:
        """Let go of it; a call that comes later fails."""
        root, self._root = self._root, -1
        if root != -1:
            os.close(root)

    def enter(self, kind: Kind, id: DeviceId, incarnation: str) -> None:
        """Note a device as plugged."""
        entry = f"{vm_of(id)}/{kind}:{name_of(id)}@{incarnation}"
        try:
            self._link(entry)
        except FileExistsError:
            pass
        except FileNotFoundError:
            os.mkdir(vm_of(id), dir_fd=self._root)
            self._link(entry)

    def leave(self, kind: Kind, id: DeviceId, incarnation: str) -> None:
        """Note it as gone."""
        self._unlink(f"{vm_of(id)}/{kind}:{name_of(id)}@{incarnation}")

    def of(self, vm: VmId) -> list[str]:
        """The entries of a VM."""
        try:
            directory = os.open(vm, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._root)
        except FileNotFoundError:
            return []
        try:
            return os.listdir(directory)  # noqa: PTH208  # by descriptor
        finally:
            os.close(directory)

    def clear(self, vm: VmId) -> None:
        """Remove every entry of a VM."""
        for entry in self.of(vm):
            self._unlink(f"{vm}/{entry}")

    def forget(self, vm: VmId) -> None:
        """Remove the VM's directory, unless something is in it."""
        try:
            os.rmdir(vm, dir_fd=self._root)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise

    def _link(self, entry: str) -> None:
        try:
            os.link(_ENTRY, entry, src_dir_fd=self._root, dst_dir_fd=self._root)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            os.close(self._new_file(entry))

    def _unlink(self, entry: str) -> None:
        try:
            os.unlink(entry, dir_fd=self._root)
        except FileNotFoundError:
            pass

    def _new_file(self, name: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        return os.open(name, flags, 0o640, dir_fd=self._root)
