"""A line through samples, and whether what it says is a leak. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: Objects (descriptors, threads, files) by which a fitted line may rise: a pool's thread that
#: has not left yet is no leak.
SLACK = 5.0
#: Bytes of memory that an operation may cost for good: the daemon remembers removals of the newest
#: 10,000 objects, which a run of minutes does not fill.
BYTES = 2048.0
#: Bytes by which memory may rise in all, whatever the number of operations: an allocator's arenas.
ARENA = 8 * 2**20


@dataclass(frozen=True)
class Sample:
    """The daemon at a quiet moment: seconds since the start, operations until then, counts."""

    seconds: float
    operations: int
    rss: int
    descriptors: int
    threads: int
    files: int


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of the line that fits best by least squares; 0.0 where there is none to fit."""
    if len(xs) < 2 or min(xs) == max(xs):
        return 0.0
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    over = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True))
    return over / sum((a - x) ** 2 for a in xs)


def error(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The standard error of that slope, from what is left of the points beside the line.

    inf where there are not three different points, for then nothing is left to judge by.
    """
    count = len(xs)
    if count < 3 or min(xs) == max(xs):
        return math.inf
    x, y, rise = sum(xs) / count, sum(ys) / count, slope(xs, ys)
    left = sum((b - y - rise * (a - x)) ** 2 for a, b in zip(xs, ys, strict=True))
    return math.sqrt(left / (count - 2) / sum((a - x) ** 2 for a in xs))


@dataclass(frozen=True)
class Trend:
    """How something rises: by operation (with its standard error), by hour, and in all.

    All by the line, which is fitted to the samples.
    """

    name: str
    first: int
    last: int
    per_operation: float
    error: float
    per_hour: float
    rise: float

    @property
    def leaks(self) -> bool:
        if self.name == "rss":
            return self.rise > ARENA and self.per_operation > BYTES
        return self.rise > SLACK


def trend(name: str, samples: Sequence[Sample]) -> Trend:
    """Of one count (a field of Sample) after the warm-up, the first quarter of the samples."""
    warm = samples[len(samples) // 4 :]
    counts = [getattr(sample, name) for sample in warm]
    operations = [float(sample.operations) for sample in warm]
    by_operation = slope(operations, counts)
    return Trend(
        name,
        counts[0],
        counts[-1],
        by_operation,
        error(operations, counts),
        slope([sample.seconds for sample in warm], counts) * 3600,
        by_operation * (operations[-1] - operations[0]),
    )


def trends(samples: Sequence[Sample]) -> list[Trend]:
    """Of everything that may leak."""
    return [trend(name, samples) for name in ("rss", "descriptors", "threads", "files")]
