"""Which instance of a host has which VM: one small file a VM in `RUN/owners`.

Made with O_EXCL, so that of two instances one has it. A claim is void when the store that it
names no longer has the VM; `OwnedByAnother` otherwise.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from idl.errors import OwnedByAnother, StorageError
from idl.ids import VmId


class Claims:
    """The claims of one instance."""

    def __init__(self, run_dir: Path, instance: str, state_dir: Path) -> None:
        self._owners = run_dir / "owners"
        self._instance = instance
        self._me = (instance, str(state_dir))
        self._mine = json.dumps({"instance": instance, "state_dir": str(state_dir)}).encode()

    def take(self, vm: VmId) -> None:
        """Claim a VM. Raises OwnedByAnother, StorageError."""
        path = self._owners / vm
        try:
            if self._owner(path) == self._me:
                return
            self._owners.mkdir(mode=0o755, parents=True, exist_ok=True)
            while not self._made(path):
                owner = self._owner(path)
                if owner == self._me:
                    return
                if owner is not None and (Path(owner[1]) / "vm" / vm).exists():
                    raise OwnedByAnother(id=vm, instance=owner[0])
                path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(plugin="claims", reason=f"{path}: {error.strerror}") from error

    def give(self, vm: VmId) -> None:
        """Let a VM go that is this instance's."""
        path = self._owners / vm
        try:
            if self._owner(path) == self._me:
                path.unlink(missing_ok=True)
        except OSError:
            # Void all the same: the store it names has the VM no more.
            return

    def keep(self, vms: Iterable[VmId]) -> dict[VmId, str]:
        """Claim those that are in the store at start; those that another one has, by whom."""
        lost: dict[VmId, str] = {}
        held = set(vms)
        self._clear(held)
        for vm in held:
            try:
                self.take(vm)
            except OwnedByAnother as error:
                lost[vm] = error.instance
        return lost

    def _clear(self, held: set[VmId]) -> None:
        """Remove what a crash has left: claims without their record, and claims half made."""
        try:
            for path in self._owners.iterdir():
                if path.name.startswith("."):
                    void = path.name.endswith(f".{self._instance}") and self._is_of_mine(path)
                else:
                    void = path.name not in held and self._owner(path) == self._me
                if void:
                    path.unlink(missing_ok=True)
        except OSError:
            # They are void all the same.
            return

    def _is_of_mine(self, path: Path) -> bool:
        return self._mine.startswith(path.read_bytes())

    def _made(self, path: Path) -> bool:
        # Written under another name and linked: a claim is never seen half written.
        fresh = path.with_name(f".{path.name}.{os.getpid()}.{self._instance}")
        fresh.write_bytes(self._mine)
        try:
            os.link(fresh, path)
        except FileExistsError:
            return False
        finally:
            fresh.unlink(missing_ok=True)
        return True

    def _owner(self, path: Path) -> tuple[str, str] | None:
        try:
            claim = json.loads(path.read_bytes())
            return str(claim["instance"]), str(claim["state_dir"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
