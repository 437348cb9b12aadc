"""What is mounted where, as /proc tells it."""

from typing import NamedTuple


class Mount(NamedTuple):
    """A line of mountinfo: `device` is major:minor, `root` the directory of its file system
    that is mounted, `point` where."""

    id: int
    device: str
    root: str
    point: str
    kind: str


def listed(path: str = "/proc/self/mountinfo") -> list[Mount]:
    """Every mount of a process, in the order of its list."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return [parsed(line) for line in file]


def parsed(line: str) -> Mount:
    """A line of mountinfo."""
    fields = line.split(" ")
    kind = fields[fields.index("-", 6) + 1]
    return Mount(int(fields[0]), fields[2], plain(fields[3]), plain(fields[4]), kind)


def plain(escaped: str) -> str:
    """A path, without the octal escapes of space, tab, newline and backslash."""
    first, *rest = escaped.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def at(point: str) -> Mount | None:
    """The topmost mount at a path, None where nothing is mounted."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        # Taken apart is only what is wanted: the host's list is long where containers are many.
        found = [line for line in file if plain(line.split(" ", 5)[4]) == point]
    return parsed(found[-1]) if found else None
