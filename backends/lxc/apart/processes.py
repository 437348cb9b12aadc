"""What the kernel says of a process."""

from pathlib import Path

#: Linux's PF_FORKNOEXEC.
_FORKED_ONLY = 0x40


def executed(pid: int) -> bool:
    """Whether a process runs a program of its own, or did until its end; not once it is gone."""
    fields = _fields(Path(f"/proc/{pid}/stat"))
    return bool(fields) and not int(fields[6]) & _FORKED_ONLY


def cannot_be_stopped(pid: int) -> bool:
    """Whether a thread of it waits in the kernel where no signal gets it out: within a frozen
    control group for a child that has its memory, made by vfork, to execute a program."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except FileNotFoundError:
        return False
    return any(_fields(thread / "stat")[:1] == ["D"] for thread in threads)


def _fields(path: Path) -> list[str]:
    """Of a stat file, from the state on; none once it is gone."""
    try:
        # The name, in parentheses, may contain anything.
        return path.read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
