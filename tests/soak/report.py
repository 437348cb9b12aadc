"""What a run says of itself, for a terminal and as a page."""

from collections.abc import Sequence
from textwrap import fill

from soak.crowd import History
from soak.followers import CREW
from soak.trend import Sample, Trend, trends

KILLS = ("kill", "kill-at", "kill-recovery", "terminate", "reboot-host")
FAULTS = ("fail", "hang", "set-latency")
HEAD = ("count", "first", "last", "per operation", "per hour", "verdict")

_PAGE = """# Endurance

`make soak MINUTES=n SEED=s` has clients do random operations on 20 VMs of the simulator, on a
host whose memory is too small for all. Meanwhile steps fail, hang, are slow or deaf to every
cancel; guests crash, vanish and ignore what they are asked; the pool goes from 1 to 16 workers and
back; the daemon is killed, killed again while it recovers, terminated, and loses its host.
Followers of the updates come and go. Every quarter of a minute the faults are cleared and
everything settles, and then these must be equal: the simulator's files read from outside, the
daemon's answers, and what every follower knows. No operation may have ended with `InternalError`,
no record may be set aside, no task may be open, no domain be foreign, no byte of memory reserved
for nobody.

A second phase has the same faults and no kills. It goes in rounds; after each, everything is
compared again, every VM is removed, every task destroyed, everything is compared once more, and
what the daemon has is counted. A line is fitted by least squares to the counts after the first
quarter of the rounds; ± is the standard error of its slope.

## The last run: {length}

{said}

{table}

Memory may rise by 8 MiB in all or 2 KiB an operation: the daemon remembers removed objects, the
newest 10,000, and this run is too short to fill that. Descriptors, threads and files may rise by
5 in all. So short a run says nothing about what comes after hours or days: it was not measured.
"""


def _rows(found: Sequence[Trend]) -> list[tuple[str, ...]]:
    """One for each count; memory in KiB, the others as numbers."""
    rows = []
    for trend in found:
        scale, unit = (1024, " KiB") if trend.name == "rss" else (1, "")
        digits, per = (1, " B") if unit else (5, "")
        slope = f"{trend.per_operation:.{digits}f} ± {trend.error:.{digits}f}{per}"
        hour = f"{trend.per_hour / scale:.0f}{unit}"
        counts = (f"{trend.first // scale}{unit}", f"{trend.last // scale}{unit}")
        rows.append((trend.name, *counts, slope, hour, "LEAKS" if trend.leaks else "level"))
    return rows


def _facts(
    history: History, samples: Sequence[Sample], doubts: Sequence[str], returns: int
) -> tuple[str, ...]:
    """One sentence for each thing worth counting."""
    ends = ", ".join(f"{name} {n}" for name, n in history.answers.most_common())
    steps = (f"{name} {history.well[name]} of {n}" for name, n in sorted(history.steps.items()))
    events = ", ".join(f"{name} {n}" for name, n in sorted(history.events.items()))
    faults = sum(history.events[name] for name in FAULTS)
    deaths = sum(history.events[name] for name in KILLS)
    measured = samples[-1].operations if samples else 0
    return (
        f"operations: {history.operations}, of which {measured} while memory was measured",
        f"how many of each went well: {', '.join(steps)}",
        f"how all of them ended: {ends}",
        f"lives of the daemon that ended: {deaths}",
        f"steps that were made to fail, hang or wait: {faults}",
        f"what was done to the daemon and its guests: {events}",
        f"followers: {len(CREW)}, which went and came back {returns} times",
        f"VMs that were in doubt after a fault, and were shut down hard: {len(doubts)}",
        "the world, the daemon and every follower agreed",
    )


def _said(facts: Sequence[str]) -> str:
    return "\n".join(
        fill(fact, 99, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
        for fact in facts
    )


def text(history: History, samples: Sequence[Sample], doubts: Sequence[str], returns: int) -> str:
    """For a terminal."""
    rows = [HEAD, *_rows(trends(samples))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([_said(_facts(history, samples, doubts, returns)), *lines])


def markdown(
    length: str,
    history: History,
    samples: Sequence[Sample],
    doubts: Sequence[str],
    returns: int,
) -> str:
    """The page docs/endurance.md."""
    rows = [HEAD, ("---",) * len(HEAD), *_rows(trends(samples))]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return _PAGE.format(
        length=length, said=_said(_facts(history, samples, doubts, returns)), table=table
    )
