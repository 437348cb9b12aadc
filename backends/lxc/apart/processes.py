"""What the kernel says of a process."""

from pathlib import Path

#: Linux's PF_FORKNOEXEC.
_FORKED_ONLY = 0x40


def executed(pid: int) -> bool:
    """Whether a process runs a program of its own, or did until its end; not once it is gone."""
    try:
        # The name, in parentheses, may contain anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return not int(fields[6]) & _FORKED_ONLY
