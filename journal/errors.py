"""What can go wrong with durable state, each with the file it is about.

Plain exceptions with facts: the daemon turns them into errors of its interface. Nothing here
decides what becomes of a VM whose file is damaged.
"""

from pathlib import Path


class JournalDamaged(Exception):
    """A journal says something that it cannot have been told; its VM must be set aside.

    `path` is None when bytes were parsed that belong to no file.
    """

    def __init__(self, path: Path | None, reason: str) -> None:
        super().__init__(f"{path or 'journal'} is damaged: {reason}")
        self.path = path
        self.reason = reason


class JournalUnwritable(Exception):
    """A record could not be written and the file holds nothing of it: do not begin its effect."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be written: {reason}")
        self.path = path
        self.reason = reason


class StoreUnwritable(Exception):
    """A metadata record could not be written or removed."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be written: {reason}")
        self.path = path
        self.reason = reason


def reason_of(error: OSError) -> str:
    """What the operating system says, without the path (the exceptions above carry that)."""
    return error.strerror or str(error) or type(error).__name__
