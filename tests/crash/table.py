"""The results of a sweep as tables: operations × points → outcome."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from crash.bench import Result
from crash.cases import STEPS, Operation

HEAD = """\
# What becomes of an operation that a crash has cut

Made by `make sweep`. The daemon was killed (SIGKILL) at each point that an operation passes and
started again; the points are those of `DEBUG.trigger kill-at`: `MICRO_OP:before` (intent
written, effect not begun), `MICRO_OP:after` (effect done, not yet recorded), `journal:append`
and `journal:end`, with the number of the passing where there are several. What is one durable
record has no points and was killed at moments spread over the call. In the second table of each
operation the recovery was killed too, at the step named. After each, the simulator's world, the
state directory and the daemon's answers were held against what the interface promises: the VM
as allowed, every task ended, the journal empty, nothing left over; and the VM could still be
stopped, started and removed without a trace.
"""


def rows(operation: Operation, results: Sequence[Result]) -> Iterator[tuple[str, str, str, str]]:
    """(killed at, recovery killed at, the VM then, its task); alike neighbours as one."""
    mine = [r for r in results if r.case.operation is operation and r.case.is_killed]
    pointed = [r for r in mine if r.case.point]
    whole = next((r for r in results if r.case.operation is operation and r.points), None)
    pointed.sort(key=lambda r: _order(r, () if whole is None else whole.points))
    for (second, outcome), group in groupby(pointed, lambda r: (_second(r), _outcome(r))):
        yield (", ".join(_points([r.case.point for r in group])), second, *outcome)
    yield from _moments([r for r in mine if not r.case.point and not r.case.second], "")
    yield from _moments([r for r in mine if not r.case.point and r.case.second], "each step")


def _moments(mine: Sequence[Result], second: str) -> Iterator[tuple[str, str, str, str]]:
    """Which of the outcomes a moment has is chance: all of them as one row."""
    if mine:
        words = " or ".join(sorted({_outcome(r)[0] for r in mine}))
        tasks = "; ".join(sorted({_outcome(r)[1] for r in mine} - {""}))
        yield f"{len(mine)} moments", second, words, tasks


def text(operations: Sequence[Operation], results: Sequence[Result]) -> str:
    """For a terminal."""
    lines: list[str] = []
    for operation in operations:
        lines.append(f"\n{operation.name}")
        for killed, second, word, task in rows(operation, results):
            after = f" then {second}" if second else ""
            lines.append(f"    {killed}{after} -> {word}{'; ' + task if task else ''}")
    return "\n".join(lines)


def markdown(operations: Sequence[Operation], results: Sequence[Result]) -> str:
    """For the documentation."""
    kills = sum(r.case.is_killed for r in results)
    again = sum(bool(r.case.second) for r in results)
    failed = sum(bool(r.failure) for r in results)
    parts = [HEAD, f"{kills} crashes, {again} of them with a second one; {failed} failed.\n"]
    for operation in operations:
        table = list(rows(operation, results))
        allowed = ", ".join(sorted(end or "unchanged" for end in operation.ends))
        parts.append(f"## {operation.name}\n\nMay end: {allowed}.\n")
        parts += _table(["killed at", "the VM is then", "its task"], _single(table))
        parts += _table(
            ["killed at", "and its recovery at", "the VM is then", "its task"],
            [row for row in table if row[1]],
        )
    return "\n".join(parts)


def _single(table: Sequence[tuple[str, str, str, str]]) -> list[tuple[str, ...]]:
    return [(killed, word, task) for killed, second, word, task in table if not second]


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *body]
    return ["\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"]


def _outcome(result: Result) -> tuple[str, str]:
    if result.failure:
        return "FAILED", result.failure
    return result.word or "unchanged", result.task


def _second(result: Result) -> str:
    step = result.case.second.partition(",")[0]
    return step if result.died_again or not step else f"{step} (not passed)"


def _order(result: Result, passed: Sequence[str]) -> tuple[int, ...]:
    """Where in the operation it was killed: single kills first, the journal's after the rest."""
    case = result.case
    point, _, n = case.point.rpartition(",")
    at = [i for i, other in enumerate(passed) if other == point]
    step = case.second.partition(",")[0]
    return (
        STEPS.index(step) + 1 if step else 0,
        point.startswith("journal:") + point.startswith("journal:end"),
        at[int(n) - 1] if len(at) >= int(n) else 0,
    )


def _points(points: Sequence[str]) -> list[str]:
    """`vm_create:before` … as few words as say it."""
    named = [_named(p, points) for p in points]
    found: list[str] = []
    for kind, group in groupby(named, lambda n: n.rpartition(":")[0]):
        items = list(group)
        if kind == "journal" and len(items) > 1:
            numbers = [n for n in items if n.startswith("journal:append")]
            first, last = numbers[0].partition(" ")[2], numbers[-1].partition(" ")[2]
            found.append(f"`journal:append` {first or 1} to {last or 1}")
            found += [f"`{n}`" for n in items if n.startswith("journal:end")]
        else:
            found += [f"`{n}`" for n in items]
    return found


def _named(point: str, points: Sequence[str]) -> str:
    name, _, n = point.rpartition(",")
    many = sum(p.rpartition(",")[0] == name for p in points) > 1
    return f"{name} {n}" if many or n != "1" else name
