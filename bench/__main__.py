"""`python -m bench [SCENARIO…]`: measure, and print the table.

Speed decides nothing: the exit status is 0 whenever everything could be measured.
"""

import argparse
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from bench.machine import Others, machine
from bench.pinning import CLIENT, pinned
from bench.plan import Plan, quick
from bench.report import Report, as_text
from bench.rows import Row
from bench.scenarios import SCENARIOS, curves
from bench.server import ROOT

PAGE = ROOT / "docs" / "measurements.md"


def main() -> None:
    options = _arguments()
    # Whoever ends this early finds no server of it left.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.directory) as directory:
        plan = quick(Path(directory)) if options.quick else Plan(Path(directory))
        report = _measure(plan, options.scenarios or [*SCENARIOS, curves.NAME])
    print(as_text(report))
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    if options.write_docs:
        # Only here is the library for pictures needed.
        from bench.page import write

        write(report, options.write_docs)


def _measure(plan: Plan, names: list[str]) -> Report:
    others = Others()
    rows: list[Row] = []
    points: list[curves.Point] = []
    with pinned(CLIENT):
        for name in names:
            print(f"measuring {name}", file=sys.stderr, flush=True)
            if name == curves.NAME:
                points = curves.run(plan)
            else:
                rows += SCENARIOS[name](plan)
    where = f"{machine(plan.directory)} Others took {others.share():.0%} of the CPUs meanwhile."
    return Report(time.time(), where, plan.is_quick, rows, points)


def _arguments() -> argparse.Namespace:
    known = [*SCENARIOS, curves.NAME]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(known))
    parser.add_argument("--quick", action="store_true", help="little of everything, in seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there too")
    parser.add_argument("--directory", help="where servers write (default: as for any temporary)")
    parser.add_argument(
        "--write-docs",
        type=Path,
        nargs="?",
        const=PAGE,
        metavar="PAGE",
        help="put a whole run's figures into this page (default: docs/measurements.md)",
    )
    options = parser.parse_args()
    if unknown := set(options.scenarios) - set(known):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    if options.write_docs and options.scenarios:
        parser.error("--write-docs needs every scenario")
    return options


if __name__ == "__main__":
    main()
