"""What outlives the daemon beside VMs and tasks: one small file, `STATE/remembered.json`."""

import threading
from pathlib import Path
from typing import Any

import msgspec
import structlog

from journal.disk import Disk
from journal.documents import Kind
from journal.errors import StoreUnwritable
from journal.store import SingleRecord

log = structlog.get_logger(__name__)


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """The pool size that an administrator set; the boot of the host that was recovered from,
    as the backend and as the kernel name it."""

    pool_size: int | None = None
    boot: str | None = None
    kernel_boot: str | None = None


class Remembering:
    """The file; changed from any thread. What cannot be read is as if it were not there."""

    def __init__(self, disk: Disk, state_dir: Path) -> None:
        kind = Kind(Remembered, version=1)
        self._record = SingleRecord(disk, state_dir / "remembered.json", kind)
        self._lock = threading.Lock()
        found = self._record.read()
        self.value = found if isinstance(found, Remembered) else Remembered()

    def change(self, **changes: Any) -> None:
        """Remember it durably; what cannot be written holds for this life alone."""
        with self._lock:
            self.value = msgspec.structs.replace(self.value, **changes)
            try:
                self._record.write(self.value, durable=True)
            except StoreUnwritable as error:
                log.error("not_remembered", reason=str(error))
